"""The manager: one per alias, checked once for everybody, closed and opened again."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from redis import exceptions as redis_exceptions

from redispool_app.engine.runtime.single_flight import Flight
from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.redis_pool import RedisConnectionManager, get_managers, redis_connection_manager

from .support.servers import eventually, free_port

# One manager per alias.


def test_there_is_one_manager_per_alias():
    assert RedisConnectionManager() is redis_connection_manager
    assert RedisConnectionManager("default") is redis_connection_manager
    assert RedisConnectionManager("sessions") is RedisConnectionManager("sessions")
    assert RedisConnectionManager("sessions") is not redis_connection_manager


def test_many_threads_at_once_create_one_manager():
    barrier = threading.Barrier(32)
    created = []

    def create():
        barrier.wait()
        created.append(RedisConnectionManager("created-by-many"))

    threads = [threading.Thread(target=create) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 32
    assert len(set(map(id, created))) == 1


def test_a_copy_of_the_manager_is_the_manager():
    assert copy.copy(redis_connection_manager) is redis_connection_manager
    assert copy.deepcopy(redis_connection_manager) is redis_connection_manager
    assert pickle.loads(pickle.dumps(redis_connection_manager)) is redis_connection_manager


def test_a_subclass_has_managers_of_its_own():
    class Special(RedisConnectionManager):
        pass

    assert Special() is Special()
    assert Special() is not redis_connection_manager


def test_creating_a_manager_reads_no_settings(settings):
    settings.REDIS_POOL = {"NONSENSE": 1}
    assert RedisConnectionManager("never-used").alias == "never-used"


def test_each_alias_has_its_own_server_and_state(server, own_server, settings):
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": server.url},
        "sessions": {"CONNECTION_URL": own_server.url},
    }
    default, sessions = get_managers()
    default.get_sync_client().set("k", "default")
    sessions.get_sync_client().set("k", "sessions")
    assert default.get_sync_client().get("k") == b"default"
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):
        sessions.get_sync_client().get("k")
    with pytest.raises(RedisUnavailable):
        sessions.get_sync_client()
    assert default.get_sync_client().get("k") == b"default"
    default.close_sync()
    sessions.close_sync()


# The client.


async def test_the_first_use_initialises_and_checks(manager, server):
    assert manager._pool is None
    client = await manager.get_client()
    assert isinstance(client, redis.asyncio.Redis)
    assert client is manager._pool
    assert manager._is_healthy
    assert manager._last_health_check > 0
    assert server.calls("ping") == 1
    assert await manager.get_client() is client
    assert server.calls("ping") == 1


async def test_initialize_checks_at_once(manager, server):
    await manager.initialize()
    await manager.initialize()
    assert server.calls("ping") == 2


async def test_initialize_raises_and_leaves_the_manager_unhealthy(pool_settings):
    port = free_port()
    manager = pool_settings(f"redis://127.0.0.1:{port}")
    with pytest.raises(
        RedisUnavailable, match=f"Nothing listens at 127.0.0.1:{port}: start Redis or correct"
    ) as caught:
        await manager.initialize()
    assert manager._is_healthy is False
    assert isinstance(caught.value, redis_exceptions.ConnectionError)
    assert "\n" not in str(caught.value)


async def test_bad_settings_raise_and_leave_the_manager_unhealthy(settings):
    settings.REDIS_POOL = {"CONNECTION_URL": "redis://localhost", "MAX_CONECTIONS": 3}
    with pytest.raises(ImproperlyConfigured, match="did you mean 'MAX_CONNECTIONS'"):
        await redis_connection_manager.get_client()
    assert redis_connection_manager._is_healthy is False
    assert redis_connection_manager.get_pool_info()["state"] == "misconfigured"


def test_the_sync_client_is_shared_by_threads_and_loops(manager):
    client = manager.get_sync_client()
    assert isinstance(client, redis.Redis)
    found = []
    thread = threading.Thread(target=lambda: found.append(manager.get_sync_client()))
    thread.start()
    thread.join()
    assert found == [client]


def test_sync_and_async_code_see_the_same_data(manager):
    manager.get_sync_client().set("greeting", "hello")

    async def read():
        return await (await manager.get_client()).get("greeting")

    assert asyncio.run(read()) == b"hello"


# Checks: one PING, whoever asks.


async def test_200_callers_on_a_stale_manager_cause_one_ping(manager, server):
    await manager.get_client()
    manager._last_health_check = 0.0
    before = server.calls("ping")
    clients = await asyncio.gather(*(manager.get_client() for _ in range(200)))
    assert server.calls("ping") == before + 1
    assert len(set(map(id, clients))) == 1


async def test_200_callers_on_an_unhealthy_manager_cause_one_ping(manager, server):
    await manager.get_client()
    manager._is_healthy = False
    before = server.calls("ping")
    await asyncio.gather(*(manager.get_client() for _ in range(200)))
    assert server.calls("ping") == before + 1
    assert manager._is_healthy


async def test_200_callers_on_a_new_manager_cause_one_ping(manager, server):
    await asyncio.gather(*(manager.get_client() for _ in range(200)))
    assert server.calls("ping") == 1


def test_64_threads_on_a_stale_manager_cause_one_ping(manager, server):
    manager.get_sync_client()
    manager._last_health_check = 0.0
    before = server.calls("ping")
    barrier = threading.Barrier(64)

    def work():
        barrier.wait()
        manager.get_sync_client()

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert server.calls("ping") == before + 1


def test_loops_in_many_threads_share_one_ping(manager, server):
    manager.get_sync_client()
    manager._last_health_check = 0.0
    before = server.calls("ping")
    barrier = threading.Barrier(8)

    async def use():
        barrier.wait()
        await (await manager.get_client()).echo("x")

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert server.calls("ping") == before + 1


async def test_traffic_is_proof_of_health(server, pool_settings):
    manager = pool_settings(server.url, HEALTH_CHECK_INTERVAL=0.2)
    client = await manager.get_client()
    for _ in range(30):
        await client.get("x")
        await asyncio.sleep(0.02)
        assert await manager.get_client() is client
    assert server.calls("ping") == 1


async def test_an_idle_pool_is_checked_before_it_is_handed_out(server, pool_settings):
    manager = pool_settings(server.url, HEALTH_CHECK_INTERVAL=0.05)
    await manager.get_client()
    await asyncio.sleep(0.1)
    await manager.get_client()
    assert server.calls("ping") == 2


async def test_a_caller_cancelled_during_the_check_costs_the_others_nothing(own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=5)
    own_server.pause()
    callers = [asyncio.create_task(manager.get_client()) for _ in range(10)]
    await asyncio.sleep(0.1)
    callers[0].cancel()
    await asyncio.sleep(0.05)
    own_server.resume()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len(set(map(id, results[1:]))) == 1
    assert own_server.calls("ping") == 2, "one from the check, one from starting the server"


def test_sync_code_inside_a_coroutine_does_not_wait_for_its_own_loop(manager):
    async def block():
        check = asyncio.create_task(manager._health_check())
        await asyncio.sleep(0)
        manager._last_health_check = 0.0
        client = manager.get_sync_client()
        await check
        return client.ping()

    assert asyncio.run(asyncio.wait_for(block(), 5))


# get_connection: what fails in the block is checked by whoever comes next.


async def test_an_exception_in_the_block_marks_the_pool_unhealthy_and_is_raised_again(manager, server):
    with pytest.raises(ZeroDivisionError):
        async with manager.get_connection() as client:
            await client.ping()
            raise ZeroDivisionError
    assert manager._is_healthy is False
    before = server.calls("ping")
    async with manager.get_connection() as client:
        await client.set("x", 1)
    assert server.calls("ping") == before + 1
    assert manager._is_healthy


async def test_the_text_of_a_callers_own_exception_is_not_repeated(manager):
    with pytest.raises(ValueError, match="secret"):
        async with manager.get_connection():
            raise ValueError("secret detail of the project")
    assert "secret" not in json.dumps(manager.get_pool_info())


async def test_a_cancelled_block_says_nothing_about_redis(manager):
    async def hold():
        async with manager.get_connection():
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert manager._is_healthy


def test_the_sync_twin_does_the_same(manager, server):
    with pytest.raises(ZeroDivisionError), manager.get_sync_connection() as client:
        client.ping()
        raise ZeroDivisionError
    assert manager._is_healthy is False
    with manager.get_sync_connection() as client:
        assert client.ping()
    assert manager._is_healthy


# Closing and resetting.


async def test_after_close_callers_get_pool_closed_until_initialize(manager, server):
    client = await manager.get_client()
    await manager.close()
    assert manager._is_healthy is False
    with pytest.raises(PoolClosed, match=r"call initialize\(\)"):
        await manager.get_client()
    with pytest.raises(PoolClosed):
        manager.get_sync_client()
    with pytest.raises(PoolClosed):
        await client.get("x")
    await manager.initialize()
    assert await (await manager.get_client()).ping()


async def test_close_leaves_no_connection_and_can_be_called_twice(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    await asyncio.gather(*(client.get("x") for _ in range(20)))
    manager.get_sync_client().get("x")
    await manager.close()
    await manager.close()
    assert manager.get_pool_info()["connections_open"] == 0
    eventually(lambda: own_server.connections() == 0)


async def test_close_on_a_manager_that_was_never_used_is_harmless():
    await RedisConnectionManager("unused").close()
    RedisConnectionManager("unused").close_sync()


async def test_close_lets_running_commands_finish(server, pool_settings):
    manager = pool_settings(server.url, CLOSE_TIMEOUT=5, SOCKET_TIMEOUT=5)
    client = await manager.get_client()
    popping = asyncio.create_task(client.blpop("queue", 3))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(0.1)
    with server.client() as other:
        other.rpush("queue", "late but welcome")
    await closing
    assert await popping == (b"queue", b"late but welcome")


async def test_close_cuts_what_does_not_finish_in_time(server, pool_settings):
    manager = pool_settings(server.url, CLOSE_TIMEOUT=0.1, SOCKET_TIMEOUT=30)
    client = await manager.get_client()
    popping = asyncio.create_task(client.blpop("queue", 20))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(manager.close(), 3)
    with pytest.raises(redis_exceptions.ConnectionError):
        await asyncio.wait_for(popping, 3)


async def test_closing_wakes_callers_that_wait_for_a_connection(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=30, CLOSE_TIMEOUT=0.1)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        waiting = asyncio.create_task(client.get("x"))
        await asyncio.sleep(0.05)
        await manager.close()
        with pytest.raises(PoolClosed):
            await waiting


async def test_reset_replaces_every_connection(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    old_client = await manager.get_client()
    old = await old_client.client_id()
    old_sync = manager.get_sync_client().client_id()
    await manager.reset_pool()
    new = await (await manager.get_client()).client_id()
    assert new > old
    assert manager.get_sync_client().client_id() > old_sync
    assert manager._is_healthy


async def test_a_client_of_before_a_reset_says_so_and_opens_nothing(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.ping()
    blocking.ping()
    await manager.reset_pool()
    for _ in range(3):
        with pytest.raises(PoolClosed, match="closed or reset: ask its manager for a client"):
            await client.ping()
        with pytest.raises(PoolClosed, match="closed or reset"):
            await client.blpop("nothing", 0.01)
        with pytest.raises(PoolClosed, match="closed or reset"):
            blocking.ping()
    await manager.close()
    eventually(lambda: own_server.connections() == 0)


def test_the_sync_twins_reset_and_close(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    old = manager.get_sync_client().client_id()
    manager.reset_sync()
    assert manager.get_sync_client().client_id() > old
    manager.close_sync()
    manager.close_sync()
    with pytest.raises(PoolClosed):
        manager.get_sync_client()
    eventually(lambda: own_server.connections() == 0)
    manager.initialize_sync()
    assert manager.get_sync_client().ping()


def test_closing_reaches_a_loop_that_runs_in_another_thread(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    ready, done = threading.Event(), threading.Event()

    async def serve():
        await (await manager.get_client()).ping()
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(5)
    manager.close_sync()
    eventually(lambda: own_server.connections() == 0)
    done.set()
    thread.join(5)
    assert not thread.is_alive()


async def test_reset_on_a_closed_manager_is_refused(manager):
    await manager.get_client()
    await manager.close()
    with pytest.raises(PoolClosed):
        await manager.reset_pool()


# Facts.


async def test_pool_info_is_json_and_needs_no_loop(manager):
    client = await manager.get_client()
    await client.get("x")
    info = manager.get_pool_info()
    assert json.loads(json.dumps(info)) == info
    assert info["state"] == "healthy"
    assert info["connections_open"] == info["connections_shared"] == 1
    assert info["commands_total"] == 2
    assert info["commands_in_flight"] == 0
    assert info["loops"] == 1


def test_pool_info_of_an_unused_manager_does_no_io(settings):
    settings.REDIS_POOL = {"CONNECTION_URL": "redis://192.0.2.1:6379"}
    info = redis_connection_manager.get_pool_info()
    assert info["state"] == "unknown"
    assert info["connections_open"] == 0


def test_a_password_shows_nowhere(own_server, pool_settings, caplog):
    caplog.set_level(logging.DEBUG)
    manager = pool_settings(f"redis://:s3cr3t-word@127.0.0.1:{own_server.port}/0")
    with pytest.raises(RedisUnavailable) as caught:
        manager.get_sync_client()
    client = manager._built().sync_client()
    shown = [
        json.dumps(manager.get_pool_info()),
        str(caught.value),
        repr(caught.value),
        repr(manager),
        repr(manager._config),
        repr(client),
        repr(manager._built().settings),
        caplog.text,
    ]
    assert not [text for text in shown if "s3cr3t-word" in text]


def test_changed_settings_are_used_from_the_next_call_on(server, own_server, settings):
    settings.REDIS_POOL = {"CONNECTION_URL": server.url}
    redis_connection_manager.get_sync_client().set("which", "first")
    settings.REDIS_POOL = {"CONNECTION_URL": own_server.url}
    assert redis_connection_manager.get_sync_client().get("which") is None
    settings.REDIS_POOL = {"CONNECTION_URL": server.url}
    assert redis_connection_manager.get_sync_client().get("which") == b"first"
    redis_connection_manager.close_sync()


async def test_settings_changed_inside_a_running_loop_close_its_old_connections(server, own_server, settings):
    settings.REDIS_POOL = {"CONNECTION_URL": own_server.url}
    await (await redis_connection_manager.get_client()).ping()
    settings.REDIS_POOL = {"CONNECTION_URL": server.url}
    await (await redis_connection_manager.get_client()).ping()
    await asyncio.sleep(0.1)
    assert own_server.connections() == 0
    await redis_connection_manager.close()


async def test_a_check_that_ends_without_a_verdict_is_made_by_those_who_waited(manager, server):
    pool_set = manager._built()
    own = Flight(asyncio.current_task())
    assert pool_set.monitor.claim(own) is own
    waiting = [asyncio.create_task(manager.get_client()) for _ in range(20)]
    await asyncio.sleep(0.05)
    own.ended = True
    own.leave()
    clients = await asyncio.gather(*waiting)
    assert len(set(map(id, clients))) == 1
    assert server.calls("ping") == 1


async def test_a_check_under_way_does_not_reopen_a_manager_that_is_closed(own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=5, CLOSE_TIMEOUT=0.1)
    own_server.pause()
    checking = asyncio.create_task(manager._health_check())
    await asyncio.sleep(0.1)
    await manager.close()
    own_server.resume()
    assert await checking is False
    assert manager.get_pool_info()["state"] == "closed"
    assert not manager._is_healthy
    eventually(lambda: own_server.connections() == 0)


async def test_a_health_check_of_a_closed_manager_connects_to_nothing(manager, server):
    await manager.get_client()
    await manager.close()
    assert await manager._health_check() is False
    assert manager._health_check_sync() is False
    assert manager.get_pool_info()["connections_open"] == 0


async def test_a_reset_that_is_overtaken_by_close_does_not_reopen(server, pool_settings):
    manager = pool_settings(server.url, CLOSE_TIMEOUT=0.3, SOCKET_TIMEOUT=5)
    client = await manager.get_client()
    popping = asyncio.create_task(client.blpop("never", 5))
    await asyncio.sleep(0.05)
    resetting = asyncio.create_task(manager.reset_pool())
    await asyncio.sleep(0.05)
    await manager.close()
    with pytest.raises(PoolClosed):
        await resetting
    with pytest.raises(redis_exceptions.ConnectionError):
        await popping
    with pytest.raises(PoolClosed):
        await manager.get_client()
