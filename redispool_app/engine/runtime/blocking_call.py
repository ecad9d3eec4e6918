"""Runs a function that may block in its own thread, for callers that each wait for a limited time.

Callers with the same key at the same time share one call. A call that never returns uses only a few threads, for any
number of callers. No lock is held while the function runs, or while anything here changes.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from . import fork, threads

_AGAIN_AFTER = 2.0
"""A call that has taken this many seconds may never return. The next caller then begins another one ..."""

_MOST_AT_ONCE = 3
"""... unless this many run already."""


class BlockingCall:
    """One call in progress. ``value`` or ``error`` is set once it is ``ended``. ``began`` is in monotonic seconds."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.began = monotonic()
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._listeners: list[Callable[[], None]] = []
        self._held = threading.Lock()
        self._held.acquire()

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            with suppress(RuntimeError):
                self._held.release()
            for listener in list(self._listeners):
                listener()

    def wait(self, timeout: float | None) -> bool:
        """Wait up to ``timeout`` seconds (None: no limit). Return whether the call has ended."""
        if self._held.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            self._held.release()  # for the next waiting caller
        return self.ended

    async def wait_async(self, timeout: float | None) -> bool:
        """Async version of ``wait``."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)

        self._listeners.append(wake)
        if not self.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await ended.wait()
        return self.ended


_running: dict[Any, tuple[BlockingCall, ...]] = {}
"""Calls that may not have ended yet, by key. Two threads that add at the same time may each have a call."""


def begin(key: Any, function: Callable[[], Any]) -> BlockingCall:
    """Return the call in progress for ``key``. If there is none, run ``function`` in a daemon thread."""
    calls = _under_way(key)
    if calls and (len(calls) >= _MOST_AT_ONCE or monotonic() - calls[-1].began < _AGAIN_AFTER):
        return calls[-1]
    call = BlockingCall(function)

    def run() -> None:
        try:
            context.run(call.run)
        finally:
            _running[key] = left = _under_way(key)
            if not left:
                _running.pop(key, None)

    context = contextvars.copy_context()
    try:
        threads.start(run, name="redispool-blocking-call")
    except RuntimeError:  # at interpreter shutdown, and in uWSGI's master, no thread can start
        run()
    else:
        _running[key] = (*calls, call)
    return call


def oldest(key: Any) -> float | None:
    """Return when the oldest call in progress for ``key`` began, in monotonic seconds; None without one."""
    return min((call.began for call in _under_way(key)), default=None)


def _under_way(key: Any) -> tuple[BlockingCall, ...]:
    return tuple(call for call in _running.get(key, ()) if not call.ended)


# In a forked child the threads of these calls do not run.
fork.register(_running.clear)
