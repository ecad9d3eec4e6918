"""A reset that cuts a health check under way says nothing about the server."""

from __future__ import annotations

import asyncio
import threading

from redispool_app.exceptions import PoolClosed
from tests.support.servers import eventually

KEYS = {
    "SOCKET_TIMEOUT": 30.0,
    "SOCKET_CONNECT_TIMEOUT": 10.0,
    "HEALTH_CHECK_TIMEOUT": 10.0,
    "CLOSE_TIMEOUT": 0.2,
}


def reset_beside(manager):
    """Reset in another thread; the check within it shares the one under way."""
    thread = threading.Thread(target=manager.reset_sync)
    thread.start()
    return thread


def assert_no_outage(manager):
    states = [change["state"] for change in manager.health_history()]
    assert "unhealthy" not in states, manager.health_history()
    assert manager.get_pool_info()["is_healthy"]


def test_a_check_in_a_thread_that_a_reset_cuts_goes_on_with_the_next_pool(own_server, pool_settings):
    manager = pool_settings(own_server.url, **KEYS)
    manager.get_sync_client().ping()
    verdicts = []
    own_server.pause()
    try:
        checking = threading.Thread(target=lambda: verdicts.append(manager._health_check_sync()))
        checking.start()
        pool_set = manager._pool_set
        before = pool_set._sync
        eventually(lambda: before[1]._sharing.in_flight == 1)
        resetting = reset_beside(manager)
        eventually(lambda: pool_set._sync is not before and pool_set._sync is not None)
    finally:
        own_server.resume()
    checking.join(5)
    resetting.join(5)
    assert verdicts == [True]
    assert_no_outage(manager)


async def test_a_check_in_an_event_loop_that_a_reset_cuts_goes_on_with_the_next_pool(own_server, pool_settings):
    manager = pool_settings(own_server.url, **KEYS)
    await (await manager.get_client()).ping()
    own_server.pause()
    try:
        checking = asyncio.ensure_future(manager._health_check())
        loops = manager._pool_set.loops
        before = loops.current()
        async with asyncio.timeout(5):
            while before.pool._sharing.in_flight == 0:
                await asyncio.sleep(0.01)
        resetting = reset_beside(manager)
        async with asyncio.timeout(5):
            while loops.current() in (before, None):
                await asyncio.sleep(0.01)
    finally:
        own_server.resume()
    assert await asyncio.wait_for(checking, 5)
    await asyncio.to_thread(resetting.join, 5)
    assert_no_outage(manager)
    await manager.close()


def test_resets_beside_checks_cause_no_outage(own_server, pool_settings):
    manager = pool_settings(own_server.url, **{**KEYS, "HEALTH_CHECK_INTERVAL": 0.001})
    manager.get_sync_client().ping()
    done, failures = threading.Event(), []

    def use():
        while not done.is_set():
            try:
                manager.get_sync_client().ping()
            except PoolClosed:
                continue  # the client is of before a reset
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        manager.reset_sync()
    done.set()
    for thread in threads:
        thread.join(5)
    assert failures == []
    assert_no_outage(manager)
