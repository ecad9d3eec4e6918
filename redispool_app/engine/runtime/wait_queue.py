"""One queue for every kind of wait: callers stand in line and are woken in the order in which they came.

Nothing is handed over here, so nothing can be lost on the way. What the callers wait for (a free connection, room, the
end of a pause) stays where it is. A caller that is woken takes it by itself, in one step, or waits again. So each step
may be repeated, by any thread, and may be interrupted anywhere. The rules for the users of a queue:

* A giver puts what it brings in its place first, and calls ``wake_first`` then.
* A caller that must wait appends its waiter, calls ``wake_first`` for what has come meanwhile, and waits.
* A caller that leaves, served or not, removes its waiter and then calls ``wake_first``: its turn goes to the next.

There is no lock and no condition variable, so a signal handler or a finalizer may use a queue at any point of the same
thread. CPython runs other threads, handlers and finalizers only after a call, and entering and leaving are single calls
in C. In a ``finally`` block, ``remove`` must be the first call: then no interrupt can leave a waiter behind.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

LOOK_AGAIN = 1.0
"""A caller that waits calls ``wake_first`` every so many seconds: the giver may have been interrupted before it did."""

_SPARE = 0.05
"""Seconds after the end of a wait at which it is ended once more."""


class Waiter(Protocol):
    """One caller in the queue. ``owner`` tells for whom it waits, where that matters."""

    owner: Any

    def wake(self) -> None:
        """End the wait, from any thread. May be called again, and before the wait begins."""


class ThreadWaiter:
    """A thread that blocks until it is woken."""

    __slots__ = ("_turn", "owner")

    def __init__(self, owner: Any = None) -> None:
        # A plain lock, not an event: the Python code of that one can be interrupted while it holds a lock of its own.
        self._turn = threading.Lock()
        self._turn.acquire()
        self.owner = owner

    def wake(self) -> None:
        with suppress(RuntimeError):  # woken already
            self._turn.release()

    def wait(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds; return whether this caller was woken. It may wait again afterwards."""
        return self._turn.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))


class LoopWaiter:
    """A task of an event loop that waits until it is woken. Must be made in that loop."""

    __slots__ = ("_future", "_loop", "owner", "woken")

    def __init__(self, owner: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self.owner = owner
        self.woken = False

    def wake(self) -> None:
        # Also from the loop's own thread: a signal handler may run while the loop waits for the network, and the loop
        # would not notice the future before its next event.
        if self.woken:
            return
        with suppress(RuntimeError):  # the loop has ended, and its callers with it
            self._loop.call_soon_threadsafe(self.wake_here)

    def wake_here(self) -> None:
        """The same, from a callback or task of the waiter's own loop, without a system call."""
        self.woken, future = True, self._future
        if future is not None:
            _end(future)

    async def wait(self, timeout: float | None) -> bool:
        """Wait up to ``timeout`` seconds, None for ever; return whether this caller was woken. It may wait again."""
        # Not ``asyncio.wait``, which takes three times as long. A wake-up at the last moment is seen by ``woken``.
        self._future = future = self._loop.create_future()
        timers: list[asyncio.TimerHandle] = []
        try:
            if timeout is not None:
                # Two: what a signal handler raises within the first would leave this caller waiting.
                ends = (timeout, timeout + _SPARE)
                timers.extend(self._loop.call_later(max(0.0, seconds), _end, future) for seconds in ends)
            if not self.woken:
                await future
        finally:
            for timer in timers:
                timer.cancel()
        woken, self.woken = self.woken, False
        return woken


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class WaitQueue(deque[Any]):
    """The callers that wait, in the order in which they came: ``append`` enters, ``remove`` leaves."""

    def has_place(self, waiter: Waiter, most: int) -> bool:
        """Whether ``waiter``, which is in the queue, is among the first ``most``."""
        return len(self) <= most or self.index(waiter) < most

    def wake_first(self, count: int) -> None:
        """Wake the first ``count`` callers; those that were woken before and have not left yet are among them."""
        for place in range(min(count, len(self))):
            try:
                waiter = self[place]
            except IndexError:  # some have left, and each wakes the next
                return
            waiter.wake()

    def wake_first_here(self, count: int) -> None:
        """Do the same where all callers are tasks of the running event loop, without a system call."""
        for waiter in tuple(islice(self, count)):
            if not waiter.woken:
                waiter.wake_here()

    def wake_all(self, owner: Any = None) -> None:
        """Wake all callers, or those that wait for ``owner``: what they wait for has ended."""
        for waiter in list(self):
            if owner is None or waiter.owner is owner:
                waiter.wake()
