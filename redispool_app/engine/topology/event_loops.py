"""One asyncio client per running event loop, closed when its loop ends.

A connection belongs to one loop. Each loop's client is held by an async generator: ``asyncio.run`` awaits
``loop.shutdown_asyncgens()``, whose ``finally`` closes the client while the loop still runs. A loop that ends
without that is found closed by ``sweep``.

A loop may also be dropped without being closed. So only the loop itself keeps its client and everything else refers to
it weakly: when the loop is garbage, the client is, too, and its finalizer closes the sockets.
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
    """One event loop's client, its pool and the lock that is held during its health checks."""

    __slots__ = ("__weakref__", "check_lock", "client", "generation", "keeper", "loop_ref", "owner", "pool")

    def __init__(
        self, owner: LoopClients, loop: asyncio.AbstractEventLoop, client: AsyncRedis, pool: AsyncPool
    ) -> None:
        self.loop_ref = weakref.ref(loop)
        self.owner: LoopClients | None = owner
        """What counts this client; None once its loop has ended."""
        self.generation = fork.generation
        self.client = client
        self.pool = pool
        self.check_lock = asyncio.Lock()
        self.keeper: AsyncGenerator[None, None] | None = None

    async def close(self, timeout: float) -> None:
        """Drain the pool for up to ``timeout`` seconds and let the keeper go. Must run on this client's loop."""
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
        # No lock: each change is one step, and what a caller finds in between is counted or closed all the same.
        self.by_loop: dict[int, weakref.ref[LoopClient]] = {}
        self._retired: list[weakref.ref[LoopClient]] = []
        self._past = PastStatistics()
        fork.register(self.after_fork_in_child)

    def current(self) -> LoopClient | None:
        """Return the running loop's client if it has one."""
        loop = asyncio.get_running_loop()
        reference = self.by_loop.get(id(loop))
        entry = reference() if reference is not None else None
        # A loop that ended can leave its id to the next one.
        return entry if entry is not None and entry.loop_ref() is loop else None

    def all(self) -> list[LoopClient]:
        """Return the clients in service."""
        return [entry for reference in list(self.by_loop.values()) if (entry := reference()) is not None]

    async def open(self) -> LoopClient:
        """Return the running loop's client, building it if need be. No I/O.

        Raises ``RuntimeError`` on an event loop that existed before the process was forked.
        """
        loop = fork.use_running_loop()
        entry = self.current()
        if entry is not None:
            return entry
        self.sweep()
        # Finalizers run in the order in which objects were made: the client's must come before those of its transports.
        held: list[LoopClient] | None = getattr(loop, _HELD, None)
        if held is None:
            held = []
            setattr(loop, _HELD, held)
        entry = LoopClient(self, loop, *self._build())
        held.append(entry)
        # The first step registers the generator with this loop; it does not suspend.
        entry.keeper = self._keep(entry)
        self.by_loop[id(loop)] = weakref.ref(entry)
        await anext(entry.keeper)
        return entry

    def retire_current(self) -> LoopClient | None:
        """Take the running loop's client out of service; the caller closes it."""
        if not mark[0]:
            fork.renew()
        entry = self.current()
        if entry is not None:
            self._drop(entry)
        return entry

    def retire_all(self) -> list[LoopClient]:
        """Take every client out of service; the caller closes those whose loop still runs."""
        if not mark[0]:
            fork.renew()
        entries = self.all()
        self._retired.extend(map(weakref.ref, entries))
        for entry in entries:
            self._drop(entry)
        return entries

    def call_each(self, function: Callable[[LoopClient], None]) -> None:
        """Let every loop that runs call ``function`` with its client, soon."""
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
            # It has nothing to wait for. Left to the collector, it would be handed to the loop.
            with contextlib.suppress(StopIteration, RuntimeError):
                keeper.aclose().send(None)

    def stats(self) -> list[dict[str, int]]:
        """Return one JSON-ready dict for each loop's pool."""
        return [pool_numbers(entry.pool) for entry in self.all()]

    def statistics(self) -> Statistics:
        """Return what the shared connections of all loops have done, those that ended included."""
        total = self._past.total()
        for entry in self._entries():
            if entry.pool._sharing is not None:
                total.add(entry.pool._sharing.statistics)
        return total

    def _entries(self) -> list[LoopClient]:
        """Return the clients in service and those that were taken out of it, each once."""
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
        """A client's loop has ended; its totals stay."""
        entry.owner = None
        self._drop(entry)
        loop = entry.loop_ref()
        held: list[LoopClient] = getattr(loop, _HELD, [])
        with contextlib.suppress(ValueError):
            held.remove(entry)
        with contextlib.suppress(ValueError):
            self._retired.remove(weakref.ref(entry))
        # It stays with its pool: a caller that still has the client is told that the pool is closed.
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
    """Return the event loop that runs in this thread, None where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def pool_numbers(pool: Any) -> dict[str, int]:
    """Return what a pool's state says now."""
    state = pool.state
    # A connection object outlives its socket: one that failed lies idle, unconnected, until it is used again.
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
"""Clients inherited through a fork; kept so that no finaliser closes what is the parent's."""
