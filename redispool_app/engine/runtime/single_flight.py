"""Single flight: of all callers that want the same result at once, one does the work and the others share the result.

Threads and tasks of any event loop may wait for the same flight. Each has its own timeout and its own waker. One call
of ``dict.setdefault`` decides which caller leads. Nothing here takes a lock that another caller could wait for.

User code (a signal handler, a finalizer, an exception thrown into a thread) can run between any two calls. So a leader
marks its flight as ended by a plain store, before it does anything else to leave it. The next caller then takes over.
With this pattern no interrupt leaves a flight behind:

    own = Flight()
    try:
        flight = flights.join(own)
        if flight is own:
            own.land(work())
    finally:
        own.ended = True
        own.leave()

``SingleFlight.lead()`` is this pattern for work that returns its result.

A caller whose own thread or task leads the flight (``own.is_nested_in(flight)``) must not wait. It does its own work.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

from redis import exceptions as redis_exceptions

from . import fork
from .fork import mark

LOOK_AGAIN = 0.5
"""Seconds between two checks of a waiter whether the leader has left. An interrupt may have lost its waker."""

_NEXT = 0
_process = object()
"""Identifies this process. A forked child has another object."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flight(Generic[T]):
    """One piece of work, created by the caller that may lead it. ``task`` is its task, if it does not block its thread.

    ``began`` is in monotonic seconds. The leader sets ``ended`` when it has finished, failed or was interrupted.
    """

    __slots__ = ("_landed", "_leader", "_process", "_successor", "_wakers", "began", "ended", "thread")

    def __init__(self, task: asyncio.Task[Any] | None = None) -> None:
        self._process = _process
        self.began = monotonic()
        self.thread = threading.get_ident()
        # Weakly: the last flight is kept, and must not keep the event loop of its leader.
        self._leader = weakref.ref(task) if task is not None else None
        self.ended = False
        # Dicts of one entry: one step decides which value is stored first.
        self._landed: dict[int, tuple[T | None, BaseException | None]] = {}
        self._successor: dict[int, Flight[T]] = {}
        self._wakers: deque[Callable[[], object]] = deque()

    @property
    def has_landed(self) -> bool:
        """Whether there is a result or an error."""
        return bool(self._landed)

    @property
    def is_over(self) -> bool:
        """Whether another caller may take over: the leader has ended, or was a thread of the parent process."""
        return self.ended or self._process is not _process

    def is_nested_in(self, other: Flight[Any]) -> bool:
        """Whether the maker of this flight would wait for itself if it waited for ``other``."""
        if self.thread != other.thread or other.is_over:
            return False
        if self._leader is None or other._leader is None:
            return True  # one of them blocks the thread
        mine, leader = self._leader(), other._leader()
        if mine is None or leader is None:
            return False  # dropped with its event loop, which ends the flight
        return mine is leader or mine.get_loop() is not leader.get_loop()

    # Methods of the leader.

    def land(self, value: T) -> None:
        """Give ``value`` to the waiters. The first outcome stays."""
        self._landed.setdefault(0, (value, None))
        self.leave()

    def fail(self, error: BaseException) -> None:
        """Raise a copy of ``error`` for each waiter. The first outcome stays."""
        self._landed.setdefault(0, (None, error))
        self.leave()

    def leave(self) -> None:
        """Wake the waiters. May be called again."""
        wakers = self._wakers
        while wakers:
            with suppress(IndexError, RuntimeError):  # another call was faster; an event loop has ended
                wakers.popleft()()

    # Methods of the waiters.

    def wait(self, timeout: float) -> bool:
        """Block this thread until the flight has landed or ended, at most ``timeout`` seconds.

        Return whether it has.
        """
        if self._landed or self.is_over:
            return True
        until = monotonic() + timeout
        # A plain lock, not an event: an interrupt in the Python code of an event can leave its lock held.
        woken = threading.Lock()
        woken.acquire()
        self._wakers.append(woken.release)
        try:
            while not (self._landed or self.is_over):
                left = until - monotonic()
                if left <= 0:
                    return False
                woken.acquire(timeout=min(left, LOOK_AGAIN))
            return True
        finally:
            self._forget(woken.release)

    async def wait_async(self, timeout: float) -> bool:
        """Async version of ``wait``. Cancelling it does not affect the flight."""
        if self._landed or self.ended:
            return True
        until, loop = monotonic() + timeout, asyncio.get_running_loop()
        while not (self._landed or self.ended):
            left = until - monotonic()
            if left <= 0:
                return False
            woken: asyncio.Future[None] = loop.create_future()

            def wake(woken: asyncio.Future[None] = woken) -> None:
                loop.call_soon_threadsafe(_set, woken)

            self._wakers.append(wake)
            try:
                if not (self._landed or self.ended):
                    await asyncio.wait([woken], timeout=min(left, LOOK_AGAIN))
            finally:
                self._forget(wake)
        return True

    def result(self) -> T:
        """Return the value of a flight that has landed, or raise a copy of its error."""
        value, error = self._landed[0]
        if error is not None:
            raise copy_of(error) from error
        return value  # type: ignore[return-value]

    def _forget(self, waker: Callable[[], object]) -> None:
        with suppress(ValueError, IndexError):  # it was called
            self._wakers.remove(waker)


class SingleFlight(Generic[T]):
    """The flight for one thing. Flights form a chain in which each has one successor, so only one can lead."""

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest: Flight[T] = Flight()
        """The last flight. It is over if no caller leads."""
        self.latest.ended = True

    def join(self, own: Flight[T], longest: float = float("inf")) -> Flight[T]:
        """Return the flight in progress. If there is none, return ``own``, which its maker now leads.

        A flight that takes more than ``longest`` seconds is taken over.
        """
        _belongs_here(own)
        flight = self.latest
        while flight is not own and (flight.is_over or monotonic() - flight.began > longest):
            flight = flight._successor.setdefault(_NEXT, own)
        # Another thread may store an earlier one at the same time. Its chain leads here.
        self.latest = flight
        return flight

    def lead(
        self, own: Flight[T], work: Callable[[], T], is_shared: Callable[[Exception], bool] = lambda _: True
    ) -> Flight[T]:
        """Join. If ``own`` leads, do ``work`` and give its result to the waiters, or its exception if ``is_shared``.

        Returns the flight that leads. Raises what ``work`` raises.
        """
        try:
            flight = self.join(own)
            if flight is own:
                own.land(work())
        except Exception as error:
            if is_shared(error):
                own.fail(error)
            raise
        finally:
            own.ended = True
            own.leave()
        return flight


class Flights(Generic[K, T]):
    """The flights for many things, by key. A key is dropped when its flight ends.

    If two callers see the end of one flight at the same time, both may lead. The work is then done twice.
    """

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[K, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def join(self, key: K, own: Flight[T], is_stale: Callable[[Flight[T]], bool] = lambda _: False) -> Flight[T]:
        """Return the flight for ``key``.

        If there is none, or it is over or ``is_stale``, return ``own``, led by its maker.
        """
        _belongs_here(own)
        while (flight := self._under_way.setdefault(key, own)) is not own and (flight.is_over or is_stale(flight)):
            self._remove(key, flight)
        return flight

    def leave(self, key: K, own: Flight[T]) -> None:
        """Drop ``own``, which has ended, and wake its waiters, even if it was never in progress."""
        self._remove(key, own)
        own.leave()

    def _remove(self, key: K, flight: Flight[T]) -> None:
        if self._under_way.get(key) is flight:
            self._under_way.pop(key, None)


def _belongs_here(own: Flight[Any]) -> None:
    # Not when it is created: hooks that run in a forked child create flights.
    if not mark[0]:
        fork.renew()
    own._process = _process


def copy_of(error: BaseException) -> BaseException:
    """Return an equal exception. Many callers share a flight, and they must not share a traceback."""
    try:
        copy = type(error)(*error.args)
    except Exception:
        return redis_exceptions.ConnectionError(str(error))
    copy.__dict__.update(error.__dict__)
    return copy


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _after_fork_in_child() -> None:
    # The leaders of the parent's flights do not run here.
    global _process
    _process = object()


fork.register(_after_fork_in_child, first=True)
