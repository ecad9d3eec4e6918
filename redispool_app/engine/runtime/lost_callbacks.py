"""Repairs what asyncio loses when ``call_soon`` or ``call_later`` raises: a callback, or the order of its timers.

asyncio first marks a future as done and then schedules its callbacks, one ``call_soon`` each. ``call_soon`` of
asyncio's own event loop is Python code, so a signal handler can raise in it. The callback is then neither scheduled nor
kept by the future. But the frame in which the exception was raised still refers to it.

asyncio keeps its timers in a heap, and compares them in Python code. An exception there leaves a timer behind a later
one, which may be many seconds away. Further timers can end up behind it. uvloop has no such heap.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import ref

from redis.exceptions import RedisError

_struck_at = -math.inf
_ORDINARY = (RedisError, OSError, asyncio.CancelledError, GeneratorExit)


def struck_at() -> float:
    """Return when a foreign exception last hit code of this package on an event loop, in monotonic seconds."""
    return _struck_at


def run_of_loop() -> Callable[[], Any]:
    """Return an object that identifies this run of the running event loop; see ``has_run_ended``.

    It keeps nothing alive.
    """
    hook = sys.get_asyncgen_hooks().firstiter  # each run sets its own
    return (lambda: None) if hook is None else ref(hook)


def has_run_ended(run: Callable[[], Any]) -> bool:
    """Whether this is another run.

    An exception that ends a run can lose a callback; the next run goes on with the rest.
    """
    return run() is not sys.get_asyncgen_hooks().firstiter


def note_strike(error: BaseException) -> None:
    """Record that ``error`` was raised, unless connections and their callers raise it themselves."""
    global _struck_at
    if not isinstance(error, _ORDINARY):
        _struck_at = monotonic()


def schedule_lost_callbacks(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Schedule the callback that ``error``, raised inside ``loop.call_soon``, kept from being scheduled.

    Put the timers in order if ``error`` was raised inside ``loop.call_at``. Do nothing if it was raised elsewhere, or
    after the callback had been scheduled. A loop whose methods are written in C (uvloop) cannot be interrupted there.
    """
    note_strike(error)
    soon, at = _code_of(loop.call_soon), _code_of(loop.call_at)
    trace = error.__traceback__
    while soon is not None and trace is not None:
        code = trace.tb_frame.f_code
        if code is soon:
            _schedule(loop, trace.tb_frame.f_locals)
        elif code is at:
            put_timers_in_order(loop)
        trace = trace.tb_next


def put_timers_in_order(loop: asyncio.AbstractEventLoop) -> None:
    """Let each timer of ``loop`` run at its time again, after an exception has broken their order."""
    timers = getattr(loop, "_scheduled", None)
    if isinstance(timers, list):
        with suppress(RuntimeError):  # a signal handler has added one meanwhile
            heapq.heapify(timers)


def _code_of(method: Any) -> Any:
    return getattr(getattr(method, "__func__", None), "__code__", None)


def _schedule(loop: asyncio.AbstractEventLoop, call: dict[str, Any]) -> None:
    callback, args = call["callback"], call["args"]
    for handle in tuple(getattr(loop, "_ready", ())):
        if handle._callback is callback and handle._args == args:
            return
    loop.call_soon(callback, *args, context=call["context"])


def abort(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Call ``transport.abort()``. If that is interrupted, finish it and raise.

    asyncio would not do the rest at a second call. It would go on watching a descriptor that a later socket may get.
    """
    try:
        transport.abort()
    except BaseException as error:
        schedule_lost_callbacks(loop, error)
        with suppress(RuntimeError, AttributeError):  # not begun, or no socket any more
            descriptor = transport.get_extra_info("socket").fileno()
            loop.remove_reader(descriptor)
            loop.remove_writer(descriptor)
        transport.abort()
        _end(transport, loop)
        raise


def _end(transport: Any, loop: Any) -> None:
    """End a transport of asyncio that has noted its end and was kept from scheduling it."""
    while hasattr(transport, "_ssl_protocol"):
        transport = transport._ssl_protocol._transport
    callback = getattr(transport, "_call_connection_lost", None)
    if callback is None or not getattr(transport, "_conn_lost", 0) or getattr(transport, "_sock", None) is None:
        return
    if not any(handle._callback == callback for handle in tuple(getattr(loop, "_ready", ()))):
        loop.call_soon(callback, None)
