"""The manager: one per alias and process, the way every view, task and command of a project talks to Redis."""

from __future__ import annotations

import logging
import os
import time
from asyncio import Lock, _get_running_loop, get_running_loop
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from typing import Any, ClassVar, Self, cast
from weakref import ref

from django.core.exceptions import ImproperlyConfigured
from redis import exceptions as redis_exceptions

from . import signals
from .conf.config import DEFAULT_ALIAS, RedisPoolConfig
from .conf.engine_settings import pool_settings
from .conf.registry import get_aliases, get_config
from .engine import AsyncRedis, SyncRedis
from .engine.health.faults import Fault, FaultKind, classify
from .engine.health.state import Health, HealthState
from .engine.runtime import fork, process
from .engine.runtime.client_name import client_name
from .engine.runtime.fork import mark
from .engine.runtime.gevent import UnsupportedRuntimeError, refuse_unsupported_runtime
from .engine.runtime.hooks import tell
from .engine.stats.counters import Statistics
from .engine.topology.event_loops import LoopClient
from .engine.topology.settings import PoolSettings
from .engine.topology.standalone import PoolSet
from .exceptions import PoolClosed

__all__ = ["RedisConnectionManager", "get_managers", "redis_connection_manager"]

logger = logging.getLogger("redispool_app.pool")

Hook = Callable[["RedisConnectionManager"], object]

on_pool_built: list[Hook] = []
"""Called with a manager whose pool set was built. These three lists are filled by ``AppConfig.ready``; a hook of them
does no I/O and raises nothing."""
on_connection_opened: list[Hook] = []
"""Called with a manager when one of its connections was opened."""
on_settings_reloaded: list[Hook] = []
"""Called with a manager that has forgotten its settings and its totals."""


class RedisConnectionManager:
    """The one manager of an alias in this process.

    ``RedisConnectionManager()`` and ``RedisConnectionManager("sessions")`` always
    return the same object for the same alias. Creating it reads no settings and does no I/O.
    """

    _instances: ClassVar[dict[tuple[type, str], RedisConnectionManager]] = {}

    alias: str

    def __new__(cls, alias: str = DEFAULT_ALIAS) -> Self:
        found = cls._instances.get((cls, alias))
        if found is None:
            if not mark[0]:
                fork.renew()
            own = super().__new__(cls)
            own._set_up(alias)
            # The first stays.
            found = cls._instances.setdefault((cls, alias), own)
        return cast(Self, found)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.alias,)

    def __repr__(self) -> str:
        pool_set = self._pool_set
        state = "closed" if self._closed else pool_set.health.state if pool_set else "unused"
        return f"<{type(self).__name__} {self.alias!r}: {state}>"

    def _set_up(self, alias: str) -> None:
        self.alias = alias
        self._settings_read = object()
        """Stands for what the settings say: another one once they may have changed."""
        self._closed = False
        self._lock_without_loop = Lock()
        self._announcer = signals.Announcer(self)
        self._settings_for: Callable[[str, RedisPoolConfig], PoolSettings] = pool_settings
        self._forget_pool_set()
        fork.register(self._after_fork_in_child)

    def _forget_pool_set(self) -> None:
        self._pool_set: PoolSet | None = None
        self._known_config: RedisPoolConfig | None = None
        # Read on the hot path, one attribute away.
        self._by_loop: dict[int, ref[LoopClient]] = {}
        self._health: Health | None = None

    # Configuration and state, for the modules of this app.

    @property
    def config(self) -> RedisPoolConfig:
        """The configuration in use. Raises ``ImproperlyConfigured``."""
        return self._config

    @property
    def known_config(self) -> RedisPoolConfig | None:
        """The configuration that the pool was built with; None before its first use."""
        return self._known_config

    @property
    def pool_set(self) -> PoolSet | None:
        """All connections of this alias; None before its first use."""
        return self._pool_set

    @property
    def health(self) -> Health | None:
        """The health of the pool; None before its first use."""
        return self._health

    @property
    def is_healthy(self) -> bool:
        """Whether the last check passed and nothing has failed since."""
        return self._is_healthy

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called last, and not ``initialize``."""
        return self._closed

    def build(self) -> PoolSet:
        """Return the pool set, made on first use. No I/O. Raises ``ImproperlyConfigured``."""
        return self._built()

    def require_open(self) -> PoolSet:
        """Return the pool set, made on first use. Raises ``PoolClosed`` and ``ImproperlyConfigured``."""
        return self._open()

    async def check(self) -> bool:
        """Send one real PING, or share the one under way; return whether the server is healthy. Does not raise."""
        return await self._health_check()

    def check_sync(self, timeout: float | None = None) -> bool:
        """The twin of ``check``; ``timeout`` (seconds) stands in for HEALTH_CHECK_TIMEOUT."""
        return self._health_check_sync(timeout)

    # The same under the names that code around the manager relies on.

    @property
    def _config(self) -> RedisPoolConfig:
        """The configuration in use. Raises ``ImproperlyConfigured``."""
        return self._known_config or get_config(self.alias)

    @property
    def _pool(self) -> AsyncRedis | None:
        """The running event loop's client, None before its first use."""
        try:
            reference = self._by_loop.get(id(loop := get_running_loop()))
        except RuntimeError:
            return None
        entry = reference() if reference is not None else None
        return entry.client if entry is not None and entry.loop_ref() is loop else None

    @property
    def _is_healthy(self) -> bool:
        return self._health is not None and self._health.is_healthy

    @_is_healthy.setter
    def _is_healthy(self, value: bool) -> None:
        pool_set = self._built()
        if value:
            pool_set.health.passed(pool_set.health.latency or 0.0)
        else:
            fault = Fault(FaultKind.UNKNOWN, "The pool was marked unhealthy; the next caller checks.")
            pool_set.health.mark_suspect(fault)
        pool_set.monitor.tell_changes()

    @property
    def _last_health_check(self) -> float:
        """When the last PING ended (monotonic seconds), 0.0 before the first."""
        return (self._health.last_check if self._health else None) or 0.0

    @_last_health_check.setter
    def _last_health_check(self, value: float) -> None:
        self._built().health.expire(value)

    @property
    def _health_check_lock(self) -> Lock:
        """The lock that the caller whose health check is under way on the running event loop holds."""
        try:
            reference = self._by_loop.get(id(get_running_loop()))
        except RuntimeError:
            reference = None
        entry = reference() if reference is not None else None
        return entry.check_lock if entry is not None else self._lock_without_loop

    # Async code.

    async def initialize(self) -> None:
        """Build this event loop's client and check the server's health at once; also reopens after ``close()``.

        Raises ``ImproperlyConfigured``, or ``RedisUnavailable`` when the check
        fails; the manager is unhealthy then and recovers by itself.
        """
        pool_set = self._reopened()
        await pool_set.open()
        await self._check_or_raise(pool_set)

    async def _check_or_raise(self, pool_set: PoolSet) -> None:
        if not await self._health_check():
            pool_set.monitor.ensure_available()
            raise pool_set.monitor.unavailable()

    async def get_client(self) -> AsyncRedis:
        """Return this event loop's client, ready for use.

        A healthy pool costs no I/O. Raises ``RedisUnavailable`` (in microseconds
        while an outage lasts), ``PoolClosed``, ``ImproperlyConfigured``.
        """
        return self.ready_client() or await self._get_checked_client()

    def ready_client(self) -> AsyncRedis | None:
        """Return what ``get_client`` would return at once: this event loop's client while its server is known healthy.

        None when there is something to await first: a client to build, a check that is due, an outage to be told.
        No I/O. For code that calls so often that the coroutine of ``get_client`` counts::

            client = manager.ready_client() or await manager.get_client()

        Raises ``RuntimeError`` outside of an event loop.
        """
        loop = _get_running_loop()
        reference = self._by_loop.get(id(loop))
        entry = reference() if reference is not None else None
        if entry is not None and monotonic() < self._health.now.fresh_until and entry.loop_ref() is loop:  # type: ignore[union-attr]
            return entry.client
        if loop is None:
            fork.use_running_loop()  # raises
        return None

    async def _get_checked_client(self) -> AsyncRedis:
        pool_set = self._open()
        if pool_set.monitor.pause.is_on:
            # Its first command waits. Nobody is refused for an outage that was announced.
            return (await pool_set.open()).client
        if pool_set.monitor.health.last_check is None:
            await self.initialize()
        entry = await pool_set.open()
        await self._periodic_health_check()
        pool_set.monitor.ensure_available()
        if not pool_set.health.is_healthy:
            raise pool_set.monitor.unavailable()
        return entry.client

    @asynccontextmanager
    async def get_connection(self) -> AsyncIterator[AsyncRedis]:
        """Yield the client. An exception in the block marks the pool unhealthy, so the next caller checks first.

        The exception is raised again as it is; a cancelled block says nothing about Redis.
        """
        client = await self.get_client()
        try:
            yield client
        except Exception as error:
            self._doubt(error)
            raise

    async def _health_check(self) -> bool:
        """Send one real PING, or share the one under way; return whether the server is healthy. Does not raise."""
        return await self._built().check()

    async def _periodic_health_check(self) -> None:
        """PING if a check is due; callers that find it due together cause one PING."""
        pool_set = self._built()
        if not pool_set.health.check_due():
            return
        await pool_set.open()
        lock = self._health_check_lock
        if lock.locked():
            # Its holder checks. No queue: an interrupted event loop can lose the step in which the lock is released.
            await self._health_check()
            return
        async with lock:
            await self._health_check()

    async def reset_pool(self) -> None:
        """Drop every connection of this process, running commands first allowed to finish, and connect again.

        Raises what ``initialize()`` raises, and ``PoolClosed`` when the manager is closed.
        """
        pool_set = self._open()
        await pool_set.drain(self._config.close_timeout)
        await self._check_or_raise(pool_set)

    async def close(self) -> None:
        """Refuse new work, let running commands finish for ``CLOSE_TIMEOUT`` seconds, then close every connection."""
        pool_set = self._shut()
        if pool_set is not None:
            await pool_set.drain(self._config.close_timeout)
            self._release_embedded(pool_set)
            self._announcer.closed()

    # Sync code: the same promises on blocking I/O.

    def get_sync_client(self) -> SyncRedis:
        """Return the blocking client that all threads share; raises what ``get_client`` raises."""
        if not mark[0]:
            fork.renew()
        health = self._health
        if health is not None and monotonic() < health.now.fresh_until and self._pool_set is not None:
            return self._pool_set.sync_client()
        pool_set = self._open()
        if pool_set.monitor.pause.is_on:
            return pool_set.sync_client()
        self._periodic_health_check_sync()
        pool_set.monitor.ensure_available()
        if not pool_set.health.is_healthy:
            raise pool_set.monitor.unavailable()
        return pool_set.sync_client()

    @contextmanager
    def get_sync_connection(self) -> Iterator[SyncRedis]:
        """Yield the blocking client; an exception in the block marks the pool unhealthy and is raised again."""
        client = self.get_sync_client()
        try:
            yield client
        except Exception as error:
            self._doubt(error)
            raise

    def initialize_sync(self) -> None:
        """Check the server's health at once; also reopens after ``close_sync()``. Raises what ``initialize`` raises."""
        self._check_or_raise_sync(self._reopened())

    def _check_or_raise_sync(self, pool_set: PoolSet) -> None:
        if not self._health_check_sync():
            pool_set.monitor.ensure_available()
            raise pool_set.monitor.unavailable()

    def _health_check_sync(self, timeout: float | None = None) -> bool:
        """The twin of ``_health_check``; ``timeout`` (seconds) stands in for HEALTH_CHECK_TIMEOUT."""
        return self._built().check_sync(timeout)

    def _periodic_health_check_sync(self) -> None:
        pool_set = self._built()
        if pool_set.health.check_due():
            pool_set.check_sync()

    def reset_sync(self) -> None:
        """The twin of ``reset_pool``."""
        pool_set = self._open()
        pool_set.drain_sync(self._config.close_timeout)
        self._check_or_raise_sync(pool_set)

    def close_sync(self) -> None:
        """The twin of ``close``."""
        pool_set = self._shut()
        if pool_set is not None:
            pool_set.drain_sync(self._config.close_timeout)
            self._release_embedded(pool_set)
            self._announcer.closed()

    # Facts.

    @property
    def is_down(self) -> bool:
        """Whether callers are refused at once: the manager is closed, or its outage is confirmed. No I/O."""
        pool_set = self._known()
        return self._closed or (pool_set is not None and pool_set.monitor.is_refusing)

    def get_pool_info(self) -> dict[str, Any]:
        """Return what is known about the pool: a flat, JSON-ready dict. No I/O, never raises, callable from anywhere.

        Times are in seconds, ``*_ms`` in milliseconds, ``last_health_check`` and ``since`` are Unix
        times, ``*_total`` count since the process started or forked. Numbers cover all event loops
        and threads of this process.
        """
        info: dict[str, Any] = {"alias": self.alias, "pid": os.getpid()}
        try:
            pool_set, config = self._built(), self._config
        except (ImproperlyConfigured, UnsupportedRuntimeError) as error:
            return {**info, "state": "misconfigured", "is_healthy": False, "fault": str(error), "config": {}}
        health, monitor = pool_set.health.newest(), pool_set.monitor
        counters, fault, warning, last_error, paused_for = (
            monitor.counters,
            health.fault,
            monitor.warning,
            monitor.last_error,
            monitor.pause.left(),
        )
        return {
            **info,
            "state": "closed" if self._closed else str(health.state),
            "is_healthy": health.state is HealthState.HEALTHY,
            "url": config.masked_url,
            "fault": fault.message if fault else None,
            "fault_kind": str(fault.kind) if fault else None,
            "warning": warning.message if warning else None,
            "warning_kind": str(warning.kind) if warning else None,
            "last_error": last_error.message if last_error else None,
            "last_error_kind": str(last_error.kind) if last_error else None,
            "retry_after": round(pool_set.health.retry_after(), 3),
            "since": _unix_time(health.since),
            "last_health_check": _unix_time(health.last_check) if health.last_check is not None else None,
            "latency_ms": round(health.latency * 1000, 3) if health.latency is not None else None,
            "health_checks_total": health.checks,
            **pool_set.stats(),
            "connections_opened_total": counters.opened,
            "connections_closed_total": counters.closed,
            "timeouts_total": counters.timeouts,
            "errors_total": counters.errors,
            "exhausted_total": counters.exhausted,
            "acquire_timeouts_total": counters.acquire_timeouts,
            "slow_commands_total": monitor.slow_commands.total,
            "paused": paused_for is not None,
            "paused_for": None if paused_for is None else round(paused_for, 3),
            "client_name": client_name(config.app, self.alias),
            "role": process.role(),
            "config": config.masked(),
        }

    def health_history(self) -> list[dict[str, Any]]:
        """Return the last 200 changes of this process's verdict about the server, oldest first, JSON-ready. No I/O.

        Each is ``{"at": Unix seconds, "state": str, "fault": str | None, "fault_kind": str | None}``.
        """
        pool_set = self._known()
        return [change.as_dict() for change in pool_set.health.history] if pool_set is not None else []

    def slow_commands(self) -> list[dict[str, Any]]:
        """Return the 32 callers of the last hour that waited longest, from ``SLOW_COMMAND`` seconds on. No I/O.

        Slowest first, JSON-ready: ``{"at": Unix seconds, "command": str, "duration_ms": float, "callers": int}``. A
        command is a name, never a key or value; of a pipeline the first one's, and how many more: ``"GET +9"``.
        ``callers`` waited for it side by side.
        """
        pool_set = self._known()
        return pool_set.monitor.slow_commands.as_list() if pool_set is not None else []

    def latency_histogram(self) -> tuple[list[tuple[float, int]], float]:
        """Return how many commands on shared connections took up to so many seconds, and the sum of all. No I/O.

        Cumulative ``(upper bound, count)`` pairs, the last bound infinite. A pipeline counts as one command. Counted
        since the process started or forked.
        """
        pool_set = self._known()
        return (pool_set.statistics() if pool_set is not None else Statistics()).histogram()

    # A planned failover.

    def pause(self, seconds: float = 30.0) -> None:
        """Hold back the new commands of this process, async and sync, for at most ``seconds`` (up to 300). No I/O.

        Commands under way finish. New ones wait, in order, until ``resume()`` or the end of the time, at most
        ``MAX_WAITING`` of them; the next gets ``PoolQueueFull``. Their own deadlines begin after that. While the pool
        is paused an outage refuses no caller, and health checks go on. Calling it again restarts the timer.

        Raises ``ValueError`` for another number of seconds, ``ImproperlyConfigured``.
        """
        self._built().monitor.pause.begin(seconds)
        extra = {"pool": self.alias, "state": "paused"}
        tell(logger.info, "Redis pool %r is paused for %g s.", self.alias, seconds, extra=extra)

    def resume(self) -> None:
        """End a pause: who waits goes on, in the order in which they came. No I/O."""
        pool_set = self._known()
        if pool_set is not None:
            pool_set.monitor.pause.end()

    # Life cycle.

    def _built(self) -> PoolSet:
        """Return the pool set, building it from the settings on first use. Raises ``ImproperlyConfigured``."""
        refuse_unsupported_runtime()
        if not mark[0]:
            fork.renew()
        pool_set = self._pool_set
        if pool_set is not None:
            return pool_set
        while pool_set is None:
            settings_read, config = self._settings_read, get_config(self.alias)
            own = PoolSet(self._settings_for(self.alias, config), self._announcer)
            # A forked child, or code that keeps a client, may use the pool without asking its manager.
            own.monitor.on_opened = partial(_call, on_connection_opened, self)
            by_loop, health = own.loops.by_loop, own.health
            if self._closed:
                health.forget(closed=True)
            # No call from here to the last store: the first pool set stays, and another has done no I/O yet.
            if self._pool_set is None and self._settings_read is settings_read:
                self._known_config, self._by_loop, self._health, self._pool_set = config, by_loop, health, own
            pool_set = self._pool_set
            if pool_set is own:
                self._announcer.created(config.masked_url)
        _call(on_pool_built, self)
        return pool_set

    def _known(self) -> PoolSet | None:
        """Return the pool set if there is one, renewed in a forked child."""
        if not mark[0]:
            fork.renew()
        return self._pool_set

    def _open(self) -> PoolSet:
        if self._closed:
            raise PoolClosed(f"Redis pool {self.alias!r} is closed: call initialize() to open it again.")
        return self._built()

    def _reopened(self) -> PoolSet:
        pool_set = self._built()
        if self._closed:
            self._closed = False
            pool_set.monitor.open()
            self._announcer.created(self._config.masked_url)
        return pool_set

    def _shut(self) -> PoolSet | None:
        self._closed = True
        pool_set = self._known()
        if pool_set is not None:
            pool_set.monitor.close()
        return pool_set

    def _release_embedded(self, pool_set: PoolSet) -> None:
        # Reopened by somebody meanwhile: the server is in use again.
        if pool_set.settings.embedded is not None and self._closed:
            pool_set.settings.embedded.release()

    def _doubt(self, error: Exception) -> None:
        pool_set = self._known()
        if pool_set is None:
            return
        if isinstance(error, redis_exceptions.RedisError | OSError):
            fault = classify(error, pool_set.settings.where)
        else:
            # Its text is the project's own and may hold what no status page should show.
            fault = Fault(FaultKind.UNKNOWN, f"A caller's block raised {type(error).__name__}; the next caller checks.")
        pool_set.monitor.mark_suspect(fault)

    def reload_settings(self) -> None:
        """Forget the configuration; the next use reads the settings and connects again."""
        if not mark[0]:
            fork.renew()
        settings_read = object()
        pool_set, was_closed = self._pool_set, self._closed
        self._settings_read, self._closed = settings_read, False
        self._known_config, self._by_loop, self._health, self._pool_set = None, {}, None, None
        _call(on_settings_reloaded, self)
        if pool_set is not None:
            pool_set.monitor.close()
            pool_set.drain_sync(0)
            if pool_set.settings.embedded is not None:
                pool_set.settings.embedded.release()
            if not was_closed:
                self._announcer.closed()

    def _use(
        self, settings_for: Callable[[str, RedisPoolConfig], PoolSettings]
    ) -> Callable[[str, RedisPoolConfig], PoolSettings]:
        """Build pool sets from what ``settings_for`` returns from now on; return its predecessor. For tests."""
        before, self._settings_for = self._settings_for, settings_for
        self.reload_settings()
        return before

    def _after_fork_in_child(self) -> None:
        self._lock_without_loop = Lock()


def _call(hooks: list[Hook], manager: RedisConnectionManager) -> None:
    for hook in hooks:
        hook(manager)


def get_managers() -> list[RedisConnectionManager]:
    """Return the manager of every configured alias, ``default`` first. Raises ``ImproperlyConfigured``."""
    return [RedisConnectionManager(alias) for alias in get_aliases()]


def reload_all_settings() -> None:
    """``settings.REDIS_POOL`` has changed: every manager reads it again on its next use."""
    for manager in list(RedisConnectionManager._instances.values()):
        manager.reload_settings()


def _unix_time(moment: float) -> float:
    return round(time.time() - (monotonic() - moment), 3)


redis_connection_manager = RedisConnectionManager()
"""The manager of the ``default`` pool."""
