"""How long connections took to make, to get and to be given back, counted where it happens."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import replace

import pytest

from redispool_app.engine.multiplex.multiplexer_async import async_multiplexer_of
from redispool_app.engine.stats.histogram import BOUNDS, ConnectionTimes, Durations
from redispool_app.exceptions import PoolTimeout
from tests.engine.runtime.test_forks import in_child


def count(distribution):
    return distribution[0][-1][1]


def test_every_time_is_counted_in_its_range_and_in_all_wider_ones():
    durations = Durations()
    for seconds in (0.0, 0.0001, 0.0002, 0.3, 1000.0):
        durations.add(seconds)
    pairs, total = durations.distribution()
    assert [bound for bound, _ in pairs] == [*BOUNDS, math.inf]
    counts = dict(pairs)
    assert counts[0.0001] == 2
    assert counts[0.00025] == 3
    assert counts[0.25] == 3
    assert counts[0.5] == counts[60.0] == 4
    assert counts[math.inf] == 5
    assert total == pytest.approx(1000.3003)


def test_no_time_is_lost_between_threads():
    durations = Durations()

    def add_many():
        for _ in range(2000):
            durations.add(0.5)

    threads = [threading.Thread(target=add_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(durations.distribution()) == 16_000
    assert durations.distribution()[1] == 8_000.0


def test_the_times_say_when_they_began():
    before = time.time()
    assert before <= ConnectionTimes().since <= time.time()


def times_of(manager):
    return manager._built().monitor.times


def test_a_borrowed_blocking_connection_is_measured_from_asking_to_giving_back(manager):
    client = manager.get_sync_client()
    pool = client.connection_pool
    created = count(times_of(manager).create.distribution())
    connection = pool.get_connection()
    time.sleep(0.02)
    pool.release(connection)
    times = times_of(manager)
    assert count(times.create.distribution()) == created + 1
    assert count(times.wait.distribution()) == count(times.use.distribution()) == 1
    assert 0.02 <= times.use.distribution()[1] < 2
    pool.release(connection)
    assert count(times.use.distribution()) == 1, "given back once"


async def test_a_borrowed_asyncio_connection_is_measured_from_asking_to_giving_back(manager):
    client = await manager.get_client()
    pool = client.connection_pool
    created = count(times_of(manager).create.distribution())
    connection = await pool.get_connection()
    await asyncio.sleep(0.02)
    await pool.release(connection)
    times = times_of(manager)
    assert count(times.create.distribution()) == created + 1
    assert count(times.wait.distribution()) == count(times.use.distribution()) == 1
    assert 0.02 <= times.use.distribution()[1] < 2
    again = await pool.get_connection()
    await pool.release(again)
    assert count(times.create.distribution()) == created + 1, "the idle connection was used again"


async def test_waiting_for_somebody_else_s_connection_is_part_of_the_wait(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2)
    pool = (await manager.get_client()).connection_pool
    held = await pool.get_connection()
    waiting = asyncio.ensure_future(pool.get_connection())
    await asyncio.sleep(0.03)
    await pool.release(held)
    await pool.release(await waiting)
    assert times_of(manager).wait.distribution()[1] >= 0.03


def test_the_shared_connection_is_measured_when_it_is_made_and_never_borrowed(manager):
    manager.get_sync_client().set("k", 1)
    times = times_of(manager)
    assert count(times.create.distribution()) == 1
    assert count(times.wait.distribution()) == count(times.use.distribution()) == 0


async def test_a_caller_that_waits_in_vain_is_counted(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.05)
    client = await manager.get_client()
    async with client.pipeline() as pipe:
        await pipe.watch("held")
        with pytest.raises(PoolTimeout):
            await client.get("x")
    assert manager.get_pool_info()["acquire_timeouts_total"] == 1


def test_a_blocking_caller_that_waits_in_vain_is_counted(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.05)
    client = manager.get_sync_client()
    with client.pipeline() as pipe:
        pipe.watch("held")
        with pytest.raises(PoolTimeout):
            client.get("x")
    assert manager.get_pool_info()["acquire_timeouts_total"] == 1


async def test_who_finds_no_room_on_the_shared_connection_in_time_is_counted(manager):
    client = await manager.get_client()
    await client.ping()
    sharing = async_multiplexer_of(client.connection_pool)
    sharing.limits = replace(sharing.limits, max_in_flight=0)
    with pytest.raises(PoolTimeout, match="No room"):
        await sharing._wait_for_room(time.monotonic() + 0.01)
    assert manager.get_pool_info()["acquire_timeouts_total"] == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_with_none_of_its_parent_s_times(manager):
    client = manager.get_sync_client()
    client.connection_pool.release(client.connection_pool.get_connection())
    assert count(times_of(manager).wait.distribution()) == 1
    assert in_child(lambda: count(times_of(manager).wait.distribution())) == "0"
