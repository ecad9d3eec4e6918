"""Who in this process computes a missing value, and who waits for it; among threads, or among one event loop's callers.

A thread can be interrupted between any two calls. So a flight is marked as left before anything else is done to end
it, whoever comes takes the place of one that was left, and whoever waits looks again after a while.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from redispool_app.engine.runtime import fork

LOOK_AGAIN = 0.5
"""Who waits for a flight looks every so many seconds whether it was left."""

Name = tuple[str, str]
"""Pool and key."""


class Flight:
    """One computation of this process, or its wait for another's: those who wait get the bytes it lands with."""

    __slots__ = ("data", "left")

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.left = False
        """Whether whoever made it is gone, or about to be."""

    def land(self, data: bytes | None) -> None:
        """Wake those who wait; with None each of them tries for itself, unless it has landed with data before."""
        if data is not None:
            self.data = data
        self._wake()

    def _wake(self) -> None:
        raise NotImplementedError


class ThreadFlight(Flight):
    """A flight that threads wait for."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        super().__init__()
        # A plain lock, not an event: an interrupt inside the Python code of that leaves its lock held.
        self._held = threading.Lock()
        self._held.acquire()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it has landed before
            self._held.release()

    def wait(self, seconds: float) -> None:
        """Wait until it lands, but no longer than ``seconds``."""
        if self._held.acquire(timeout=seconds):
            self._wake()  # the next who waits


class LoopFlight(Flight):
    """A flight that coroutines of one event loop wait for."""

    __slots__ = ("_landed",)

    def __init__(self) -> None:
        super().__init__()
        self._landed = asyncio.Event()

    def _wake(self) -> None:
        self._landed.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it lands, but no longer than ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._landed.wait()


AnyFlight = TypeVar("AnyFlight", bound=Flight)


class Flights(Generic[AnyFlight]):
    """What is under way, by name. No lock: each change is one call of a dict."""

    __slots__ = ("_under_way", "make")

    def __init__(self, make: type[AnyFlight]) -> None:
        self.make = make
        """Makes a flight that nobody knows of yet."""
        self._under_way: dict[Name, AnyFlight] = {}

    def join(self, name: Name, own: AnyFlight) -> AnyFlight:
        """Return the flight to wait for; if there is none, ``own``, which is under way from now on."""
        flight = self._under_way.setdefault(name, own)
        if flight.left:
            self._under_way[name] = flight = own
        return flight

    def leave(self, name: Name, own: AnyFlight) -> None:
        """Let those who wait for ``own``, which is marked as left, go on; also if it never was under way."""
        if self._under_way.get(name) is own:
            self._under_way.pop(name, None)
        own.land(None)


_of_threads = Flights(ThreadFlight)
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Flights[LoopFlight]] = WeakKeyDictionary()


def of_threads() -> Flights[ThreadFlight]:
    """Return the flights of all threads of this process."""
    return _of_threads


def of_this_loop() -> Flights[LoopFlight]:
    """Return the flights of the running event loop."""
    loop = asyncio.get_running_loop()
    flights = _of_loops.get(loop)
    if flights is None:
        flights = _of_loops[loop] = Flights(LoopFlight)
    return flights


def _after_fork_in_child() -> None:
    # Nobody in a forked child makes its parent's flights.
    global _of_threads
    _of_threads = Flights(ThreadFlight)


fork.register(_after_fork_in_child)
