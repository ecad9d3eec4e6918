"""The queue for every kind of wait: callers are woken in the order in which they came.

The queue hands nothing over, so nothing can be lost on the way. What the callers wait for (a free connection, room, the
end of a pause) stays where it is. A woken caller takes it by itself, in one step, or waits again. So any thread may
repeat each step, and each step may be interrupted anywhere. Rules for the users of a queue:

* A giver first puts what it brings in its place, and then calls ``wake_first``.
* A caller that must wait appends its waiter, calls ``wake_first`` for what has come meanwhile, and waits.
* A caller that leaves, served or not, removes its waiter and then calls ``wake_first``: its turn goes to the next.
* If a task does not go on within ``LOOK_AGAIN`` of its turn, its event loop has lost it. The turn goes to the next.

There is no lock and no condition variable, so a signal handler or a finalizer may use a queue at any point of the same
thread. CPython runs other threads, handlers and finalizers only after a call. Entering and leaving are single C calls.
In a ``finally`` block, ``remove`` must be the first call: then no interrupt can leave a waiter behind.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, Protocol

LOOK_AGAIN = 1.0
"""Seconds between two calls of ``wake_first`` by a waiting caller. An interrupt may have prevented the giver's call."""

_LOOK = 0.25
"""Seconds between two checks for expired waits of an event loop."""


class Waiter(Protocol):
    """One caller in the queue. ``owner`` is the object it waits for, where that matters."""

    owner: Any

    @property
    def is_lost(self) -> bool:
        """Whether it was woken a while ago and has not gone on: its event loop has lost its step."""

    def wake(self) -> None:
        """End the wait, from any thread. May be called again, and before the wait begins."""


class ThreadWaiter:
    """A thread that blocks until it is woken."""

    __slots__ = ("_turn", "owner")

    is_lost = False

    def __init__(self, owner: Any = None) -> None:
        # A plain lock, not an event: an event's Python code can be interrupted while it holds a lock of its own.
        self._turn = threading.Lock()
        self._turn.acquire()
        self.owner = owner

    def wake(self) -> None:
        with suppress(RuntimeError):  # woken already
            self._turn.release()

    def wait(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds. Return whether this caller was woken. It may wait again afterwards."""
        return self._turn.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))


class _Looks:
    """Ends the expired waits of one event loop. A timer for each wait would cost more than the wait.

    While a task waits, two checks are always scheduled: an exception in the first would otherwise leave all waiting.
    """

    __slots__ = ("__weakref__", "_due", "_loop", "ends")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop, partial(_looks.pop, id(loop)))
        self._due: list[float] = []
        """When the next checks run (monotonic seconds)."""
        self.ends: dict[asyncio.Future[None], float] = {}
        """The waits, and when each expires."""

    def add(self, future: asyncio.Future[None], seconds: float) -> None:
        now = monotonic()
        self.ends[future] = now + seconds
        if not self._due or self._due[-1] < now + _LOOK / 2:
            self._schedule(now)

    def _schedule(self, now: float) -> None:
        loop = self._loop()
        if loop is None:
            return
        due = [at for at in self._due if at > now + _LOOK / 10]
        while len(due) < 2:
            at = (due[-1] if due else now) + _LOOK
            loop.call_later(at - now, self._look)
            due.append(at)
        self._due = due

    def _look(self) -> None:
        if not self.ends:
            return
        now = monotonic()
        self._schedule(now)  # first: after an interrupt the next check ends what is left
        for future, end in list(self.ends.items()):
            if end <= now:
                _end(future)
                self.ends.pop(future, None)


_looks: dict[int, _Looks] = {}
"""By the id of an event loop. A loop that is dropped takes its own entry along."""


class LoopWaiter:
    """A task of an event loop that waits until it is woken. Must be created in that loop."""

    __slots__ = ("_future", "_loop", "owner", "woken", "woken_at")

    def __init__(self, owner: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self.owner = owner
        self.woken = False
        self.woken_at = 0.0

    @property
    def is_lost(self) -> bool:
        return self.woken and monotonic() - self.woken_at > LOOK_AGAIN

    def wake(self) -> None:
        # Also from the loop's own thread: a signal handler may run while the loop waits for the network. The loop would
        # not notice the future before its next event.
        if self.woken:
            return
        with suppress(RuntimeError):  # the loop has ended, and its callers with it
            self._loop.call_soon_threadsafe(self.wake_here)

    def wake_here(self) -> None:
        """The same, from a callback or task of the waiter's own loop, without a system call."""
        if not self.woken:
            self.woken_at = monotonic()
        self.woken, future = True, self._future
        if future is not None:
            _end(future)

    async def wait(self, timeout: float | None) -> bool:
        """Wait up to ``timeout`` seconds (None: no limit). Return whether this caller was woken. It may wait again.

        A wait of ``LOOK_AGAIN`` seconds or more may end up to a quarter of a second late.
        """
        # Not ``asyncio.wait``, which takes three times as long. ``woken`` shows a wake-up at the last moment.
        loop, timer, looks = self._loop, None, None
        self._future = future = loop.create_future()
        try:
            if timeout is not None:
                looks = _looks.get(id(loop)) or _looks.setdefault(id(loop), _Looks(loop))
                looks.add(future, timeout)
                if timeout < LOOK_AGAIN:
                    timer = loop.call_later(max(0.0, timeout), _end, future)
            if not self.woken:
                await future
        finally:
            if looks is not None:
                looks.ends.pop(future, None)
            if timer is not None:
                timer.cancel()
        woken, self.woken = self.woken, False
        return woken


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class WaitQueue(deque[Any]):
    """The waiting callers, in the order in which they came: ``append`` enters, ``remove`` leaves."""

    def has_place(self, waiter: Waiter, most: int) -> bool:
        """Whether ``waiter``, which is in the queue, is among the first ``most``."""
        return len(self) <= most or self.index(waiter) < most

    def wake_first(self, count: int) -> None:
        """Wake the first ``count`` callers. Callers that were woken before and have not left yet are counted."""
        place = 0
        while count > 0:
            try:
                waiter = self[place]
            except IndexError:  # there are no more; or some have left, and each wakes the next
                return
            place += 1
            if not waiter.is_lost:
                count -= 1
                waiter.wake()

    def wake_first_here(self, count: int) -> None:
        """Do the same where all callers are tasks of the running event loop, without a system call."""
        start = 0
        while first := tuple(islice(self, start, start + count)):
            start, count = start + len(first), 0
            for waiter in first:
                if not waiter.woken:
                    waiter.wake_here()
                elif waiter.is_lost:
                    count += 1  # its turn goes to a later one

    def wake_all(self, owner: Any = None) -> None:
        """Wake all callers, or those that wait for ``owner``: what they wait for has ended."""
        for waiter in list(self):
            if owner is None or waiter.owner is owner:
                waiter.wake()
