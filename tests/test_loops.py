"""Event loops come and go; no socket, task or warning stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from redispool_app.redis_pool import redis_connection_manager

from .servers import eventually


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
        stale.by_loop[id(asyncio.get_running_loop())] = entry
        return entry.client

    first = asyncio.run(impersonate())
    loop = asyncio.new_event_loop()
    stale.by_loop[id(loop)] = entry
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
