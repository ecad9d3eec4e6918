"""Event loops come and go; no socket, task or warning stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
import weakref
from time import monotonic

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from redispool_app.engine import AsyncRedis
from redispool_app.redis_pool import redis_connection_manager
from tests.engine.connection.test_transports import PATIENT, tls  # noqa: F401 (a fixture)
from tests.support.servers import eventually


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def use():
    async with redis_connection_manager.get_connection() as client:
        return await client.incr("turns")


async def use_at_once(callers=5):
    return await asyncio.gather(*(use() for _ in range(callers)))


def test_a_thousand_asyncio_runs_leave_nothing_behind(manager, server):
    asyncio.run(use())
    gc.collect()
    before = descriptors()
    for _ in range(1000):
        asyncio.run(use())
    gc.collect()
    assert descriptors() <= before
    assert manager.get_pool_info()["loops"] == 0
    assert manager.get_pool_info()["connections_open"] == 0
    assert int(server.client().get("turns")) == 1001


def test_a_thousand_async_to_sync_calls_leave_nothing_behind(manager, server):
    async_to_sync(use)()
    gc.collect()
    before = descriptors()
    for _ in range(1000):
        async_to_sync(use)()
    gc.collect()
    assert descriptors() <= before
    assert manager.get_pool_info()["connections_open"] == 0


def test_async_to_sync_in_many_threads_at_once(manager, server):
    failures = []

    def work():
        try:
            for _ in range(20):
                async_to_sync(use_at_once)()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert int(server.client().get("turns")) == 8 * 20 * 5
    eventually(lambda: server.connections() <= 1)
    assert manager.get_pool_info()["connections_open"] == 0


def test_sync_code_called_from_a_loop_may_start_a_loop_of_its_own(manager):
    async def outer():
        await use()
        return await sync_to_async(async_to_sync(use))()

    assert asyncio.run(outer()) == 2


def test_two_loops_at_once_have_a_client_each(manager):
    clients = []
    barrier = threading.Barrier(2)

    async def take():
        client = await manager.get_client()
        clients.append(client)
        barrier.wait(5)
        await client.ping()

    threads = [threading.Thread(target=lambda: asyncio.run(take())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert clients[0] is not clients[1]


def test_a_loop_closed_without_ceremony_is_swept_up(manager, server):
    def leave_a_loop_behind():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.close()

    leave_a_loop_behind()
    assert manager.get_pool_info()["connections_open"] == 0
    gc.collect()
    eventually(lambda: server.connections() == 0)


def test_a_loop_that_takes_the_id_of_another_gets_a_client_of_its_own(manager):
    client = asyncio.run(take_client())
    stale = manager._built().loops
    entry = None

    async def impersonate():
        nonlocal entry
        entry = await stale.open()
        stale.by_loop[id(asyncio.get_running_loop())] = weakref.ref(entry)
        return entry.client

    first = asyncio.run(impersonate())
    loop = asyncio.new_event_loop()
    stale.by_loop[id(loop)] = weakref.ref(entry)
    second = loop.run_until_complete(take_client())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert len({id(client), id(first), id(second)}) == 3


async def take_client():
    return await redis_connection_manager.get_client()


def test_a_loop_that_ends_with_commands_under_way_closes_their_connections(manager, server):
    async def leave_early():
        client = await manager.get_client()
        for _ in range(5):
            asyncio.get_running_loop().create_task(client.blpop("never", 30))
        await asyncio.sleep(0.1)

    asyncio.run(leave_early())
    gc.collect()
    eventually(lambda: server.connections() == 0)
    assert manager.get_pool_info()["connections_open"] == 0


def test_a_check_whose_loop_ends_is_taken_over_by_the_next(own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=1)
    own_server.pause()

    async def leave_during_the_check():
        asyncio.get_running_loop().create_task(manager._health_check())
        await asyncio.sleep(0.05)

    asyncio.run(leave_during_the_check())
    own_server.resume()
    assert asyncio.run(asyncio.wait_for(use(), 5)) == 1


def test_nothing_warns_when_the_manager_is_used_everywhere_and_never_closed(manager):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            asyncio.run(use_at_once())
            manager.get_sync_client().ping()
        gc.collect()


@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
def test_it_works_under(loop_module, manager, server):
    runner = pytest.importorskip(loop_module).run
    assert runner(use()) == 1
    assert sorted(runner(use_at_once())) == [2, 3, 4, 5, 6]
    gc.collect()
    eventually(lambda: server.connections() == 0)


# Loops that are dropped without being closed.


def drop_a_loop():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use_shared_and_exclusive())


def drop_a_loop_in_a_thread():
    thread = threading.Thread(target=drop_a_loop)
    thread.start()
    thread.join()


async def use_shared_and_exclusive():
    async with redis_connection_manager.get_connection() as client:
        await client.incr("turns")
        assert await client.execute_command("CLIENT", "ID")


def dropping(test):
    """Let asyncio warn about a loop that is dropped, and the transports and sockets of it that are finalized first."""
    for message in (
        "unclosed event loop",
        "unclosed transport",
        "unclosed <(socket|StreamWriter|ssl)",
        "loop is closed",
    ):
        test = pytest.mark.filterwarnings(f"ignore:{message}:ResourceWarning")(test)
    return test


@dropping
@pytest.mark.parametrize("drop", [drop_a_loop, drop_a_loop_in_a_thread])
def test_a_hundred_dropped_loops_leave_nothing_behind(drop, manager, server):
    drop()
    gc.collect()
    before = descriptors()
    for _ in range(10):
        for _ in range(10):
            drop()
        gc.collect()
        assert descriptors() <= before
    info = manager.get_pool_info()
    assert (info["loops"], info["connections_open"]) == (0, 0)
    assert info["connections_opened_total"] == info["connections_closed_total"] >= 202
    eventually(lambda: server.connections() == 0)
    assert int(server.client().get("turns")) == 101


@dropping
def test_dropped_loops_close_their_tls_connections(server, tls, pool_settings):  # noqa: F811
    url, keys = tls
    manager = pool_settings(url, **PATIENT, **keys)
    drop_a_loop()
    gc.collect()
    before = descriptors()
    for _ in range(20):
        drop_a_loop()
    gc.collect()
    assert manager.get_pool_info()["connections_open"] == 0
    eventually(lambda: descriptors() <= before)  # the other end of each is in this process, too


@dropping
@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
def test_a_loop_that_does_not_run_at_the_moment_keeps_its_connections(loop_module, manager, server):
    loop = pytest.importorskip(loop_module).new_event_loop()
    loop.run_until_complete(use_shared_and_exclusive())
    for _ in range(3):
        asyncio.run(use())
        drop_a_loop()
        gc.collect()
    assert manager.get_pool_info()["connections_open"] == 2
    opened = manager.get_pool_info()["connections_opened_total"]
    loop.run_until_complete(use_shared_and_exclusive())
    assert manager.get_pool_info()["connections_opened_total"] == opened
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert manager.get_pool_info()["connections_open"] == 0
    gc.collect()
    eventually(lambda: server.connections() == 0)


def test_closing_a_loop_with_open_connections_returns_at_once(manager, server):
    for _ in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use_shared_and_exclusive())
        started = monotonic()
        loop.close()
        assert monotonic() - started < 5
    assert manager.get_pool_info()["connections_open"] == 0
    del loop
    gc.collect()
    eventually(lambda: server.connections() == 0)


@dropping
def test_a_retired_client_does_not_keep_a_dropped_loop(manager, server):
    drop_a_loop()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use_shared_and_exclusive())
    asyncio.run(manager.reset_pool())
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None
    eventually(lambda: server.connections() <= 1)


@dropping
def test_a_client_without_a_manager_does_not_keep_a_dropped_loop(server):
    def drop():
        loop = asyncio.new_event_loop()
        client = AsyncRedis.from_url(server.url)
        loop.run_until_complete(client.ping())
        loop.run_until_complete(client.aclose())

    drop()
    gc.collect()
    before = descriptors()
    for _ in range(20):
        drop()
    gc.collect()
    assert descriptors() <= before
