"""A hook of the project that raises never reaches a caller and never stops the pool's own work."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
from redis import exceptions as redis_exceptions
from redis.observability import recorder

from redispool_app import signals
from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.topology import standalone as pool_sets
from redispool_app.middleware import RedisPoolMiddleware
from redispool_app.workers import publisher
from tests.support.cache_faces import new_cache
from tests.support.servers import eventually

PATIENT = 30.0
"""A time-out that no test reaches, in seconds."""


class HookError(Exception):
    """What a hook raises here."""


class Raising(logging.Filter):
    """A logging filter that fails for each record of this package."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def filter(self, record):
        if record.name.startswith("redispool_app"):
            self.seen.append(record.name)
            raise HookError("the filter's own fault")
        return True


@pytest.fixture
def raising(capsys):
    """Let each record of this package meet a filter that raises, on the root logger's handler."""
    handler, found, logger = logging.StreamHandler(), Raising(), logging.getLogger("redispool_app")
    handler.addFilter(found)
    logger.addHandler(handler)
    level, _ = logger.level, logger.setLevel(logging.DEBUG)
    yield found
    logger.setLevel(level)
    logger.removeHandler(handler)


@contextmanager
def in_time(seconds=5.0):
    """Fail if the block takes as long as if a caller had waited for a time-out."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_what_a_hook_raises_is_logged_and_goes_no_further(caplog, monkeypatch):
    monkeypatch.setattr("redispool_app.engine.runtime.hooks._silent_until", 0.0)

    def hook():
        raise HookError

    tell(hook)
    tell(hook)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("redispool_app.hooks", "ERROR")
    assert "hook raised HookError" in record.getMessage()


def test_where_logging_itself_raises_it_is_written_to_stderr(raising, capsys, monkeypatch):
    monkeypatch.setattr("redispool_app.engine.runtime.hooks._silent_until", 0.0)
    tell(logging.getLogger("redispool_app.health").warning, "down")
    assert "HookError: the filter's own fault" in capsys.readouterr().err


def test_an_interrupt_in_a_hook_is_not_the_hooks():
    def hook():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell(hook)


def test_a_filter_that_raises_does_not_stop_the_recovery(own_server, pool_settings, raising):
    client = pool_settings(own_server.url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3).get_sync_client()
    client.ping()
    own_server.pause()
    for _ in range(3):
        with pytest.raises(redis_exceptions.RedisError):
            client.get("k")
    assert "redispool_app.health" in raising.seen
    own_server.resume()

    def is_back():
        try:
            return client.ping()
        except redis_exceptions.RedisError:
            return False

    eventually(is_back)


async def test_nor_does_it_in_an_event_loop(own_server, pool_settings, raising):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3)
    client = await manager.get_client()
    await client.ping()
    await asyncio.to_thread(own_server.pause)
    for _ in range(3):
        with pytest.raises(redis_exceptions.RedisError):
            await client.get("k")
    await asyncio.to_thread(own_server.resume)
    with in_time():
        while not manager._is_healthy:
            await asyncio.sleep(0.01)
    assert await client.ping()


def test_a_recovery_whose_start_was_prevented_is_started_by_the_next_refusal(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()
    own_server.kill()

    def no_more_threads(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(redis_exceptions.RedisError):
            client.get("k")
        assert not manager._built().monitor._recovery.is_running
    own_server.start()
    eventually(lambda: is_served(client))


def is_served(client):
    try:
        return client.ping()
    except redis_exceptions.RedisError:
        return False


def test_a_filter_that_raises_on_an_exhausted_pool_leaves_the_refusal(server, pool_settings, raising):
    client = pool_settings(server.url, MAX_CONNECTIONS=2, TIMEOUT=0.01).get_sync_client()
    with client.pipeline() as holder:
        holder.watch("a")
        with pytest.raises(redis_exceptions.ConnectionError, match="became free"):
            client.client_getname()
    assert "redispool_app.pool" in raising.seen


def test_a_filter_that_raises_on_a_pause_leaves_it_working(manager, raising):
    client = manager.get_sync_client()
    manager.pause(20)
    manager.resume()
    assert client.ping()


def test_a_hook_for_built_clients_that_raises_leaves_the_client(manager, monkeypatch):
    def hook():
        raise HookError

    monkeypatch.setattr(pool_sets, "on_client_built", [hook])
    assert manager.get_sync_client().ping()


def test_an_opened_hook_that_raises_leaves_the_connection(manager):
    def hook():
        raise HookError

    manager._built().monitor.on_opened = hook
    assert manager.get_sync_client().ping()
    assert manager._built().monitor.counters.opened == 1


def test_an_outage_hook_that_raises_leaves_the_probes(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()
    client.ping()
    called = []

    def hook(since):
        called.append(since)
        raise HookError

    manager._built().monitor.on_outage = hook
    own_server.kill()
    with pytest.raises(redis_exceptions.RedisError):
        client.get("k")
    eventually(lambda: called)
    own_server.start()
    eventually(lambda: is_served(client))


def test_a_listener_that_raises_leaves_the_verdict_and_the_others(own_server, pool_settings, caplog):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()

    class Listener:
        def health_changed(self, change):
            raise HookError

        def pool_exhausted(self, reason, total):
            raise HookError

    manager._built().monitor._listener = Listener()
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):
        client.get("k")
    assert any("is unhealthy" in record.getMessage() for record in caplog.records)
    own_server.start()
    eventually(lambda: is_served(client))
    states = [change["state"] for change in manager.health_history()]
    assert states[:2] == ["healthy", "unhealthy"]
    assert states[-1] == "healthy"


class Counting(logging.Filter):
    """A logging filter that limits the rate of records by Redis, as a project might."""

    def __init__(self, client, hold=0.0):
        super().__init__()
        self._client = client
        self._hold = hold
        self.passed = 0

    def filter(self, record):
        if record.name == "redispool_app.commands":
            self._client.incr("records")
            time.sleep(self._hold)
            self.passed += 1
        return True


@contextmanager
def filtered(found):
    handler, logger = logging.NullHandler(), logging.getLogger("redispool_app.commands")
    handler.handle = lambda record: found.filter(record)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def test_a_filter_that_uses_redis_on_a_slow_command_delays_no_other_thread(own_server, pool_settings):
    client = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, SLOW_COMMAND=0.02).get_sync_client()
    client.set("k", "v")
    slow = Counting(client, hold=1.0)
    with filtered(slow), own_server.client() as admin:
        admin.client_pause(300)
        with in_time(), ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            callers = [pool.submit(timed, partial(client.get, "k"), began) for _ in range(4)]
            took = sorted(caller.result() for caller in callers)
    assert slow.passed == 1
    assert took[2] < 0.9, "the filter's time was others' too"
    assert client.get("records") == b"1"


async def test_a_filter_that_uses_redis_on_a_slow_command_harms_no_task(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, SLOW_COMMAND=0.02)
    client = await manager.get_client()
    await client.set("k", "v")
    slow = Counting(manager.get_sync_client())
    with filtered(slow), own_server.client() as admin:
        admin.client_pause(300)
        with in_time():
            assert await asyncio.gather(*(client.get("k") for _ in range(4))) == [b"v"] * 4
            await asyncio.sleep(0.05)
    assert slow.passed == 1


def test_an_outage_is_told_after_all_who_waited_have_their_errors(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.set("k", "v")
    inside, go_on = threading.Event(), threading.Event()

    class Listener:
        def health_changed(self, change):
            inside.set()
            go_on.wait(10)

    manager._built().monitor._listener = Listener()
    own_server.pause()
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(client.incr, "n") for _ in range(4)]
        eventually(lambda: client.sharing.in_flight == 4)
        own_server.signal(signal.SIGKILL)
        assert inside.wait(5)
        # One of them tells; the others are not kept.
        eventually(lambda: sum(caller.done() for caller in callers) >= 3)
        go_on.set()
        assert all(isinstance(caller.exception(5), redis_exceptions.ConnectionError) for caller in callers)


def timed(function, began):
    assert function() == b"v"
    return time.monotonic() - began


# The places of the package that log, call back or record, one each.


def test_a_filter_that_raises_on_an_ignored_outage_leaves_the_cache_empty(own_server, pool_settings, raising):
    pool_settings(own_server.url, SOCKET_TIMEOUT=0.3)
    cache = new_cache(IGNORE_EXCEPTIONS=True, LOG_IGNORED_EXCEPTIONS=True)
    assert cache.set("k", "v") is None
    own_server.kill()
    assert [cache.get("k", "default") for _ in range(3)] == ["default"] * 3
    assert "redispool_app.cache" in raising.seen


async def test_so_it_does_for_a_loop(own_server, pool_settings, raising):
    pool_settings(own_server.url, SOCKET_TIMEOUT=0.3)
    cache = new_cache(IGNORE_EXCEPTIONS=True, LOG_IGNORED_EXCEPTIONS=True)
    await cache.aset("k", "v")
    await asyncio.to_thread(own_server.kill)
    assert [await cache.aget("k", "default") for _ in range(3)] == ["default"] * 3
    assert "redispool_app.cache" in raising.seen


def test_a_filter_that_raises_on_a_request_leaves_the_answer(manager, raising, rf):
    def view(request):
        raise redis_exceptions.TimeoutError("too slow")

    middleware = RedisPoolMiddleware(view)
    response = middleware.process_exception(rf.get("/"), redis_exceptions.TimeoutError("too slow"))
    assert response.status_code == 503
    assert "redispool_app.request" in raising.seen


def test_a_receiver_that_raises_keeps_no_other_from_its_event(manager):
    heard = []

    def raises(**kwargs):
        raise HookError

    def hears(**kwargs):
        heard.append(kwargs["state"])

    signals.health_changed.connect(raises)
    signals.health_changed.connect(hears)
    try:
        assert manager.get_sync_client().ping()
        eventually(lambda: heard == ["healthy"])
    finally:
        signals.health_changed.disconnect(raises)
        signals.health_changed.disconnect(hears)


def test_a_callback_for_snapshots_that_raises_keeps_no_other_from_its_own(server, pool_settings, monkeypatch):
    monkeypatch.setattr(publisher, "FIRST_AFTER", 0.05)
    heard = []

    def raises(alias, snapshot):
        raise HookError

    ends = [publisher.on_tick(raises), publisher.on_tick(lambda alias, snapshot: heard.append(alias))]
    try:
        manager = pool_settings(server.url, PUBLISH_INTERVAL=0.1)
        manager.get_sync_client().ping()
        eventually(lambda: len(heard) > 1)
    finally:
        for end in ends:
            end()


def failing(*args, **kwargs):
    raise HookError


def test_a_recorder_that_raises_leaves_the_reply(server, monkeypatch):
    monkeypatch.setattr(recorder, "is_enabled", lambda: True)
    monkeypatch.setattr(recorder, "record_operation_duration", failing)
    monkeypatch.setattr(recorder, "record_error_count", failing)
    with SyncRedis(port=server.port) as client:
        assert client.set("k", "v") is True
        with pytest.raises(redis_exceptions.ResponseError, match="WRONGTYPE"):
            client.lpush("k", "x")


async def test_so_it_does_for_a_task(server, monkeypatch):
    monkeypatch.setattr(recorder, "is_enabled", lambda: True)
    monkeypatch.setattr(recorder, "record_operation_duration", failing)
    monkeypatch.setattr(recorder, "record_error_count", failing)
    async with AsyncRedis(port=server.port) as client:
        assert await client.set("k", "v") is True
        with pytest.raises(redis_exceptions.ResponseError, match="WRONGTYPE"):
            await client.lpush("k", "x")


def test_a_response_callback_that_raises_fails_its_own_caller_only(server):
    with SyncRedis(port=server.port, socket_timeout=PATIENT) as client:
        client.set("k", "v")
        client.set_response_callback("ECHO", failing)
        with in_time(), ThreadPoolExecutor(4) as pool:
            failed = [pool.submit(client.echo, "x") for _ in range(20)]
            right = [pool.submit(client.get, "k") for _ in range(20)]
            assert all(isinstance(each.exception(), HookError) for each in failed)
            assert [each.result() for each in right] == [b"v"] * 20


async def test_so_it_does_among_tasks(server):
    async with AsyncRedis(port=server.port, socket_timeout=PATIENT) as client:
        await client.set("k", "v")
        client.set_response_callback("ECHO", failing)
        calls = [call for _ in range(20) for call in (client.echo("x"), client.get("k"))]
        with in_time():
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in outcomes[::2]] == [HookError] * 20
        assert outcomes[1::2] == [b"v"] * 20
