"""The shared connection through cuts and silence: nothing is done twice, nothing is forgotten, nobody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from time import monotonic

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy

LOST = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)
HANGS = 10.0
"""No caller of these tests may take this long (seconds); every deadline in them is far shorter."""


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy, **options):
    client = AsyncRedis.from_url(proxy.url, **{"socket_timeout": 5, **options})
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()


# redis-py's ``incr`` sends INCRBY.


async def one_command(client, key):
    await client.incr(key)


async def a_pipeline(client, key):
    await client.pipeline(transaction=False).incr(key).execute()


async def a_transaction(client, key):
    await client.pipeline(transaction=True).incr(key).execute()


WAYS = [one_command, a_pipeline, a_transaction]


def cut_by_proxy(proxy, server):
    proxy.cut()


def cut_by_server(proxy, server):
    with server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)


# Writing.


@pytest.mark.parametrize("cut", [cut_by_proxy, cut_by_server])
@pytest.mark.parametrize("increment", WAYS)
async def test_increments_through_cuts_are_never_done_twice_and_never_forgotten(proxy, server, increment, cut):
    acknowledged = unknown = 0
    ended = False

    async def caller():
        nonlocal acknowledged, unknown
        while not ended:
            try:
                await increment(client, "n")
                acknowledged += 1
            except OutcomeUnknown:
                unknown += 1
            except LOST:
                await asyncio.sleep(0.001)

    rng = random.Random(5)
    async with connected(proxy) as client:
        callers = [asyncio.create_task(caller()) for _ in range(50)]
        for cuts in range(1000):
            if cuts >= 12 and unknown:
                break
            await asyncio.sleep(rng.uniform(0.005, 0.05))
            cut(proxy, server)
        ended = True
        async with asyncio.timeout(HANGS):
            await asyncio.gather(*callers)
        counted = int(await client.get("n"))
        assert acknowledged <= counted <= acknowledged + unknown
        assert acknowledged > 100, "too little got through to prove anything"
        assert unknown > 0, "no cut has hit a command in flight"
        assert client.sharing.in_flight == 0


@pytest.mark.parametrize("increment", WAYS)
async def test_a_write_lost_on_its_way_is_of_unknown_outcome_and_not_sent_again(proxy, server, increment):
    async with connected(proxy) as client:
        proxy.cut_before = b"INCR"
        with pytest.raises(OutcomeUnknown) as caught:
            await increment(client, "n")
        assert isinstance(caught.value, redis_exceptions.ConnectionError)
        assert isinstance(caught.value, redis_exceptions.TimeoutError)
        assert await client.get("n") is None
        assert server.calls("incrby") == 0


@pytest.mark.parametrize("increment", WAYS)
async def test_a_write_whose_reply_was_lost_is_of_unknown_outcome_and_not_sent_again(proxy, server, increment):
    async with connected(proxy) as client:
        proxy.cut_after = b"INCR"
        with pytest.raises(OutcomeUnknown):
            await increment(client, "n")
        assert await client.get("n") == b"1"
        assert server.calls("incrby") == 1


@pytest.mark.parametrize("increment", WAYS)
async def test_writes_are_sent_again_where_the_project_asks_for_it(proxy, server, pool_settings, increment):
    manager = pool_settings(proxy.url, RETRY_WRITES=True, SOCKET_TIMEOUT=5.0)
    client = await manager.get_client()
    await client.ping()
    proxy.cut_before = b"INCR"
    await increment(client, "lost on its way")
    proxy.cut_after = b"INCR"
    await increment(client, "lost on its way back")
    client = await manager.get_client()
    assert await client.get("lost on its way") == b"1"
    assert await client.get("lost on its way back") == b"2"


async def test_a_pipeline_that_only_reads_is_sent_again(proxy):
    async with connected(proxy) as client:
        await client.mset({"a": 1, "b": 2})
        proxy.cut_before = b"GET"
        assert await client.pipeline(transaction=False).get("a").get("b").execute() == [b"1", b"2"]
        proxy.cut_after = b"GET"
        assert await client.pipeline(transaction=True).get("a").get("b").execute() == [b"1", b"2"]


async def test_a_write_finds_a_connection_that_the_server_has_closed_replaced(proxy, server):
    async with connected(proxy) as client:
        for turn in range(1, 6):
            proxy.cut(reset=turn % 2 == 0)
            await asyncio.sleep(0.05)
            assert await client.incr("n") == turn
        assert proxy.opened == 6
        assert server.calls("incrby") == 5


async def test_a_write_made_while_nothing_listens_is_done_once_when_something_does(proxy, server):
    async with connected(proxy) as client:
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(0.02)

        async def persistent():
            while True:
                try:
                    return await client.incr("n")
                except OutcomeUnknown:
                    raise
                except LOST:
                    await asyncio.sleep(0.01)

        callers = [asyncio.create_task(persistent()) for _ in range(20)]
        await asyncio.sleep(0.2)
        proxy.accept()
        async with asyncio.timeout(HANGS):
            assert sorted(await asyncio.gather(*callers)) == list(range(1, 21))
        assert server.calls("incrby") == 20
        assert proxy.connections == 1, "the callers were not content with one connection"


# Reading.


@pytest.mark.parametrize("cut", [cut_by_proxy, cut_by_server])
async def test_reads_succeed_through_cuts(proxy, server, cut):
    with server.client() as admin:
        admin.mset({f"key:{number}": number for number in range(100)})
    wrong, ended, read = [], False, 0

    async def caller(seed):
        nonlocal read
        rng = random.Random(seed)
        while not ended:
            number = rng.randrange(100)
            if rng.random() < 0.2:
                reply = (await client.pipeline(transaction=False).get(f"key:{number}").execute())[0]
            else:
                reply = await client.get(f"key:{number}")
            read += 1
            if reply != b"%d" % number:
                wrong.append((number, reply))

    async with connected(proxy) as client:
        # Five callers and ten cuts cannot use up the retries that a new client may make.
        callers = [asyncio.create_task(caller(seed)) for seed in range(5)]
        for _ in range(10):
            await asyncio.sleep(0.05)
            cut(proxy, server)
        ended = True
        async with asyncio.timeout(HANGS):
            await asyncio.gather(*callers)
        assert wrong == []
        assert read > 100
        assert proxy.opened > 5, "too few cuts have hit"
        assert client.sharing.statistics.retries > 0


async def test_a_big_reply_cut_in_its_middle_is_read_again(proxy):
    value = random.Random(1).randbytes(400_000)
    async with connected(proxy) as client:
        await client.set("big", value)
        await client.set("small", "s")
        proxy.cut_after_reply_bytes = 100_000
        big, *small = await asyncio.gather(client.get("big"), *(client.get("small") for _ in range(50)))
        assert big == value
        assert small == [b"s"] * 50
        assert proxy.cuts == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_replies_that_arrive_byte_by_byte_are_read_right(proxy, protocol):
    async with connected(proxy, protocol=protocol) as client:
        await client.hset("hash", mapping={f"f{number}": number for number in range(20)})
        await client.rpush("list", *range(20))
        proxy.piece = 1
        for _ in range(3):
            echoes, whole_hash, whole_list, pipeline, missing = await asyncio.gather(
                asyncio.gather(*(client.echo(f"e{number}") for number in range(20))),
                client.hgetall("hash"),
                client.lrange("list", 0, -1),
                client.pipeline().incr("n").get("n").llen("list").execute(),
                client.get("missing"),
            )
            assert echoes == [f"e{number}".encode() for number in range(20)]
            assert whole_hash == {b"f%d" % number: b"%d" % number for number in range(20)}
            assert whole_list == [b"%d" % number for number in range(20)]
            assert pipeline[1] == b"%d" % pipeline[0]
            assert pipeline[2] == 20
            assert missing is None
        assert proxy.opened == 1


async def test_what_is_issued_after_the_socket_has_failed_was_not_written(proxy, caplog):
    count = 10_000
    async with connected(proxy) as client:
        proxy.cut()
        # One long tick: the first write fails, and the loop has not turned when the other commands are issued.
        async with asyncio.timeout(HANGS):
            ended = await asyncio.gather(*(client.incr("n") for _ in range(count)), return_exceptions=True)
        done = [each for each in ended if isinstance(each, int)]
        assert len(done) > count * 0.9
        assert sorted(done) == list(range(1, len(done) + 1))
        assert all(isinstance(each, int | OutcomeUnknown) for each in ended)
        assert await client.get("n") == b"%d" % len(done)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# Retrying within bounds.


async def test_a_budget_bounds_what_all_callers_together_send_again(proxy):
    async with connected(proxy) as client:
        budget = client.sharing.budget
        size = budget.tokens = budget.size = 500
        proxy.cut_always = b"GET"
        async with asyncio.timeout(HANGS):
            ended = await asyncio.gather(*(client.get("x") for _ in range(4 * size)), return_exceptions=True)
        assert all(isinstance(each, LOST) for each in ended)
        assert not any(isinstance(each, OutcomeUnknown) for each in ended), "a read's outcome matters to nobody"
        assert 0 < client.sharing.statistics.retries <= size + 1
        proxy.heal()
        assert await client.get("x") is None


async def test_retries_end_with_the_callers_deadline(proxy):
    async with connected(proxy, socket_timeout=0.3) as client:
        proxy.cut_always = b"GET"
        client.sharing.budget.tokens = client.sharing.budget.size = 1e9
        started = monotonic()
        with pytest.raises(LOST):
            await client.get("x")
        assert monotonic() - started < HANGS


# Silence.


@pytest.mark.parametrize("increment", WAYS)
async def test_a_write_that_is_never_answered_is_of_unknown_outcome(proxy, increment):
    async with connected(proxy, socket_timeout=0.2) as client:
        proxy.swallow_replies_of_open_connections()
        with pytest.raises(OutcomeUnknown):
            async with asyncio.timeout(HANGS):
                await increment(client, "n")
        async with asyncio.timeout(HANGS):
            assert await client.get("n") == b"1"


async def test_silence_ends_every_caller_and_costs_one_connection(proxy):
    async with connected(proxy, socket_timeout=0.2) as client:
        await client.set("x", "y")
        client.sharing.connection.on_stalled = None  # with another connection no caller would wait in vain
        proxy.swallow_replies_of_open_connections()
        async with asyncio.timeout(HANGS):
            ended = await asyncio.gather(*(client.get("x") for _ in range(50)), return_exceptions=True)
        assert all(each == b"y" or isinstance(each, redis_exceptions.TimeoutError) for each in ended)
        assert any(isinstance(each, redis_exceptions.TimeoutError) for each in ended)
        async with asyncio.timeout(HANGS):
            while True:
                with contextlib.suppress(*LOST):
                    assert await client.get("x") == b"y"
                    break
        assert proxy.opened == 2
        assert client.sharing.in_flight == 0


async def test_a_network_that_swallows_everything_is_survived(proxy):
    async with connected(proxy, socket_timeout=0.2, socket_connect_timeout=0.2, retry=None) as client:
        proxy.swallow = True
        for _ in range(3):
            async with asyncio.timeout(HANGS):
                ended = await asyncio.gather(
                    *(client.get("x") for _ in range(20)), *(client.incr("n") for _ in range(5)), return_exceptions=True
                )
            assert all(isinstance(each, LOST) for each in ended)
        proxy.heal()
        async with asyncio.timeout(HANGS):
            while True:
                with contextlib.suppress(*LOST):
                    assert await client.echo("back") == b"back"
                    break
        assert client.sharing.in_flight == 0


async def test_who_comes_after_a_timeout_gets_replies_of_their_own(own_server):
    with own_server.client() as admin:
        admin.mset({f"key:{number}": number for number in range(40)})
    with Proxy(own_server.port) as proxy:
        async with connected(proxy, socket_timeout=5) as client:
            client.sharing.connection.on_stalled = None  # which would try another connection
            own_server.pause()

            async def hasty(number):
                async with asyncio.timeout(0.1):
                    await client.get(f"key:{number}")

            early = [asyncio.create_task(hasty(number)) for number in range(20)]
            await asyncio.sleep(0.05)
            late = [asyncio.create_task(client.get(f"key:{number}")) for number in range(20, 40)]
            ended = await asyncio.gather(*early, return_exceptions=True)
            own_server.resume()
            assert all(isinstance(each, TimeoutError) for each in ended)
            async with asyncio.timeout(HANGS):
                assert await asyncio.gather(*late) == [b"%d" % number for number in range(20, 40)]
            assert proxy.opened == 1


async def test_a_slow_command_that_times_out_leaves_later_replies_right(own_server):
    with own_server.client() as admin:
        admin.mset({f"key:{number}": number for number in range(20)})
        admin.config_set("lua-time-limit", 0)  # on a busy machine a script may take longer, and then all hear BUSY
    with Proxy(own_server.port) as proxy:
        async with connected(proxy, socket_timeout=0.4) as client:
            with pytest.raises(OutcomeUnknown):
                async with asyncio.timeout(HANGS):
                    await client.eval("local n = 0 while n < 1e8 do n = n + 1 end return 'slow'", 0)
            replies, until = [], monotonic() + 30
            while not replies and monotonic() < until:
                with contextlib.suppress(redis_exceptions.RedisError):
                    replies = await asyncio.gather(*(client.get(f"key:{number}") for number in range(20)))
            assert replies == [b"%d" % number for number in range(20)]


async def test_a_connection_that_is_slow_both_ways_mixes_nothing_up(proxy):
    async with connected(proxy) as client:
        proxy.request_delay = proxy.reply_delay = 0.01
        waves = []
        for wave in range(10):
            waves.append(asyncio.gather(*(client.echo(f"{wave}-{number}") for number in range(20))))
            await asyncio.sleep(0.003)
        for wave, replies in enumerate(await asyncio.gather(*waves)):
            assert replies == [f"{wave}-{number}".encode() for number in range(20)]
        assert proxy.opened == 1


# Through the manager.


async def test_the_managers_counters_close_after_cuts(proxy, server, pool_settings):
    manager = pool_settings(proxy.url)
    for turn in range(1, 11):
        client = await manager.get_client()
        assert await client.incr("n") == turn
        (cut_by_proxy if turn % 2 else cut_by_server)(proxy, server)
        await asyncio.sleep(0.02)
    client = await manager.get_client()
    assert await client.get("n") == b"10"
    assert client.sharing.in_flight == 0
    info = manager.get_pool_info()
    assert info["connections_opened_total"] - info["connections_closed_total"] == info["connections_open"] == 1
    assert info["connections_in_use"] == info["waiting"] == 0
    await manager.close()
    info = manager.get_pool_info()
    assert info["connections_opened_total"] == info["connections_closed_total"] == proxy.opened
