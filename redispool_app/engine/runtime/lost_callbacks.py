"""Callbacks that asyncio drops when ``call_soon`` raises: a future is done, but the task that awaits it never wakes.

asyncio marks a future as done first and then schedules its callbacks, one ``call_soon`` each. ``call_soon`` of
asyncio's own event loop is Python code, so a signal handler can raise in it; the callback is then neither scheduled nor
kept by the future. But the frame in which it was raised still holds it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any


def schedule_lost_callbacks(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Schedule the callback that ``error``, raised inside ``loop.call_soon``, kept from being scheduled.

    Does nothing if ``error`` was raised elsewhere, or after the callback had been scheduled. A loop whose ``call_soon``
    is written in C (uvloop) cannot be interrupted there.
    """
    code = getattr(getattr(loop.call_soon, "__func__", None), "__code__", None)
    trace = error.__traceback__
    while code is not None and trace is not None:
        if trace.tb_frame.f_code is code:
            _schedule(loop, trace.tb_frame.f_locals)
        trace = trace.tb_next


def _schedule(loop: asyncio.AbstractEventLoop, call: dict[str, Any]) -> None:
    callback, args = call["callback"], call["args"]
    for handle in tuple(getattr(loop, "_ready", ())):
        if handle._callback is callback and handle._args == args:
            return
    loop.call_soon(callback, *args, context=call["context"])


def abort(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Call ``transport.abort()``; if that is interrupted, finish it and raise.

    asyncio would not do the rest at a second call, and would go on watching a descriptor that a later socket may have.
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
        raise
