"""Calls a function that may block, in a thread of its own, for callers that each wait no longer than they may.

Callers that want the same at the same time share one call. A call that never returns costs a few threads, however many
callers there are. No lock is held while the function runs, or while anything here changes.
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
"""A call that has taken so many seconds may never return: the next caller begins another ..."""

_MOST_AT_ONCE = 3
"""... unless so many run already."""


class BlockingCall:
    """One call under way. ``value`` or ``error`` is there once it is ``ended``; ``began`` is in monotonic seconds."""

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
        """Wait up to ``timeout`` seconds, None for ever; return whether the call has ended."""
        if self._held.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            self._held.release()  # for the next caller that waits
        return self.ended

    async def wait_async(self, timeout: float | None) -> bool:
        """The twin of ``wait``."""
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
"""Calls that may not have ended yet, by what they are for. Two threads that add at once may each have a call."""


def begin(key: Any, function: Callable[[], Any]) -> BlockingCall:
    """Return the call for ``key`` that is under way, else begin it: ``function`` runs in a daemon thread."""
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
    except RuntimeError:  # an interpreter that shuts down, and uWSGI's master, start no threads
        run()
    else:
        _running[key] = (*calls, call)
    return call


def oldest(key: Any) -> float | None:
    """Return when the oldest call for ``key`` that is under way began, in monotonic seconds; None without one."""
    return min((call.began for call in _under_way(key)), default=None)


def _under_way(key: Any) -> tuple[BlockingCall, ...]:
    return tuple(call for call in _running.get(key, ()) if not call.ended)


# In a forked child the threads that run these calls are not there.
fork.register(_running.clear)
