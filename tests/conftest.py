"""Fixtures: real servers, and the manager pointed at one of them."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from redispool_app.redis_pool import RedisConnectionManager, redis_connection_manager

from .servers import RedisServer


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a coroutine test in an event loop of its own, as ``asyncio.run`` does."""
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def shared_server():
    """One server for all tests that leave it as it is."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server):
    """The shared server, emptied."""
    with shared_server.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared_server


@pytest.fixture
def own_server():
    """A server of the test's own, to be paused, killed and started again."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def pool_settings(settings):
    """Set REDIS_POOL for one test; the manager is left closed and forgotten.

    It publishes nothing unless told to: what a test counts is what it does itself.
    """

    def set_pool(url, **keys):
        settings.REDIS_POOL = {"CONNECTION_URL": url, "PUBLISH_INTERVAL": None, **keys}
        return redis_connection_manager

    yield set_pool
    redis_connection_manager.close_sync()
    redis_connection_manager.reload_settings()


@pytest.fixture
def manager(server, pool_settings):
    """The global manager on the shared server."""
    return pool_settings(server.url)


@pytest.fixture
def pools(settings, pool_settings):
    """Set REDIS_POOL to several aliases; their managers are left closed and forgotten."""
    aliases = []

    def set_pools(**by_alias):
        aliases.extend(by_alias)
        pool_settings("redis://unused")
        settings.REDIS_POOL = {alias: {"PUBLISH_INTERVAL": None, **pool} for alias, pool in by_alias.items()}

    yield set_pools
    for alias in aliases:
        RedisConnectionManager(alias).close_sync()
        RedisConnectionManager(alias).reload_settings()
