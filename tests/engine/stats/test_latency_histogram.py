"""The distribution of round trips, for metrics: every command counts."""

from __future__ import annotations

import asyncio
import math

import pytest

from redispool_app.engine.stats.counters import Statistics


def total(manager):
    return manager.latency_histogram()[0][-1][1]


async def test_every_command_of_every_face_counts_once(manager):
    client = await manager.get_client()
    await asyncio.gather(*(client.get(f"k{number}") for number in range(100)))
    blocking = manager.get_sync_client()
    for _ in range(7):
        blocking.get("a")
    await client.pipeline().get("a").get("b").execute()
    blocking.pipeline(False).get("a").get("b").execute()
    assert total(manager) == manager.get_pool_info()["commands_total"] >= 109


async def test_the_counts_are_cumulative_and_the_sum_is_that_of_the_seconds(server, manager):
    client = await manager.get_client()
    before = manager.latency_histogram()[1]
    with server.client() as admin:
        admin.client_pause(60)
    await asyncio.gather(*(client.get(f"k{number}") for number in range(50)))
    pairs, seconds = manager.latency_histogram()
    bounds, counts = [bound for bound, _ in pairs], [count for _, count in pairs]
    assert bounds == sorted(bounds)
    assert bounds[-1] == math.inf
    assert counts == sorted(counts)
    slow = counts[-1] - next(count for bound, count in pairs if bound >= 0.03)
    assert slow == 50
    assert 50 * 0.05 < seconds - before < 50 * 1.0


def test_one_sample_stands_for_all_commands_of_a_batch():
    statistics = Statistics()
    statistics.sample(0.001, 31)
    statistics.sample(0.1)
    pairs, seconds = statistics.histogram()
    assert pairs[-1] == (math.inf, 32)
    assert seconds == pytest.approx(0.131)
    assert statistics.percentiles([0.5])[0] == pytest.approx(0.001, rel=0.2)


def test_totals_of_several_connections_add_up():
    one, other = Statistics(), Statistics()
    one.sample(0.5, 2)
    other.sample(0.25, 4)
    one.add(other)
    assert one.histogram()[0][-1][1] == 6
    assert one.histogram()[1] == pytest.approx(2.0)


def test_a_pool_that_was_never_used_has_an_empty_one(pool_settings):
    pairs, seconds = pool_settings("redis://127.0.0.1:1").latency_histogram()
    assert (pairs[-1], seconds) == ((math.inf, 0), 0.0)
