"""The shared connection: one write per tick, replies in order, deadlines, bounds, reconnects, numbers."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.engine.stats.counters import Statistics
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout
from tests.support.servers import eventually

SLACK = 1.0


async def client_with(manager, **limits):
    """The manager's client with other limits on its sharing."""
    client = await manager.get_client()
    sharing = client.sharing
    sharing.limits = dataclasses.replace(sharing.limits, **limits)
    return client


async def test_a_thousand_callers_use_one_connection(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    replies = await asyncio.gather(*(client.echo(str(number)) for number in range(1000)))
    assert replies == [str(number).encode() for number in range(1000)]
    assert own_server.connections() == 1
    assert manager.get_pool_info()["connections_opened_total"] == 1


async def test_commands_of_one_tick_leave_in_one_write(manager):
    client = await manager.get_client()
    before = client.sharing.statistics.batches
    await asyncio.gather(*(client.get(str(number)) for number in range(20)))
    assert client.sharing.statistics.batches == before + 1


async def test_a_long_tick_writes_before_its_end(manager):
    client = await manager.get_client()
    before = client.sharing.statistics.batches
    await asyncio.gather(*(client.get(str(number)) for number in range(100)))
    assert client.sharing.statistics.batches == before + 4


async def test_a_command_cancelled_before_it_was_written_is_never_sent(manager, server):
    client = await manager.get_client()
    task = asyncio.create_task(client.incr("n"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.ping()
    assert server.calls("incr") == 0
    assert client.sharing.in_flight == client.sharing.connection.bytes_in_flight == 0


async def test_a_command_cancelled_after_it_was_written_leaves_its_reply_to_nobody(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    await client.set("mine", "m")
    own_server.pause()
    leaving = asyncio.create_task(client.echo("leaving"))
    staying = asyncio.create_task(client.get("mine"))
    await asyncio.sleep(0.05)
    leaving.cancel()
    own_server.resume()
    assert await staying == b"m"
    assert client.sharing.in_flight == 0


async def test_each_caller_has_its_own_deadline(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.4)
    client = await manager.get_client()
    own_server.pause()
    started = time.monotonic()

    async def wait_after(delay):
        await asyncio.sleep(delay)
        begun = time.monotonic()
        with pytest.raises((redis_exceptions.TimeoutError, redis_exceptions.ConnectionError)):
            await client.get("x")
        return time.monotonic() - begun

    waits = await asyncio.gather(*(wait_after(delay) for delay in (0, 0.1, 0.2, 0.3)))
    assert max(waits) < 0.4 * 1.1 + SLACK
    assert time.monotonic() - started < 1 + SLACK
    own_server.resume()
    eventually(lambda: manager._is_healthy)
    assert await (await manager.get_client()).get("x") is None


async def test_a_write_that_times_out_has_an_unknown_outcome_and_a_read_has_not(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.2)
    client = await manager.get_client()
    own_server.pause()
    reading, writing = asyncio.create_task(client.get("n")), asyncio.create_task(client.incr("n"))
    with pytest.raises(redis_exceptions.TimeoutError) as caught:
        await reading
    assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(OutcomeUnknown, match="may or may not have been carried out"):
        await writing
    own_server.resume()


async def test_a_slow_reply_costs_its_caller_and_nobody_else(server, pool_settings):
    manager = pool_settings(server.url, SOCKET_TIMEOUT=0.5)
    client = await manager.get_client()
    connection = client.sharing.connection
    replies = []

    async def chatter():
        for number in range(60):
            replies.append(await client.echo(str(number)))
            await asyncio.sleep(0.01)

    await asyncio.gather(chatter(), client.blpop("never", 0.3))
    assert replies == [str(number).encode() for number in range(60)]
    assert client.sharing.connection is connection


async def test_callers_beyond_the_bound_wait_their_turn(manager):
    client = await client_with(manager, max_in_flight=10)
    most = 0

    async def call(number):
        nonlocal most
        reply = await client.echo(str(number))
        most = max(most, client.sharing.in_flight)
        return reply

    assert await asyncio.gather(*(call(number) for number in range(500))) == [str(n).encode() for n in range(500)]
    assert most <= 10 + 1
    assert client.sharing.waiting == 0


async def test_a_turn_that_was_given_is_taken_by_no_newcomer(manager):
    client = await client_with(manager, max_in_flight=10)
    most, order = 0, []

    async def call_again_and_again(number):
        nonlocal most
        for turn in range(20):
            assert await client.echo(f"{number}:{turn}") == f"{number}:{turn}".encode()
            order.append(turn)
            most = max(most, client.sharing.in_flight)

    # With twice as many callers as there is room for, all who wait get their turn at once.
    await asyncio.gather(*(call_again_and_again(number) for number in range(20)))
    assert most <= 10
    assert all(abs(turn - place // 20) <= 1 for place, turn in enumerate(order)), "first come, first served"


async def test_bytes_in_flight_are_bounded(manager):
    client = await client_with(manager, max_in_flight_bytes=50_000)
    values = [bytes([number % 256]) * 20_000 for number in range(50)]
    assert await asyncio.gather(*(client.echo(value) for value in values)) == values
    assert client.sharing.connection.bytes_in_flight == 0


async def test_a_second_bound_refuses_at_once(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await client_with(manager, max_in_flight=5, max_waiting=5)
    own_server.pause()
    tasks = [asyncio.create_task(client.get(str(number))) for number in range(10)]
    await asyncio.sleep(0.05)
    with pytest.raises(PoolQueueFull):
        await client.get("one too many")
    assert manager.get_pool_info()["refused_total"] == 1
    own_server.resume()
    assert await asyncio.gather(*tasks) == [None] * 10


async def test_waiting_for_room_ends_at_the_callers_deadline(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.3)
    client = await client_with(manager, max_in_flight=1)
    own_server.pause()
    first = asyncio.create_task(client.get("first"))
    await asyncio.sleep(0.15)
    second = asyncio.create_task(client.get("second"))
    with pytest.raises(redis_exceptions.TimeoutError):
        await first
    with pytest.raises((PoolTimeout, redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)):
        await asyncio.wait_for(second, 0.3 + SLACK)
    own_server.resume()


async def test_callers_that_leave_the_queue_leave_it_whole(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await client_with(manager, max_in_flight=2)
    own_server.pause()
    tasks = [asyncio.create_task(client.echo(str(number))) for number in range(20)]
    await asyncio.sleep(0.05)
    for task in tasks[5:15]:
        task.cancel()
    own_server.resume()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) or result == str(number).encode()
    assert (client.sharing.in_flight, client.sharing.waiting) == (0, 0)


async def test_a_killed_connection_is_replaced_and_reads_do_not_notice(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    await client.set("x", "kept")
    for _ in range(10):
        reading = [asyncio.create_task(client.get("x")) for _ in range(20)]
        with own_server.client() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        assert await asyncio.gather(*reading) == [b"kept"] * 20
    assert manager.get_pool_info()["reconnects_total"] >= 1
    eventually(lambda: own_server.connections() == 1)


async def test_reconnecting_is_one_attempt_for_all(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    client.sharing.connection.close()
    client.sharing.connection = None
    opened = manager.get_pool_info()["connections_opened_total"]
    await asyncio.gather(*(client.get("x") for _ in range(500)))
    assert manager.get_pool_info()["connections_opened_total"] == opened + 1


async def test_very_large_commands_travel_alone(manager):
    client = await client_with(manager, max_shared_bytes=1000)
    before = client.sharing.statistics.commands
    await client.set("big", b"x" * 5000)
    assert client.sharing.statistics.commands == before
    assert len(await client.get("big")) == 5000
    assert manager.get_pool_info()["connections_open"] == 2


async def test_draining_lets_replies_come_and_then_refuses(own_server, pool_settings):
    manager = pool_settings(own_server.url, CLOSE_TIMEOUT=3)
    client = await manager.get_client()
    own_server.pause()
    due = asyncio.create_task(client.echo("due"))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(0.05)
    with pytest.raises(PoolClosed):
        await client.get("late")
    own_server.resume()
    await closing
    assert await due == b"due"
    eventually(lambda: own_server.connections() == 0)


async def test_without_a_manager_it_works_and_closes_too(own_server):
    client = AsyncRedis(host="127.0.0.1", port=own_server.port, decode_responses=True)
    await client.set("a", "ä")
    assert await asyncio.gather(*(client.get("a") for _ in range(100))) == ["ä"] * 100
    assert own_server.connections() == 1
    await client.aclose()
    eventually(lambda: own_server.connections() == 0)
    assert await client.get("a") == "ä", "a closed redis-py client opens again"
    await client.aclose()


def test_a_client_without_a_manager_survives_a_change_of_loops(own_server):
    client = AsyncRedis(host="127.0.0.1", port=own_server.port)

    async def use():
        return await client.incr("n")

    async def last_use():
        await client.aclose()

    assert [asyncio.run(use()) for _ in range(5)] == [1, 2, 3, 4, 5]
    asyncio.run(last_use())
    eventually(lambda: own_server.connections() == 0)


def test_percentiles_come_from_the_distribution():
    statistics = Statistics()
    assert statistics.percentiles() == [None, None, None]
    for _ in range(90):
        statistics.sample(0.001)
    for _ in range(10):
        statistics.sample(0.1)
    p50, p95, p99 = statistics.percentiles()
    assert p50 == pytest.approx(0.001, rel=0.2)
    assert p95 == p99 == pytest.approx(0.1, rel=0.2)


def test_totals_add_up():
    one, other = Statistics(), Statistics()
    one.commands, other.commands = 3, 4
    one.sample(0.001)
    other.sample(0.001)
    one.add(other)
    assert one.commands == 7
    assert sum(one.buckets) == 2


async def test_an_error_that_concerns_everybody_makes_the_next_caller_check(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    with own_server.client() as admin:
        admin.config_set("requirepass", "s3cret")
    own_server.password = "s3cret"
    with pytest.raises(redis_exceptions.ConnectionError):
        # What AUTH rotation does to a connection that must log in anew.
        await client.execute_command("EVAL", "return redis.error_reply('NOAUTH Authentication required.')", 0)
    assert not manager._is_healthy
    assert await (await manager.get_client()).ping(), "this connection is still logged in"


async def test_an_error_reply_concerns_its_caller_only(manager):
    client = await manager.get_client()
    await client.set("text", "x")
    results = await asyncio.gather(client.lpush("text", 1), client.get("text"), return_exceptions=True)
    assert isinstance(results[0], redis_exceptions.ResponseError)
    assert results[1] == b"x"
    assert manager._is_healthy


@pytest.mark.parametrize(
    ("said", "attempts"), [("Connection closed by server.", 2), ("max number of clients reached", 1)]
)
async def test_without_a_manager_only_a_cut_handshake_is_tried_again(own_server, monkeypatch, said, attempts):
    client = AsyncRedis.from_url(own_server.url)
    make, made = client.connection_pool.make_connection, []

    async def fail():
        raise redis_exceptions.ConnectionError(said)

    def make_connection():
        connection = make()
        made.append(connection)
        if len(made) == 1:
            connection.connect = fail
        return connection

    monkeypatch.setattr(client.connection_pool, "make_connection", make_connection)
    if attempts == 1:
        with pytest.raises(redis_exceptions.ConnectionError, match=said):
            await client.ping()
    else:
        assert await client.ping()
    assert len(made) == attempts
    await client.aclose()
