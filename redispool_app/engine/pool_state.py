"""The state of a pool of exclusive connections: who has one, which lie idle, who waits.

Plain functions, no I/O and no waiting: the asyncio pool and the threads' pool share every decision made here and
differ only in how a caller waits. Not thread-safe by itself; the threads' pool holds its lock around each call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from redispool_app.exceptions import PoolClosed, PoolQueueFull

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


class Waiter(Protocol[C_contra]):
    """Somebody who waits for a connection and may have left by the time one is free."""

    def give(self, connection: C_contra) -> bool:
        """Accept the connection, or return False when the caller has left."""

    def refuse(self, error: Exception) -> None:
        """End the wait with an exception."""


class PoolState(Generic[C]):
    """At most ``max_connections`` in use at once, at most ``max_waiting`` callers waiting, first come first served."""

    def __init__(self, make: Callable[[], C], max_connections: int, max_waiting: int) -> None:
        self._make = make
        self.max_connections = max_connections
        self.max_waiting = max_waiting
        self.idle: list[C] = []
        self.idle_since: dict[C, float] = {}
        self.in_use: set[C] = set()
        self.waiters: deque[Waiter[C]] = deque()
        self.closed = False

    def take(self) -> C | None:
        """Return a connection (perhaps not connected yet), or None when the caller must wait.

        Raises ``PoolClosed``, or ``PoolQueueFull`` when as many callers wait as may.
        """
        connection = self.take_at_once()
        if connection is None and len(self.waiters) >= self.max_waiting:
            raise PoolQueueFull(
                f"All {self.max_connections} connections are in use and {len(self.waiters)} callers wait: "
                "raise MAX_CONNECTIONS or MAX_WAITING, or hold connections for less long."
            )
        return connection

    def take_at_once(self) -> C | None:
        """Return a connection (perhaps not connected yet), or None when all are in use. Raises ``PoolClosed``."""
        if self.closed:
            raise PoolClosed()
        if self.idle:
            # The one used last is the likeliest to be alive, and lets the others grow old.
            connection = self.idle.pop()
            self.idle_since.pop(connection, None)
        elif len(self.in_use) < self.max_connections:
            connection = self._make()
        else:
            return None
        self.in_use.add(connection)
        return connection

    def give_back(self, connection: C) -> bool:
        """Take a connection back. Return False when it must be disconnected: the pool is closed or never had it."""
        if connection not in self.in_use:
            return False
        self.in_use.discard(connection)
        if self.closed:
            return False
        while self.waiters:
            self.in_use.add(connection)
            if self.waiters.popleft().give(connection):
                return True
            self.in_use.discard(connection)
        self.idle.append(connection)
        self.idle_since[connection] = monotonic()
        return True

    def shrink(self, longest: float) -> list[C]:
        """Take out what has lain idle for more than ``longest`` seconds; return it, to be disconnected."""
        horizon = monotonic() - longest
        old = [connection for connection in self.idle if self.idle_since.get(connection, horizon) <= horizon]
        for connection in old:
            self.idle.remove(connection)
            self.idle_since.pop(connection, None)
        return old

    def leave(self, waiter: Waiter[C]) -> None:
        """A waiter gave up."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    def close(self) -> list[C]:
        """Refuse new work and everyone who waits; return the idle connections, to be disconnected."""
        self.closed = True
        while self.waiters:
            self.waiters.popleft().refuse(PoolClosed("The connection pool was closed while this caller waited."))
        idle, self.idle[:] = list(self.idle), []
        self.idle_since.clear()
        return idle
