"""Both pools on a real server: borrowing, waiting, cancelling, closing; counters close."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout
from redispool_app.redis_pool import RedisConnectionManager

from .engine.runtime.test_forks import in_child
from .support.servers import eventually


def in_use(manager):
    return manager.get_pool_info()["connections_in_use"]


async def test_callers_beyond_the_limit_wait_for_their_turn(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=3)
    client = await manager.get_client()
    replies = await asyncio.gather(*(client.echo(f"v{i}") for i in range(50)))
    assert replies == [f"v{i}".encode() for i in range(50)]
    info = manager.get_pool_info()
    assert info["connections_open"] <= 3
    assert info["connections_in_use"] == info["waiting"] == 0


async def test_waiting_ends_with_pool_timeout(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.1)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        with pytest.raises(PoolTimeout, match="raise MAX_CONNECTIONS"):
            await client.get("x")
        assert in_use(manager) == 1
    assert await client.get("x") is None
    assert in_use(manager) == 0


async def test_pool_timeout_is_caught_by_code_written_for_redis_py(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.05)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        with pytest.raises(redis_exceptions.ConnectionError):
            await client.get("x")
        with pytest.raises(redis_exceptions.TimeoutError):
            await client.get("x")


async def test_a_full_queue_refuses_at_once(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, MAX_WAITING=0, TIMEOUT=60)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        with pytest.raises(PoolQueueFull):
            await client.get("x")


async def test_exhaustion_does_not_make_the_server_unhealthy(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.05)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        with pytest.raises(PoolTimeout):
            await client.get("x")
        manager._last_health_check = 0.0
        assert await manager.get_client() is client, "the check found a way past the exhausted pool"
    assert manager._is_healthy


async def test_a_cancelled_waiter_loses_no_connection(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2)
    client = await manager.get_client()

    async def caller(number):
        return await client.echo(f"v{number}")

    rng = random.Random(7)
    for _ in range(60):
        tasks = [asyncio.create_task(caller(number)) for number in range(12)]
        for task in rng.sample(tasks, 5):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        for number, reply in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(reply, asyncio.CancelledError) or reply == f"v{number}".encode()
    assert in_use(manager) == 0
    assert manager.get_pool_info()["waiting"] == 0
    assert await client.ping()


async def test_a_connection_given_at_the_moment_of_cancellation_is_given_back(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1)
    client = await manager.get_client()
    pool = client.connection_pool
    held = await pool.get_connection()
    waiting = asyncio.create_task(pool.get_connection())
    await asyncio.sleep(0)
    await pool.release(held)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert in_use(manager) == 0
    assert await asyncio.wait_for(client.ping(), 1)


async def test_a_connection_that_the_server_closed_is_never_handed_out(server, manager):
    client = await manager.get_client()
    await client.ping()
    with server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert await client.echo("still here") == b"still here"
    assert manager._is_healthy


async def test_a_pipeline_keeps_its_replies_in_order(manager):
    client = await manager.get_client()
    pipe = client.pipeline()
    for number in range(100):
        pipe.echo(str(number))
    assert await pipe.execute() == [str(number).encode() for number in range(100)]


def test_threads_share_a_bounded_pool(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=4)
    wrong = []

    def work(number):
        client = manager.get_sync_client()
        wrong.extend(turn for turn in range(50) if client.echo(f"{number}-{turn}") != f"{number}-{turn}".encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    info = manager.get_pool_info()
    assert wrong == []
    assert info["connections_open"] <= 4
    assert info["connections_in_use"] == info["waiting"] == 0


def test_a_thread_waits_for_its_turn_and_gives_up_in_time(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.1)
    pool = manager.get_sync_client().connection_pool
    held = pool.get_connection()
    with pytest.raises(PoolTimeout):
        pool.get_connection()
    pool.timeout = 30
    taken = []
    thread = threading.Thread(target=lambda: taken.append(pool.get_connection()))
    thread.start()
    eventually(lambda: pool.state.waiters)
    pool.release(held)
    thread.join(5)
    assert taken == [held]
    pool.release(held)
    assert in_use(manager) == 0


def test_a_closed_connection_is_never_handed_to_a_thread(server, manager):
    client = manager.get_sync_client()
    client.ping()
    with server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    time.sleep(0.05)
    assert client.echo("still here") == b"still here"


def test_closing_wakes_threads_that_wait(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=30, CLOSE_TIMEOUT=0.1)
    pool = manager.get_sync_client().connection_pool
    held = pool.get_connection()
    errors = []

    def work():
        try:
            pool.get_connection()
        except PoolClosed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: pool.state.waiters)
    manager.close_sync()
    thread.join(5)
    assert len(errors) == 1
    assert held in pool.state.in_use
    assert manager.get_pool_info()["connections_open"] == 0


async def test_opened_equals_closed_plus_open_whatever_happens(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_CONNECTIONS=10, CLOSE_TIMEOUT=0.2)
    client = await manager.get_client()
    for round_number in range(5):
        tasks = [asyncio.create_task(client.echo(str(number))) for number in range(30)]
        await asyncio.sleep(0.001 * round_number)
        with own_server.client() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        await asyncio.gather(*tasks, return_exceptions=True)
    info = manager.get_pool_info()
    assert info["connections_opened_total"] - info["connections_closed_total"] == info["connections_open"]
    await manager.close()
    info = manager.get_pool_info()
    assert info["connections_opened_total"] == info["connections_closed_total"]
    eventually(lambda: own_server.connections() == 0)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_work_and_the_server_knows_who_connects(server, pool_settings, protocol):
    manager = pool_settings(server.url, PROTOCOL=protocol, CLIENT_NAME="who-asks")
    client = await manager.get_client()
    await client.hset("h", mapping={"a": 1})
    assert await client.hgetall("h") == {b"a": b"1"}
    assert manager.get_sync_client().hgetall("h") == {b"a": b"1"}
    for about in (await client.client_info(), manager.get_sync_client().client_info()):
        assert about["name"] == manager.get_pool_info()["client_name"]
        assert about["name"].startswith("who-asks:")
        assert about["resp"] == str(protocol)
        # CLIENT SETINFO exists since Redis 7.2.
        assert "django-redispool-app" in about.get("lib-name", "django-redispool-app")


async def test_an_idle_connection_is_closed_and_the_shared_one_stays(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_IDLE_TIME=0.2)
    client = await manager.get_client()
    await asyncio.gather(*(client.blpop(f"never-{number}", 0.01) for number in range(5)))
    assert own_server.connections() == 6
    await asyncio.sleep(0.6)
    assert own_server.connections() == 1
    info = manager.get_pool_info()
    assert (info["connections_open"], info["connections_shared"], info["connections_idle"]) == (1, 1, 0)
    assert info["connections_opened_total"] == info["connections_closed_total"] + 1
    assert await client.blpop("never", 0.01) is None


def idle_thread():
    return [thread for thread in threading.enumerate() if thread.name == "redispool-idle"]


def test_idle_connections_of_threads_are_closed_without_a_call(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_IDLE_TIME=0.2)
    pool = manager.get_sync_client().connection_pool
    assert manager.get_sync_client().ping()
    held = [pool.get_connection() for _ in range(4)]
    assert own_server.connections() == 5
    for connection in held:
        pool.release(connection)
    assert len(idle_thread()) == 1
    assert own_server.connections() == 5
    eventually(lambda: own_server.connections() == 1)
    eventually(lambda: not idle_thread())
    info = manager.get_pool_info()
    assert (info["connections_open"], info["connections_idle"]) == (1, 0)
    assert manager.get_sync_client().blpop("never", 0.01) is None
    assert len(idle_thread()) == 1, "it is started again"


def test_one_thread_serves_all_pools_and_ends_when_they_are_closed(own_server, pools):
    pools(first={"CONNECTION_URL": own_server.url, "MAX_IDLE_TIME": 60}, second={"CONNECTION_URL": own_server.url})
    managers = [RedisConnectionManager("first"), RedisConnectionManager("second")]
    for manager in managers:
        manager.get_sync_client().blpop("never", 0.01)
    assert len(idle_thread()) == 1
    managers[0].close_sync()
    assert len(idle_thread()) == 1
    managers[1].close_sync()
    eventually(lambda: not idle_thread())


def test_a_pool_with_a_shorter_time_is_not_kept_waiting_by_another(own_server, pools):
    pools(
        first={"CONNECTION_URL": own_server.url, "MAX_IDLE_TIME": 60},
        second={"CONNECTION_URL": own_server.url, "MAX_IDLE_TIME": 0.1},
    )
    for alias in ("first", "second"):
        RedisConnectionManager(alias).get_sync_client().blpop("never", 0.01)
    eventually(lambda: RedisConnectionManager("second").get_pool_info()["connections_idle"] == 0)
    assert RedisConnectionManager("first").get_pool_info()["connections_idle"] == 1


def test_a_connection_that_its_borrower_has_lost_is_closed_with_the_idle_ones(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_IDLE_TIME=0.1)
    pool = manager.get_sync_client().connection_pool
    lost, kept, idle = (pool.get_connection() for _ in range(3))
    del lost
    pool.release(idle)
    eventually(lambda: pool.state.in_use == [kept])
    eventually(lambda: own_server.connections() == 2)  # and the shared one
    pool.release(kept)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_closes_its_own_idle_connections(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_IDLE_TIME=0.2)
    manager.get_sync_client().blpop("never", 0.01)

    def work():
        here = len(idle_thread())
        manager.get_sync_client().blpop("never", 0.01)
        started = len(idle_thread())
        eventually(lambda: manager.get_pool_info()["connections_idle"] == 0)
        eventually(lambda: not idle_thread())
        return here, started

    assert in_child(work) == "(0, 1)"


async def test_a_connection_is_replaced_at_the_end_of_its_lifetime(server, pool_settings):
    manager = pool_settings(server.url, MAX_LIFETIME=0.2)
    client = await manager.get_client()
    first = await client.client_id()
    assert await client.client_id() == first
    await asyncio.sleep(0.25)
    assert await client.client_id() != first
    sync_client = manager.get_sync_client()
    first = sync_client.client_id()
    assert sync_client.client_id() == first
    await asyncio.sleep(0.25)
    assert sync_client.client_id() != first
