"""All connections of one process to one server: a client per event loop, one for all threads, and one monitor.

The manager wraps this. It does not use Django.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any
from weakref import ref

from redis import DriverInfo
from redis import exceptions as redis_exceptions
from redis.maint_notifications import MaintNotificationsConfig

from redispool_app import __version__
from redispool_app.engine.client.client_async import AsyncRedis
from redispool_app.engine.client.client_sync import SyncRedis
from redispool_app.engine.client.login import Login, ask_shared_soon, send_shared_soon
from redispool_app.engine.connection.connection_async import ASYNC_CLASSES
from redispool_app.engine.connection.connection_sync import SYNC_CLASSES
from redispool_app.engine.health.monitor import Listener, Monitor
from redispool_app.engine.health.state import Health
from redispool_app.engine.pool.pool_async import AsyncPool
from redispool_app.engine.pool.pool_sync import SyncPool
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.client_name import client_name
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.runtime.lost_callbacks import has_run_ended, run_of_loop, struck_at
from redispool_app.engine.runtime.single_flight import LOOK_AGAIN, Flight
from redispool_app.engine.runtime.token_stream import ListenedProvider, listened
from redispool_app.engine.stats.counters import PastStatistics, Statistics
from redispool_app.exceptions import PoolClosed

from .event_loops import LoopClient, LoopClients, pool_numbers, running_loop
from .ping_async import ping
from .ping_sync import ping_sync
from .settings import PoolSettings

on_client_built: list[Callable[[], None]] = []
"""Called when a client is built: once per event loop, once for all threads, again after a fork. Must not block."""

_EMBEDDED_START = 10.0
_GRACE = 0.5
_ATTEMPTS = 3  # a check can end without a verdict: its event loop ends, or a reset cuts it


_LOST_AFTER = 1.0
"""Seconds after which a check that may have been interrupted is repeated. A second PING costs little."""

_VERDICTS = (redis_exceptions.RedisError, OSError, PoolClosed)
"""Errors of a check itself."""


class _Check(Flight[bool]):
    """A check by a task of an event loop."""

    __slots__ = ("_loop", "_run")

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        super().__init__(task)
        self._loop = ref(asyncio.get_running_loop())
        self._run = run_of_loop()

    @property
    def may_be_lost(self) -> bool:
        """Whether the check takes long, and an exception has hit its event loop (the running one) since it began."""
        if monotonic() - self.began <= _LOST_AFTER or self._loop() is not asyncio.get_running_loop():
            return False
        return has_run_ended(self._run) or struck_at() >= self.began - _LOST_AFTER


class PoolSet:
    """Clients for every loop and thread of this process, behind one health state."""

    def __init__(self, settings: PoolSettings, listener: Listener | None = None) -> None:
        self.settings = settings
        self.health = Health(
            interval=settings.check_interval,
            backoff_base=settings.backoff_base,
            backoff_cap=settings.backoff_cap,
        )
        self.monitor = Monitor(
            settings.alias,
            settings.where,
            self.health,
            self._probe,
            self._patience(),
            max_waiting=settings.max_waiting,
            slow_command=settings.slow_command,
            client_name=None if settings.app is None else partial(client_name, settings.app, settings.alias),
            listener=listener,
        )
        self.monitor.on_outage = self._close_stale_idle
        self.monitor.on_login = self._logged_in
        self._provider = listened(settings.connection_kwargs.get("credential_provider"))
        if isinstance(self._provider, ListenedProvider):
            self._provider.on_next(self._retire_dedicated)
        self.loops = LoopClients(self._build_async)
        self._sync: tuple[SyncRedis, SyncPool] | None = None
        self._past = PastStatistics()
        self._tasks: set[asyncio.Task[None]] = set()
        fork.register(self.after_fork_in_child)

    # Clients. Building one does no I/O.

    async def open(self) -> LoopClient:
        """Return the running loop's client and pool."""
        return await self.loops.open()

    def sync_client(self) -> SyncRedis:
        """Return the client that all threads share."""
        return self._sync_pair()[0]

    def _sync_pair(self) -> tuple[SyncRedis, SyncPool]:
        pair = self._sync
        if pair is None:
            if not mark[0]:
                fork.renew()
            pool = SyncPool(
                connection_class=self.settings.sync_class or SYNC_CLASSES[self.settings.kind],
                **self._pool_kwargs(),
            )
            own = (SyncRedis(connection_pool=pool), pool)
            # In one step, without a call: the first pair stays, and another has done no I/O yet.
            self._sync = pair = self._sync or own
            if pair is own:
                _tell_built()
        return pair

    def _build_async(self) -> tuple[AsyncRedis, AsyncPool]:
        pool = AsyncPool(
            connection_class=self.settings.async_class or ASYNC_CLASSES[self.settings.kind],
            **self._pool_kwargs(),
        )
        _tell_built()
        return AsyncRedis(connection_pool=pool), pool

    def _pool_kwargs(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "max_connections": self.settings.max_connections,
            "max_waiting": self.settings.max_waiting,
            "timeout": self.settings.timeout,
            "sharing_limits": self.settings.sharing,
            "max_idle_time": self.settings.max_idle_time,
            "max_lifetime": self.settings.max_lifetime,
            # Off: they would cost every RESP3 connection a command that only one vendor's servers know.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "driver_info": DriverInfo().add_upstream_driver("django-redispool-app", __version__),
            **self.settings.connection_kwargs,
            **({} if self._provider is None else {"credential_provider": self._provider}),
        }

    def _retire_dedicated(self, token: Any) -> None:
        """There is a new token. Dedicated connections are replaced when they are free; the shared ones log in."""
        self.monitor.retire_connections()

    # Checks: the first caller that joins the flight sends the PING; the others share its result.

    async def check(self) -> bool:
        """PING now, or share a running PING. Return whether the server is healthy.

        Raises ``RuntimeError`` on an event loop that existed before the process was forked.
        """
        loop, longest = fork.use_running_loop(), None
        for _ in range(_ATTEMPTS):
            if self.monitor.closed:
                return False
            own, task = _Check(asyncio.current_task()), None
            try:
                flight = self.monitor.claim(own, longest)
                if flight is own:
                    # A task of its own: if the caller is cancelled, the others still get the result.
                    task = loop.create_task(self._check(own))
                    self._keep_task(task)
            finally:
                if task is None:
                    own.ended = True
            if task is None and own.is_nested_in(flight):
                await self._check(own)
                break
            if await self._wait_for_check(flight):
                longest = _LOST_AFTER
            if task is not None and self.monitor.closed:
                await asyncio.wait([task], timeout=_GRACE)  # it closes what it has opened
            if flight.has_landed:
                break
        return self.health.is_healthy

    async def _wait_for_check(self, flight: Flight[bool]) -> bool:
        """Wait for a check to end. Return early, with True, if the event loop has lost a step of its task."""
        until = monotonic() + self._patience()
        while not (flight.has_landed or flight.is_over) and (left := until - monotonic()) > 0:
            if isinstance(flight, _Check) and flight.may_be_lost:
                return True
            await flight.wait_async(min(left, LOOK_AGAIN))
        return False

    def check_sync(self, timeout: float | None = None) -> bool:
        """The same for threads. With a ``timeout`` (seconds, in place of ``check_timeout``) no check is shared."""
        for _ in range(_ATTEMPTS):
            if self.monitor.closed:
                return False
            own: Flight[bool] = Flight()
            try:
                flight = self.monitor.claim(own)
                # A flight that this very thread leads cannot go on before this call returns.
                if flight is own or own.is_nested_in(flight):
                    self._check_sync(timeout)
                    break
            finally:
                own.ended = True
                own.leave()
            flight.wait(self._patience())
            # The deadline of another caller does not decide a check that has its own deadline.
            if flight.has_landed and timeout is None:
                break
        return self.health.is_healthy

    async def _check(self, own: Flight[bool]) -> None:
        try:
            if self.settings.embedded is not None and not self.health.is_healthy:
                await asyncio.to_thread(self.settings.embedded.ensure_running, _EMBEDDED_START)
            try:
                latency = await self._ping()
            except _VERDICTS:
                raise
            except Exception:
                # As from a signal handler: meant for the code that it interrupted. A second one is a failure.
                latency = await self._ping()
        except Exception as error:
            self.monitor.failed(error)
        else:
            self.monitor.passed(latency)
        finally:
            own.ended = True  # also without a result: the waiters check again
            own.leave()
        # Closed during this check: the connection that it opened is not needed.
        if self.monitor.closed and (late := self.loops.retire_current()) is not None:
            await late.close(0)

    async def _ping(self) -> float:
        for _ in range(_ATTEMPTS - 1):
            entry = await self.loops.open()
            try:
                return await ping(entry.pool, self.settings.check_timeout)
            except Exception:
                # A reset may have cut this check, which says nothing about the server. The next pool decides.
                if self.monitor.closed or self.loops.current() is entry:
                    raise
        return await ping((await self.loops.open()).pool, self.settings.check_timeout)

    def _check_sync(self, timeout: float | None) -> None:
        try:
            latency = self._probe(timeout)
        except Exception as error:
            self.monitor.failed(error)
        else:
            self.monitor.passed(latency)
        if self.monitor.closed and (late := self._retire_sync()) is not None:
            late.drain(0)

    def _probe(self, timeout: float | None = None) -> float:
        if self.settings.embedded is not None and not self.health.is_healthy:
            self.settings.embedded.ensure_running(_EMBEDDED_START)
        seconds = timeout or self.settings.check_timeout
        for _ in range(_ATTEMPTS - 1):
            pair = self._sync_pair()
            try:
                return ping_sync(pair[1], seconds)
            except Exception:
                # As above.
                if self.monitor.closed or self._sync is pair:
                    raise
        return ping_sync(self._sync_pair()[1], seconds)

    def _patience(self) -> float:
        """Seconds to wait for another caller's check: its own limits and a little more."""
        starting = _EMBEDDED_START if self.settings.embedded is not None else 0.0
        return self.settings.check_timeout + starting + _GRACE

    def _close_stale_idle(self, since: float) -> None:
        """In an outage, close idle shared connections made before it: they may have died without notice."""
        self.loops.call_each(lambda entry: _close_stale_idle(entry.pool, since))
        if (pair := self._sync) is not None:
            _close_stale_idle(pair[1], since)

    def _logged_in(self, login: Login, pool: AsyncPool | SyncPool) -> None:
        """AUTH was accepted on ``pool``: let every other pool, and later ones, use the same password."""
        login.keep(self.settings.connection_kwargs)
        self.loops.call_each(lambda entry: _log_in_soon(entry.pool, login) if entry.pool is not pool else None)
        if (pair := self._sync) is not None and pair[1] is not pool:
            login.adopt(pair[1])
            ask_shared_soon(pair[1]._sharing, login)

    # Ending.

    async def drain(self, timeout: float) -> None:
        """Take every client out of service, let running commands finish for ``timeout`` seconds, then cut them."""
        waits: list[asyncio.Future[Any]] = []
        here = asyncio.get_running_loop()
        for entry in self.loops.retire_all():
            loop = entry.loop_ref()
            if loop is here:
                waits.append(here.create_task(entry.close(timeout)))
            elif loop is not None and loop.is_running():
                submitted = asyncio.run_coroutine_threadsafe(entry.close(timeout), loop)
                waits.append(asyncio.wrap_future(submitted))
            else:
                entry.pool.state.closed = True  # its loop closes its connections, or ``sweep`` after the loop has ended
        pool = self._retire_sync()
        if pool is not None:
            if pool.is_busy:
                waits.append(here.create_task(asyncio.to_thread(pool.drain, timeout)))
            else:
                pool.drain(0)
        if waits:
            await asyncio.wait(waits, timeout=timeout + _GRACE)
        self.loops.sweep()

    def drain_sync(self, timeout: float) -> None:
        """The same from sync code. A loop of this very thread closes its client when it goes on."""
        waits: list[concurrent.futures.Future[Any]] = []
        here = running_loop()
        for entry in self.loops.retire_all():
            loop = entry.loop_ref()
            if loop is not None and loop is here:
                self._keep_task(loop.create_task(entry.close(timeout)))
            elif loop is not None and loop.is_running():
                waits.append(asyncio.run_coroutine_threadsafe(entry.close(timeout), loop))
            else:
                entry.pool.state.closed = True  # its loop closes its connections, or ``sweep`` after the loop has ended
        if (pool := self._retire_sync()) is not None:
            pool.drain(timeout)
        concurrent.futures.wait(waits, timeout=timeout + _GRACE)
        self.loops.sweep()

    def _retire_sync(self) -> SyncPool | None:
        pair, self._sync = self._sync, None
        if pair is not None and pair[1]._sharing is not None:
            self._past.add(pair[1]._sharing.statistics)
        return pair[1] if pair is not None else None

    def _keep_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    # Queries.

    def stats(self) -> dict[str, int | float | None]:
        """Return the numbers of all pools of this process, added up."""
        self.loops.sweep()
        pools = self.loops.stats()
        totals: dict[str, int | float | None] = {"loops": len(pools)}
        pair = self._sync
        if pair is not None:
            pools.append(pool_numbers(pair[1]))
        for key in (
            "connections_open",
            "connections_shared",
            "commands_in_flight",
            "connections_in_use",
            "connections_idle",
            "connections_max",
            "waiting",
            "waiting_max",
        ):
            totals[key] = sum(numbers[key] for numbers in pools)
        totals["waiting"] = (totals["waiting"] or 0) + self.monitor.pause.waiting
        totals.update(self.statistics().as_dict())
        return totals

    def statistics(self) -> Statistics:
        """Return the counters of the shared connections of all loops and threads, including those that ended."""
        total = self.loops.statistics()
        total.add(self._past.total())
        pair = self._sync
        if pair is not None and pair[1]._sharing is not None:
            total.add(pair[1]._sharing.statistics)
        return total

    def after_fork_in_child(self) -> None:
        """In a forked child: the clients and tasks belong to the parent. The first use creates new ones."""
        _graveyard.append((self._sync, self._tasks))
        self._sync = None
        self._past = PastStatistics()
        self._tasks = set()


def _close_stale_idle(pool: AsyncPool | SyncPool, since: float) -> None:
    if pool._sharing is not None:
        pool._sharing.close_stale_idle(since)


def _log_in_soon(pool: AsyncPool, login: Login) -> None:
    """Called by the event loop of ``pool``."""
    login.adopt(pool)
    send_shared_soon(pool._sharing, login)


def _tell_built() -> None:
    for hook in tuple(on_client_built):
        tell(hook)


_graveyard: list[Any] = []
"""What a forked child must neither use nor finalise."""
