"""Redis in memory for a project's own unit tests: the same manager and pools, on fakeredis instead of a server.

    with override() as fake:
        client.get("/basket/")
        with fake.outage():
            assert client.get("/basket/").status_code == 503

With pytest: ``pytest_plugins = ["redispool_app.testing"]`` and the fixture ``fake_redis``. fakeredis shows what a
project does with Redis; faults, time-outs and load are shown by a real server only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from typing import Any

from django.test.utils import TestContextDecorator

from .conf.config import DEFAULT_ALIAS, RedisPoolConfig
from .conf.engine_settings import pool_settings
from .engine.connection import lifecycle
from .engine.connection.connection_async import ObservedAsync
from .engine.connection.connection_sync import ObservedSync
from .engine.topology.settings import PoolSettings
from .redis_pool import RedisConnectionManager

__all__ = ["FakePool", "override"]

SettingsFor = Callable[[str, RedisPoolConfig], PoolSettings]

# Keys that lead to the real server; all others are as in production.
_REAL = {"connection_url", "db", "username", "password", "credential_provider"}


class FakePool:
    """The manager of an alias while it works on ``server``, a ``fakeredis.FakeServer`` of its own."""

    def __init__(self, alias: str) -> None:
        self.manager = RedisConnectionManager(alias)
        self.server = _fakeredis().FakeServer()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Let Redis be down: callers get ``RedisUnavailable``, whoever holds a client redis-py's ConnectionError.

        Afterwards the next caller finds it up again, with its data.
        """
        self._set_connected(False)
        try:
            yield
        finally:
            self._set_connected(True)

    def _set_connected(self, connected: bool) -> None:
        self.server.connected = connected
        # The next caller checks, rather than trusting the last reply or waiting for the next probe.
        pool_set = self.manager.pool_set
        if pool_set is not None:
            pool_set.health.forget()
            pool_set.monitor.tell_changes()

    def settings_for(self, alias: str, config: RedisPoolConfig) -> PoolSettings:
        """Return what the engine builds from: the project's configuration on the server in memory."""
        kept = {
            item.name: getattr(config, item.name)
            for item in fields(config)
            if item.name not in _REAL and not item.name.startswith("ssl_")
        }
        settings = pool_settings(alias, RedisPoolConfig(connection_url=f"redis://fakeredis/{config.database}", **kept))
        async_class, sync_class = _connection_classes()
        return replace(
            settings,
            connection_kwargs={**settings.connection_kwargs, "server": self.server},
            async_class=async_class,
            sync_class=sync_class,
            sharing=None,  # a fake connection has no transport that could be taken over
        )


class override(TestContextDecorator):  # noqa: N801 (named and used like Django's override_settings)
    """Put the pool of ``alias`` on an empty server in memory, for a ``with`` block, a test or a ``TestCase``.

    The block's value is a ``FakePool``. All event loops and threads, sync and async
    code alike, see the same data; a block inside another has data of its own.
    ``REDIS_POOL`` stays as it is, and nothing connects to its server. Raises ``ImportError`` without fakeredis.
    """

    def __init__(self, alias: str = DEFAULT_ALIAS) -> None:
        super().__init__()
        self.alias = alias
        # More than one when a decorated function calls itself.
        self._before: list[SettingsFor] = []

    def enable(self) -> FakePool:
        fake = FakePool(self.alias)
        self._before.append(fake.manager._use(fake.settings_for))
        return fake

    def __enter__(self) -> FakePool:  # type: ignore[override]
        return self.enable()

    def disable(self) -> None:
        RedisConnectionManager(self.alias)._use(self._before.pop())


def _fakeredis() -> Any:
    try:
        import fakeredis
    except ModuleNotFoundError as error:
        raise ImportError("redispool_app.testing needs fakeredis: pip install fakeredis") from error
    return fakeredis


@cache
def _connection_classes() -> tuple[type[Any], type[Any]]:
    """Return fakeredis's connections, async and sync, reporting to the manager as real ones do."""
    fakeredis = _fakeredis()
    fake_async, fake_sync = fakeredis.FakeAsyncRedisConnection, fakeredis.FakeRedisConnection

    class FakeAsyncConnection(ObservedAsync, fake_async):  # type: ignore[misc, valid-type]
        async def _connect(self) -> None:
            await super()._connect()
            _keep_from_fork_hook(self)

    class FakeSyncConnection(ObservedSync, fake_sync):  # type: ignore[misc, valid-type]
        def _connect(self) -> Any:
            connected = super()._connect()
            _keep_from_fork_hook(self)
            # Health checks set their deadline on the socket; a fake one answers at once.
            connected.settimeout = lambda seconds: None
            return connected

    return FakeAsyncConnection, FakeSyncConnection


def _keep_from_fork_hook(connection: Any) -> None:
    # A fake socket's descriptor is a number made up, which may be that of another file.
    lifecycle._open.discard(connection)


# Under pytest only: projects that use another runner need not have it.
if "pytest" in sys.modules:
    import pytest

    @pytest.fixture
    def fake_redis() -> Iterator[RedisConnectionManager]:
        """The manager of the ``default`` pool on an empty server in memory."""
        with override() as fake:
            yield fake.manager
