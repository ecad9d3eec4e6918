"""The state of a pool of dedicated connections: which are idle, which are lent, how many more may be made.

Plain functions, no I/O, no waiting and no lock. The asyncio pool and the threads' pool share every decision made here.
They differ only in how a caller waits. A signal handler or a finalizer may use the pool between any two lines of it.

A pool has ``max_connections`` slots. A slot is in one place at a time: in ``free``, or in the lease of one borrower.
One C call moves it, so an interrupt finds it in one place or in the other. Numbers are counted from these places when
they are requested, and cannot drift.

A borrower that is interrupted before it has its connection drops its lease, which returns its slot. If a borrower loses
its connection later, ``reclaim`` finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any, Generic, TypeVar

from redispool_app.engine.runtime.wait_queue import WaitQueue
from redispool_app.exceptions import PoolClosed, PoolQueueFull

C = TypeVar("C")


class Slot(list[C]):
    """Room for one connection. It holds that connection while it is idle. ``since``: monotonic seconds."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since = 0.0


class Lease(Generic[C]):
    """What one borrower has: a slot or nothing, and its connection, which knows its lease."""

    slots: Any = ()
    connection: Any = None

    def __init__(self, state: PoolState[C]) -> None:
        self.state = state
        self.home = state.free
        self.thread = get_ident()
        self.slots = []

    def __del__(self) -> None:
        if self.slots:
            self.state.put_back(self)


def _references(leases: dict[int, Any], key: int) -> tuple[int, int]:
    """Return the number of references to a lease and to its connection. Counting adds some of them."""
    lease = leases[key]
    return sys.getrefcount(lease), sys.getrefcount(lease.connection)


def _references_without_borrower() -> tuple[int, int]:
    class Connection:
        _lease: Any = None

    class Pair:
        connection = Connection()

    leases = {0: Pair()}
    leases[0].connection = connection = Connection()
    connection._lease = leases[0]
    del connection
    return _references(leases, 0)


_LOST = _references_without_borrower()


class PoolState(Generic[C]):
    """At most ``max_connections`` lent at once, at most ``max_waiting`` callers waiting, first come first served.

    ``reserve`` is for calls that must not wait, because the caller they would wait for is below them on the same
    thread. One connection is kept for them beyond ``max_connections``. More are made while that one is lent.
    """

    def __init__(self, make: Callable[[], C], max_connections: int, max_waiting: int) -> None:
        self._make = make
        self.max_connections = max_connections
        self.max_waiting = max_waiting
        self.waiters = WaitQueue()
        """Callers that wait for a connection."""
        self.drainers = WaitQueue()
        """Callers that wait until no connection is lent."""
        self.closed = False
        self.forget()

    def forget(self) -> None:
        """Start with all slots free and no connection. Connections lent now no longer belong to the pool."""
        self.free: list[Slot[C]] = [Slot() for _ in range(self.max_connections)]
        self.reserve: list[Slot[C]] = []
        self._leases: dict[int, Lease[C]] = {}

    # Queries.

    @property
    def idle(self) -> list[C]:
        """Connections that no caller uses."""
        return [connection for slot in self._slots() for connection in list(slot)]

    @property
    def in_use(self) -> list[C]:
        """Connections that are lent."""
        return self.lent_except_to(None)

    def lent_except_to(self, thread: int | None) -> list[C]:
        """Return the lent connections without those that this thread has borrowed."""
        leases = list(self._leases.values())
        return [lease.connection for lease in leases if lease.slots and lease.thread != thread]

    @property
    def has_idle(self) -> bool:
        """Whether any connection is idle."""
        return any(self._slots())

    # Taking. Each method returns None if there is nothing to take, and raises ``PoolClosed``.

    def take(self, lease: Lease[C]) -> C | None:
        """Lend a connection that may not be connected yet, unless other callers wait for one already."""
        if not self.closed and len(self.free) <= len(self.waiters):
            return None
        return self.take_at_once(lease)

    def take_at_once(self, lease: Lease[C]) -> C | None:
        """Lend a connection that may not be connected yet, before the callers that wait for one."""
        if self.closed:
            raise PoolClosed()
        return self._move(self.free, lease)

    def take_reserve(self, lease: Lease[C]) -> C:
        """Lend a connection at once, if needed beyond ``max_connections``."""
        connection = self.take_at_once(lease)
        if connection is None:
            connection = self._move(self.reserve, lease)
        if connection is None:
            lease.home = self.reserve
            lease.slots = [Slot()]
            connection = self._lend(lease)
        return connection

    def reclaim(self) -> list[C]:
        """Take back a connection that only the pool still refers to. Return it, to be disconnected.

        An exception can hit a borrower after it has its connection and before the block that returns it.
        """
        found: list[C] = []
        for key in list(self._leases):
            with suppress(KeyError):  # it was returned just now
                if _references(self._leases, key) == _LOST:
                    lease = self._leases[key]
                    found.append(lease.connection)
                    self.put_back(lease)
        return found

    def leave(self, waiter: Any, *, here: bool = False) -> None:
        """A caller stops waiting. Its turn goes to the next one (``here``: see ``admit``)."""
        try:
            self.waiters.remove(waiter)
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)  # again: the first call fails if the stack or memory is full
            self.admit(here=here)

    def check_room(self, waiter: Any) -> None:
        """Raise ``PoolQueueFull`` if the maximum number of callers is in the queue before this one."""
        if not self.waiters.has_place(waiter, self.max_waiting):
            raise PoolQueueFull(
                f"All {self.max_connections} connections are in use and {self.max_waiting} callers wait: "
                "raise MAX_CONNECTIONS or MAX_WAITING, or return connections sooner."
            )

    def _move(self, source: list[Slot[C]], lease: Lease[C]) -> C | None:
        lease.home = source
        try:
            # The last used connection is the most likely to be alive. The others reach their idle limit.
            lease.slots.extend(map(source.pop, (-1,)))
        except IndexError:
            return None
        return self._lend(lease)

    def _lend(self, lease: Lease[C]) -> C:
        connection: Any
        try:
            connection = lease.slots[0].pop()
        except IndexError:
            connection = self._make()
        lease.connection, connection._lease = connection, lease
        self._leases[id(lease)] = lease
        return connection  # type: ignore[no-any-return]

    # Returning.

    def lease_of(self, connection: Any) -> Lease[C] | None:
        """Return the lease by which this pool has lent a connection; None if it has not, or has forgotten it."""
        lease: Lease[C] | None = getattr(connection, "_lease", None)
        if lease is None or lease.state is not self or (lease.home is not self.free and lease.home is not self.reserve):
            return None
        return lease

    def put_back(self, lease: Lease[C], connection: C | None = None, *, here: bool = False) -> bool:
        """Take a slot back, with ``connection`` to be kept in it, and wake the next caller. ``here``: see ``admit``.

        Return True if the connection is not kept and must be disconnected. Repeating the call changes nothing.
        """
        home, slots, kept = lease.home, lease.slots, False
        try:
            slot, move, now = slots[0], map(slots.pop, (-1,)), monotonic()
            if connection is not None and not self.closed:
                slot.since = now
                slot[:] = (connection,)
                kept = True
            # Nothing is called between the check and the step, so that only one is kept in reserve.
            if home is not self.reserve or not home:
                home.extend(move)
            else:
                kept = False
                slots.pop()
        except IndexError:  # it has been returned already
            kept = True
        self._leases.pop(id(lease), None)
        lease.connection = None
        self.admit(here=here)
        return not kept and connection is not None

    def admit(self, *, here: bool = False) -> None:
        """Wake as many callers as there are free slots. ``here``: from a task of the loop in which all callers wait."""
        if self.waiters:
            if here:
                self.waiters.wake_first_here(len(self.free))
            else:
                self.waiters.wake_first(len(self.free))
        if self.drainers:
            self.drainers.wake_all()

    # Ending.

    def take_out_expired(self, longest: float) -> list[C]:
        """Remove connections idle for more than ``longest`` seconds. Return them, to be disconnected."""
        horizon = monotonic() - longest
        return self._take_out(slot for slot in self._slots() if slot and slot.since <= horizon)

    def next_expiry(self, longest: float) -> float | None:
        """Seconds until a connection will have been idle for ``longest`` seconds; None if none is idle."""
        since = [slot.since for slot in self._slots() if slot]
        return max(0.0, min(since) + longest - monotonic()) if since else None

    def after_fork_in_child(self) -> None:
        """In a forked child: the connections and the waiting callers belong to the parent."""
        _graveyard.append((self.free, self.reserve, self._leases, list(self.waiters), list(self.drainers)))
        self.forget()
        self.waiters.clear()
        self.drainers.clear()

    def close(self) -> list[C]:
        """Refuse new work and all waiting callers. Return the idle connections, to be disconnected."""
        self.closed = True
        self.waiters.wake_all()
        return self._take_out(self._slots())

    def _slots(self) -> list[Slot[C]]:
        return [*self.free, *self.reserve]

    def _take_out(self, slots: Iterable[Slot[C]]) -> list[C]:
        connections: list[C] = []
        for slot in slots:
            # Empty slots stay in place: another connection may be made for each.
            with suppress(IndexError):
                connections.extend(map(slot.pop, (-1,)))
        return connections


_graveyard: list[Any] = []
"""What a forked child must neither use nor finalise."""
