"""One asyncio client per running event loop, closed when its loop ends.

A connection belongs to one loop. An async generator holds each loop's client. ``asyncio.run`` awaits
``loop.shutdown_asyncgens()``, and the generator's ``finally`` closes the client while the loop still runs. ``sweep``
finds loops that ended without that.

A loop may also be dropped without being closed. So only the loop itself keeps its client, and everything else refers to
it weakly. If the loop is garbage, so is the client, and its finalizer closes the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

from redispool_app.engine.client.client_async import AsyncRedis
from redispool_app.engine.pool.pool_async import AsyncPool
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.stats.counters import PastStatistics, Statistics


class LoopClient:
    """One event loop's client, its pool, and the lock that is held during its health checks."""

    __slots__ = ("__weakref__", "check_lock", "client", "generation", "keeper", "loop_ref", "owner", "pool")

    def __init__(
        self, owner: LoopClients, loop: asyncio.AbstractEventLoop, client: AsyncRedis, pool: AsyncPool
    ) -> None:
        self.loop_ref = weakref.ref(loop)
        self.owner: LoopClients | None = owner
        """The object that counts this client; None once its loop has ended."""
        self.generation = fork.generation
        self.client = client
        self.pool = pool
        self.check_lock = asyncio.Lock()
        self.keeper: AsyncGenerator[None, None] | None = None

    async def close(self, timeout: float) -> None:
        """Drain the pool for up to ``timeout`` seconds and end the keeper. Must run on this client's loop."""
        await self.pool.drain(timeout)
        keeper, self.keeper = self.keeper, None
        if keeper is not None:
            await keeper.aclose()

    def __del__(self) -> None:
        if not mark[0]:
            fork.renew()
        if self.owner is not None and self.generation == fork.generation:
            self.owner.end(self)


class LoopClients:
    """The clients of all loops of this process, by loop. Safe to use from any thread."""

    def __init__(self, build: Callable[[], tuple[AsyncRedis, AsyncPool]]) -> None:
        self._build = build
        # No lock: each change is one step, and a client found between two steps is counted or closed all the same.
        self.by_loop: dict[int, weakref.ref[LoopClient]] = {}
        self._retired: list[weakref.ref[LoopClient]] = []
        self._past = PastStatistics()
        fork.register(self.after_fork_in_child)

    def current(self) -> LoopClient | None:
        """Return the running loop's client, if it has one."""
        loop = asyncio.get_running_loop()
        reference = self.by_loop.get(id(loop))
        entry = reference() if reference is not None else None
        # A new loop can have the id of an ended one.
        return entry if entry is not None and entry.loop_ref() is loop else None

    def all(self) -> list[LoopClient]:
        """Return the clients in service."""
        return [entry for reference in list(self.by_loop.values()) if (entry := reference()) is not None]

    async def open(self) -> LoopClient:
        """Return the running loop's client. Build it if needed. No I/O.

        Raises ``RuntimeError`` on an event loop that existed before the process was forked.
        """
        loop = fork.use_running_loop()
        entry = self.current()
        if entry is not None:
            return entry
        self.sweep()
        # Finalizers run in the order in which objects were created: the client's must come before those of its
        # transports.
        held: list[LoopClient] | None = getattr(loop, _HELD, None)
        if held is None:
            held = []
            setattr(loop, _HELD, held)
        entry = LoopClient(self, loop, *self._build())
        held.append(entry)
        # The first step registers the generator with this loop. It does not suspend.
        entry.keeper = self._keep(entry)
        self.by_loop[id(loop)] = weakref.ref(entry)
        await anext(entry.keeper)
        return entry

    def retire_current(self) -> LoopClient | None:
        """Take the running loop's client out of service. The caller closes it."""
        if not mark[0]:
            fork.renew()
        entry = self.current()
        if entry is not None:
            self._drop(entry)
        return entry

    def retire_all(self) -> list[LoopClient]:
        """Take every client out of service. The caller closes those whose loop still runs."""
        if not mark[0]:
            fork.renew()
        entries = self.all()
        self._retired.extend(map(weakref.ref, entries))
        for entry in entries:
            self._drop(entry)
        return entries

    def call_each(self, function: Callable[[LoopClient], None]) -> None:
        """Schedule a call of ``function`` with its client on every running loop."""
        if not mark[0]:
            fork.renew()
        for entry in self.all():
            loop = entry.loop_ref()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(function, entry)

    def sweep(self) -> None:
        """Close what ended loops left behind."""
        if not mark[0]:
            fork.renew()
        for entry in self._entries():
            loop = entry.loop_ref()
            if loop is None or loop.is_closed():
                self.end(entry)

    def end(self, entry: LoopClient) -> None:
        """Close the sockets of a client whose loop has ended without that. Takes no lock: a finalizer calls it."""
        entry.pool.abandon()
        self._forget(entry)
        keeper, entry.keeper = entry.keeper, None
        if keeper is not None:
            # It has nothing to wait for. The garbage collector would hand it to the loop.
            with contextlib.suppress(StopIteration, RuntimeError):
                keeper.aclose().send(None)

    def stats(self) -> list[dict[str, int]]:
        """Return one JSON-ready dict for each loop's pool."""
        return [pool_numbers(entry.pool) for entry in self.all()]

    def statistics(self) -> Statistics:
        """Return the counters of the shared connections of all loops, including those that ended."""
        total = self._past.total()
        for entry in self._entries():
            if entry.pool._sharing is not None:
                total.add(entry.pool._sharing.statistics)
        return total

    def _entries(self) -> list[LoopClient]:
        """Return the clients in service and those taken out of it, each once."""
        retired = [entry for reference in list(self._retired) if (entry := reference()) is not None]
        return list({id(entry): entry for entry in [*self.all(), *retired]}.values())

    def after_fork_in_child(self) -> None:
        """In a forked child: the parent's loops do not run here, and their clients must not be closed."""
        _graveyard.extend(self._entries())
        self.by_loop.clear()  # the manager reads this very dict
        self._retired = []
        self._past = PastStatistics()

    async def _keep(self, entry: LoopClient) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if not mark[0]:
                fork.renew()  # then there is nothing left to close
            if entry.owner is not None:
                self._drop(entry)
                try:
                    await entry.pool.drain(0)
                finally:
                    self._forget(entry)

    def _forget(self, entry: LoopClient) -> None:
        """A client's loop has ended. Its totals stay."""
        entry.owner = None
        self._drop(entry)
        loop = entry.loop_ref()
        held: list[LoopClient] = getattr(loop, _HELD, [])
        with contextlib.suppress(ValueError):
            held.remove(entry)
        with contextlib.suppress(ValueError):
            self._retired.remove(weakref.ref(entry))
        # The flag stays on its pool: a caller that still has the client gets ``PoolClosed``.
        sharing = entry.pool._sharing
        if sharing is not None:
            fresh = Statistics()
            past, sharing.statistics = sharing.statistics, fresh
            self._past.add(past)

    def _drop(self, entry: LoopClient) -> None:
        for key, reference in list(self.by_loop.items()):
            if reference() in (entry, None):
                self.by_loop.pop(key, None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread; None without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def pool_numbers(pool: Any) -> dict[str, int]:
    """Return the present numbers of a pool."""
    state = pool.state
    # A connection object outlives its socket: a failed one is idle and unconnected until it is used again.
    idle = sum(1 for connection in state.idle if connection._counted)
    in_use = state.in_use
    sharing = pool._sharing
    shared = sharing.connections if sharing is not None else 0
    nested: int = getattr(sharing, "nested_connections", 0)
    return {
        "connections_open": idle + sum(1 for connection in in_use if connection._counted) + shared + nested,
        "connections_shared": shared,
        "commands_in_flight": sharing.in_flight if sharing is not None else 0,
        "connections_in_use": len(in_use),
        "connections_idle": idle,
        "connections_max": pool.max_connections,
        "waiting": len(state.waiters) + (sharing.waiting if sharing is not None else 0),
        "waiting_max": state.max_waiting,
    }


_HELD = "_redispool_clients"
"""The attribute of an event loop that keeps its clients, one for each pool."""

_graveyard: list[LoopClient] = []
"""Clients inherited through a fork. Kept so that no finaliser closes the parent's sockets."""
