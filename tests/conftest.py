"""Fixtures: real servers, and the manager pointed at one of them. What may be skipped, and where nothing may."""

from __future__ import annotations

import asyncio
import inspect
import os
from functools import partial

import hypothesis
import pytest

from redispool_app.redis_pool import RedisConnectionManager, redis_connection_manager

from .support.crowd import at_once, value_of
from .support.servers import RedisServer

_LONGEST_IN_THREAD = 300.0

# `make test` takes the first; `make faults` has the time for the second.
hypothesis.settings.register_profile("brief", max_examples=25)
hypothesis.settings.register_profile("thorough", max_examples=80)
hypothesis.settings.load_profile("brief")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a coroutine test in an event loop of its own, as ``asyncio.run`` does, and some tests in a thread."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if inspect.iscoroutinefunction(pyfuncitem.function):
        asyncio.run(pyfuncitem.function(**arguments))
    elif pyfuncitem.get_closest_marker("own_thread"):
        value_of(at_once([partial(pyfuncitem.function, **arguments)], within=_LONGEST_IN_THREAD)[0])
    else:
        return None
    return True


_WAIT_LONGEST = (
    "test_demoted_primary test_status_page test_async_interrupts test_blocking_commands test_stalls test_moved_names "
    "test_deployments test_unblocked_callers test_server_mode test_thread_stalls_struck test_cancel_every_await "
    "test_redis_health test_metrics_processes test_sync_pipeline test_demo test_loops"
).split()
"""Files whose tests mostly wait, half a minute and more in all."""


def pytest_collection_modifyitems(items):
    """Let the files begin first whose tests wait longest: the others are run beside them, and none is left alone."""
    rank = {name: place for place, name in enumerate(_WAIT_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def forbidden_skips(reporter):
    """The reasons of skipped tests, if none may be: but for what is not made for this Python, all can run in CI."""
    if not os.environ.get("REDISPOOL_NO_SKIP") or reporter is None:
        return []
    reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", [])]
    return [reason for reason in reasons if "this Python" not in reason]


def pytest_sessionfinish(session):
    """Let a run fail that has left tests out although it was told not to."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if forbidden_skips(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if skipped := forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"REDISPOOL_NO_SKIP: {len(skipped)} skipped, which is a failure here.", red=True)


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
