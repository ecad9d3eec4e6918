"""The server stops, dies, comes back: who notices when, who waits how long."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import RedisUnavailable
from tests.support.proxy import Proxy
from tests.support.servers import eventually, free_port

# Limits are the promise plus room for a machine that does other things meanwhile.
SLACK = 1.0


async def test_a_paused_server_fails_the_first_caller_in_time_and_the_next_at_once(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.5, HEALTH_CHECK_TIMEOUT=0.5)
    async with manager.get_connection() as client:
        await client.set("x", 1)
    own_server.pause()
    started = time.monotonic()
    with pytest.raises(redis_exceptions.TimeoutError):
        async with manager.get_connection() as client:
            await client.get("x")
    assert 0.4 < time.monotonic() - started < 0.5 + SLACK

    waits = []
    for _ in range(500):
        started = time.perf_counter()
        with pytest.raises(RedisUnavailable, match="does not answer in time") as caught:
            await manager.get_client()
        waits.append(time.perf_counter() - started)
    assert caught.value.retry_after <= 1.0
    assert caught.value.kind == "timeout"
    assert sorted(waits)[250] < 0.005

    own_server.resume()
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    assert await (await manager.get_client()).get("x") == b"1"


def test_threads_see_the_same(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.5, HEALTH_CHECK_TIMEOUT=0.5)
    manager.get_sync_client().set("x", 1)
    own_server.pause()
    with pytest.raises(redis_exceptions.TimeoutError):
        manager.get_sync_client().get("x")
    with pytest.raises(RedisUnavailable, match="does not answer in time"):
        manager.get_sync_client()
    own_server.resume()
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    assert manager.get_sync_client().get("x") == b"1"


@pytest.fixture
def falls_silent(own_server, pool_settings):
    """A manager whose server answers the first of two commands that wait, and then nothing more, not even checks."""
    with Proxy(own_server.port) as proxy:
        # A second connection, on which the server answered meanwhile, would make the silence of the first a mere doubt.
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=0.5, HEALTH_CHECK_TIMEOUT=20, MAX_SHARED_CONNECTIONS=1)

        def fall_silent():
            proxy.silent_after_reply_bytes = len(b"$5\r\nfirst\r\n")
            own_server.resume()

        with own_server.client() as client:
            client.mset({"a": "first", "b": "second"})
        yield manager, own_server.pause, fall_silent
        own_server.resume()


async def test_silence_after_a_reply_is_known_as_an_outage_when_the_next_one_is_overdue(falls_silent):
    manager, pause, fall_silent = falls_silent
    client = await manager.get_client()
    await client.ping()
    pause()
    answered = asyncio.create_task(client.get("a"))
    await asyncio.sleep(0.05)
    overdue = asyncio.create_task(client.get("b"))
    await asyncio.sleep(0.05)
    fall_silent()
    assert await answered == b"first"
    pause()
    with pytest.raises(redis_exceptions.TimeoutError):
        await overdue
    await asyncio.to_thread(eventually, lambda: not manager._is_healthy)
    assert manager._health.confirmed, "nobody waits for a check first"
    with pytest.raises(RedisUnavailable, match="does not answer in time"):
        await manager.get_client()


def test_silence_after_a_reply_is_known_to_threads_too(falls_silent):
    manager, pause, fall_silent = falls_silent
    client = manager.get_sync_client()
    client.ping()
    pause()
    with ThreadPoolExecutor(2) as threads:
        answered = threads.submit(client.get, "a")
        eventually(lambda: client.sharing.in_flight == 1)
        overdue = threads.submit(client.get, "b")
        eventually(lambda: client.sharing.in_flight == 2)
        fall_silent()
        assert answered.result(10) == b"first"
        pause()
        with pytest.raises(redis_exceptions.TimeoutError):
            overdue.result(10)
    eventually(lambda: not manager._is_healthy)
    assert manager._health.confirmed, "nobody waits for a check first"
    with pytest.raises(RedisUnavailable, match="does not answer in time"):
        manager.get_sync_client()


def test_a_caller_with_little_time_left_does_not_take_a_far_server_for_dead(own_server, pool_settings):
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=1.0, HEALTH_CHECK_TIMEOUT=5)
        client = manager.get_sync_client()
        client.ping()
        # Answers take longer than what the caller will have left when its connection is cut.
        proxy.reply_delay = 0.6
        proxy.swallow_replies_of_open_connections()
        threading.Timer(0.7, proxy.cut).start()
        with pytest.raises(redis_exceptions.TimeoutError):
            client.get("k")
        assert not manager._health.confirmed
        assert manager.get_pool_info()["fault_kind"] == "timeout", "the next caller checks"


async def test_a_client_held_since_before_fails_fast_too(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3)
    client = await manager.get_client()
    await client.get("x")
    own_server.pause()
    with pytest.raises(redis_exceptions.TimeoutError):
        await client.get("x")
    started = time.perf_counter()
    for _ in range(100):
        with pytest.raises(RedisUnavailable):
            await client.get("x")
    assert time.perf_counter() - started < 0.3 + SLACK
    own_server.resume()


async def test_a_server_that_died_is_named_and_found_again_without_traffic(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    await (await manager.get_client()).ping()
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):
        async with manager.get_connection() as client:
            await client.get("x")
    with pytest.raises(RedisUnavailable, match="Nothing listens"):
        await manager.get_client()
    own_server.start()
    # No await between here and there: the recovery needs neither traffic nor this loop.
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    assert await (await manager.get_client()).ping()


async def test_one_killed_connection_is_one_callers_trouble_and_no_outage(server, manager):
    client = await manager.get_client()
    blocked = asyncio.create_task(client.blpop("never", 20))
    await asyncio.sleep(0.1)
    with server.client() as admin:
        for found in admin.client_list(_type="normal"):
            if found["cmd"] == "blpop":
                admin.client_kill_filter(_id=found["id"])
    with pytest.raises(redis_exceptions.ConnectionError):
        await blocked
    assert await (await manager.get_client()).ping()
    assert manager._is_healthy


async def test_one_slow_command_on_a_busy_server_is_no_outage(server, pool_settings):
    manager = pool_settings(server.url, SOCKET_TIMEOUT=0.3)
    client = await manager.get_client()

    async def write_on_a_connection_of_its_own():
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            pipe.multi()
            pipe.set("k", "v")
            await pipe.execute()

    with server.client() as admin:
        admin.client_pause(20_000, all=False)  # holds writes back
        try:
            slow = asyncio.create_task(write_on_a_connection_of_its_own())
            while not slow.done():
                await client.ping()
                await asyncio.sleep(0.01)
        finally:
            admin.client_unpause()
    with pytest.raises(redis_exceptions.TimeoutError):
        slow.result()
    assert not manager._built().health.confirmed
    assert await (await manager.get_client()).ping()


@pytest.fixture
def proxied_without_recovery(own_server, pool_settings, monkeypatch):
    """A manager behind a proxy; nobody probes but who is told to."""
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url)
        monkeypatch.setattr("redispool_app.engine.health.recovery.Recovery.start", lambda recovery: None)
        yield manager, proxy


async def test_a_check_that_is_cut_while_others_are_answered_is_made_once_more(proxied_without_recovery):
    manager, proxy = proxied_without_recovery
    assert await manager._health_check()
    proxy.cut_always = b"PING"
    assert not await manager._health_check()
    assert proxy.cuts == 3, "each handshake was an answer"


@pytest.mark.parametrize(
    ("cut_at", "cuts"), [(b"PING", 3), (b"\r\n", 2)], ids=["others are answered", "nobody is answered"]
)
def test_a_threads_check_is_made_once_more_only_if_others_are_answered(proxied_without_recovery, cut_at, cuts):
    manager, proxy = proxied_without_recovery
    client = manager.get_sync_client()
    proxy.cut_always = cut_at
    with pytest.raises(redis_exceptions.ConnectionError):
        client.sharing.probe(b"*1\r\n$4\r\nPING\r\n", 1, time.monotonic() + 5)
    assert proxy.cuts == cuts


def test_probes_follow_a_backoff_while_the_server_is_down(pool_settings):
    manager = pool_settings(f"redis://127.0.0.1:{free_port()}", RETRY_BACKOFF_BASE=0.05, RETRY_BACKOFF_CAP=0.2)
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    before = manager.get_pool_info()["health_checks_total"]
    time.sleep(1.0)
    probes = manager.get_pool_info()["health_checks_total"] - before
    assert 3 <= probes <= 60


def test_callers_cause_no_probes_while_the_server_is_down(own_server, pool_settings):
    manager = pool_settings(own_server.url, RETRY_BACKOFF_BASE=5, RETRY_BACKOFF_CAP=60)
    manager.get_sync_client()
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):
        manager.get_sync_client().ping()
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    before = manager.get_pool_info()["health_checks_total"]
    for _ in range(200):
        with pytest.raises(RedisUnavailable):
            manager.get_sync_client()
    assert manager.get_pool_info()["health_checks_total"] <= before + 1


def test_an_outage_is_logged_once_and_its_end_once(own_server, pool_settings, caplog):
    caplog.set_level(logging.INFO, logger="redispool_app")
    manager = pool_settings(own_server.url)
    manager.get_sync_client()
    own_server.kill()
    for _ in range(50):
        with pytest.raises(redis_exceptions.ConnectionError):
            manager.get_sync_client().ping()
    own_server.start()
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        (
            "WARNING",
            f"Redis pool 'default' is unhealthy: Nothing listens at {own_server.where}: "
            "start Redis or correct CONNECTION_URL.",
        ),
        ("INFO", f"Redis pool 'default' is healthy again: {own_server.where} answers."),
    ]


def test_the_recovery_thread_ends_with_the_outage(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    manager.get_sync_client()

    def recovering():
        return [thread for thread in threading.enumerate() if thread.name.startswith("redispool-recovery")]

    assert recovering() == []
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):
        manager.get_sync_client().ping()
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    assert len(recovering()) == 1
    own_server.start()
    eventually(lambda: manager._is_healthy and not recovering(), 2 + SLACK)


def test_closing_during_an_outage_ends_the_probing(pool_settings):
    manager = pool_settings(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    manager.close_sync()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("redispool-recovery")])


def test_a_server_error_that_concerns_one_command_is_named_and_no_outage(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    with own_server.client() as admin:
        admin.replicaof("127.0.0.1", str(free_port()))
    client = manager.get_sync_client()
    with pytest.raises(redis_exceptions.ReadOnlyError):
        client.set("x", 1)
    assert manager._is_healthy
    info = manager.get_pool_info()
    assert info["last_error_kind"] == "readonly"
    assert "point CONNECTION_URL at the primary" in info["last_error"]


def test_out_of_memory_is_named_and_no_outage(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    with own_server.client() as admin:
        admin.config_set("maxmemory", 1)
        admin.config_set("maxmemory-policy", "noeviction")
    with pytest.raises(redis_exceptions.OutOfMemoryError):
        manager.get_sync_client().set("x", 1)
    assert manager._is_healthy
    assert manager.get_pool_info()["last_error_kind"] == "oom"


@pytest.mark.parametrize("transaction", [True, False])
def test_values_of_a_failed_pipeline_are_not_shown(manager, transaction):
    with manager.get_sync_connection() as client:
        client.set("text", "x")
    with pytest.raises(redis_exceptions.ResponseError), manager.get_sync_connection() as client:
        pipe = client.pipeline(transaction=transaction)
        pipe.hset("text", "field", "s3cret-value")
        pipe.execute()
    assert "WRONGTYPE" in manager.get_pool_info()["fault"]
    assert "s3cret-value" not in json.dumps(manager.get_pool_info())


def test_what_a_server_says_in_a_pipeline_is_recognised(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    manager.get_sync_client()
    with own_server.client() as admin:
        admin.config_set("maxmemory", 1)
    pipe = manager.get_sync_client().pipeline(transaction=False)
    pipe.set("x", "s3cret-value")
    with pytest.raises(redis_exceptions.OutOfMemoryError):
        pipe.execute()
    info = manager.get_pool_info()
    assert info["last_error_kind"] == "oom"
    assert "s3cret-value" not in json.dumps(info)
