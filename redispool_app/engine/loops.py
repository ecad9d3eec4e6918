"""One asyncio client per running event loop, closed when its loop ends.

A connection belongs to one loop. Each loop's client is held by an async generator: ``asyncio.run`` awaits
``loop.shutdown_asyncgens()``, whose ``finally`` closes the client while the loop still runs. A loop that ends
without that is found closed by ``sweep``.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

from .async_client import AsyncRedis
from .async_pool import AsyncPool
from .runtime import fork
from .runtime.fork import mark
from .statistics import PastStatistics, Statistics


class LoopClient:
    """One event loop's client, its pool and the lock that its health checks queue behind."""

    __slots__ = ("__weakref__", "check_lock", "client", "keeper", "loop_ref", "pool")

    def __init__(self, loop: asyncio.AbstractEventLoop, client: AsyncRedis, pool: AsyncPool) -> None:
        self.loop_ref = weakref.ref(loop)
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


class LoopClients:
    """The clients of all loops of this process, by loop. Safe to use from any thread."""

    def __init__(self, build: Callable[[], tuple[AsyncRedis, AsyncPool]]) -> None:
        self._build = build
        # No lock: each change is one step, and what a caller finds in between is counted or closed all the same.
        self.by_loop: dict[int, LoopClient] = {}
        self._retired: list[LoopClient] = []
        self._past = PastStatistics()
        fork.register(self.after_fork_in_child)

    def current(self) -> LoopClient | None:
        """Return the running loop's client if it has one."""
        loop = asyncio.get_running_loop()
        entry = self.by_loop.get(id(loop))
        # A loop that ended can leave its id to the next one.
        return entry if entry is not None and entry.loop_ref() is loop else None

    async def open(self) -> LoopClient:
        """Return the running loop's client, building it if need be. No I/O.

        Raises ``RuntimeError`` on an event loop that existed before the process was forked.
        """
        loop = fork.use_running_loop()
        entry = self.current()
        if entry is not None:
            return entry
        self.sweep()
        entry = LoopClient(loop, *self._build())
        # The first step registers the generator with this loop; it does not suspend.
        entry.keeper = self._keep(entry)
        self.by_loop[id(loop)] = entry
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
        entries = list(self.by_loop.values())
        self._retired.extend(entries)
        for entry in entries:
            self._drop(entry)
        return entries

    def call_each(self, function: Callable[[LoopClient], None]) -> None:
        """Let every loop that runs call ``function`` with its client, soon."""
        if not mark[0]:
            fork.renew()
        for entry in list(self.by_loop.values()):
            loop = entry.loop_ref()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(function, entry)

    def sweep(self) -> None:
        """Close what closed loops left behind."""
        if not mark[0]:
            fork.renew()
        for entry in self._entries():
            loop = entry.loop_ref()
            if loop is None or loop.is_closed():
                entry.pool.abandon()
                self._forget(entry)

    def stats(self) -> list[dict[str, int]]:
        """Return one JSON-ready dict for each loop's pool."""
        return [pool_numbers(entry.pool) for entry in list(self.by_loop.values())]

    def statistics(self) -> Statistics:
        """Return what the shared connections of all loops have done, those that ended included."""
        total = self._past.total()
        for entry in self._entries():
            if entry.pool._sharing is not None:
                total.add(entry.pool._sharing.statistics)
        return total

    def _entries(self) -> list[LoopClient]:
        """Return the clients in service and those that were taken out of it, each once."""
        return list({id(entry): entry for entry in [*self.by_loop.values(), *self._retired]}.values())

    def after_fork_in_child(self) -> None:
        """In a forked child: the parent's loops do not run here, and their clients must not be closed."""
        _graveyard.extend([*self.by_loop.values(), *self._retired])
        self.by_loop.clear()  # the manager reads this very dict
        self._retired = []
        self._past = PastStatistics()

    async def _keep(self, entry: LoopClient) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if not mark[0]:
                fork.renew()  # then there is nothing left to close
            self._drop(entry)
            try:
                await entry.pool.drain(0)
            finally:
                self._forget(entry)

    def _forget(self, entry: LoopClient) -> None:
        """A client's loop has ended; its totals stay."""
        self._drop(entry)
        with contextlib.suppress(ValueError):
            self._retired.remove(entry)
        # It stays with its pool: whoever still has the client is told that this is closed.
        sharing = entry.pool._sharing
        if sharing is not None:
            fresh = Statistics()
            past, sharing.statistics = sharing.statistics, fresh
            self._past.add(past)

    def _drop(self, entry: LoopClient) -> None:
        for key, value in list(self.by_loop.items()):
            if value is entry:
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


_graveyard: list[LoopClient] = []
"""Clients inherited through a fork; kept so that no finaliser closes what is the parent's."""
