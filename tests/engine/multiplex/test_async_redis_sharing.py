"""Plain commands share one connection; what blocks or has state of its own never touches it."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import CommandRefused
from tests.support.twin_clients import opened

protocols = pytest.mark.parametrize("protocol", [2, 3])


def connections_named(server, name):
    with server.client() as admin:
        return [each for each in admin.client_list() if each["name"] == name]


@protocols
async def test_ten_thousand_concurrent_reads_each_get_their_own_value_on_one_connection(server, protocol):
    with server.client() as admin:
        admin.mset({f"key:{number}": f"value:{number}" for number in range(10_000)})
    async with AsyncRedis(port=server.port, protocol=protocol, client_name="crowd", socket_timeout=60) as client:
        before = opened(server)
        values = await asyncio.gather(*(client.get(f"key:{number}") for number in range(10_000)))
        assert values == [f"value:{number}".encode() for number in range(10_000)]
        assert opened(server, before) == 1
        assert len(connections_named(server, "crowd")) == 1
        assert client.sharing.in_flight == 0


async def test_clients_of_one_pool_share_one_connection(server):
    async with redis.asyncio.ConnectionPool(port=server.port) as pool:
        before = opened(server)
        clients = [AsyncRedis(connection_pool=pool) for _ in range(20)]
        replies = await asyncio.gather(*(client.echo(str(number)) for number, client in enumerate(clients)))
        assert replies == [str(number).encode() for number in range(20)]
        assert opened(server, before) == 1
        for client in clients:
            await client.aclose()
        await AsyncRedis(connection_pool=pool).aclose(close_connection_pool=True)


@protocols
async def test_callers_that_block_delay_nobody(server, protocol):
    async with AsyncRedis(port=server.port, protocol=protocol) as client:
        await client.xadd("x", {"f": "v"}, id="1-1")
        blocked = [
            asyncio.create_task(client.blpop("q1", timeout=20)),
            asyncio.create_task(client.brpop("q2", timeout=20)),
            asyncio.create_task(client.bzpopmin("q3", timeout=20)),
            asyncio.create_task(client.blmove("q4", "moved", 20)),
            asyncio.create_task(client.xread({"x": "$"}, block=20_000)),
            asyncio.create_task(client.execute_command("xread", b"block", 20_000, "STREAMS", "x", "$")),
        ]
        while len([each for each in await client.client_list() if "b" in each["flags"]]) < len(blocked):
            await asyncio.sleep(0.01)
        started = time.monotonic()
        replies = await asyncio.gather(*(client.echo(str(number)) for number in range(500)))
        assert time.monotonic() - started < 10
        assert replies == [str(number).encode() for number in range(500)]
        assert not any(task.done() for task in blocked)
        await client.rpush("q1", 1)
        await client.rpush("q2", 2)
        await client.zadd("q3", {"m": 3})
        await client.rpush("q4", 4)
        await client.xadd("x", {"f": "w"}, id="2-1")
        async with asyncio.timeout(10):
            popped = await asyncio.gather(*blocked)
    assert popped[3] == b"4"
    assert b"1" in popped[0]
    assert b"2" in popped[1]
    assert b"m" in popped[2]
    for read in popped[4:]:
        assert b"2-1" in repr(read).encode()


@protocols
async def test_state_that_one_caller_sets_reaches_no_plain_command(server, protocol):
    async with AsyncRedis(port=server.port, protocol=protocol, client_name="given") as client:
        await client.set("where", "database 0")
        shared = connections_named(server, "given")[0]["id"]
        await client.client_setname("chosen")
        await client.client_no_touch("on")
        await client.client_no_evict("on")
        with pytest.raises(CommandRefused):
            await client.execute_command("SELECT", 1)
        await client.execute_command("CLIENT REPLY", "ON")
        with pytest.raises(CommandRefused):
            await client.execute_command("SCRIPT", "DEBUG", "YES")
        assert await client.get("where") == b"database 0"
        assert await client.eval("return 'ran'", 0) == b"ran"
        (still,) = [each for each in connections_named(server, "given") if each["id"] == shared]
        assert still["db"] == "0"
        assert set(still["flags"]) <= {"N"}


async def test_a_refused_login_of_one_caller_logs_nobody_out(server):
    async with AsyncRedis(port=server.port, retry=None) as client:
        await client.set("k", "v")
        with pytest.raises(CommandRefused):
            await client.execute_command("AUTH", "nobody", "wrong")
        with pytest.raises(redis_exceptions.AuthenticationError):
            await client.execute_command("AUTH", "wrong")
        assert await client.get("k") == b"v"
        assert await client.acl_whoami() in ("default", b"default")


async def test_a_multi_without_exec_swallows_no_command_of_another_caller(server):
    async with AsyncRedis(port=server.port) as client:
        with pytest.raises(CommandRefused):
            await client.execute_command("MULTI")
        await client.pipeline(transaction=False).execute_command("MULTI").execute()
        replies = await asyncio.gather(*(client.echo(str(number)) for number in range(50)))
        assert replies == [str(number).encode() for number in range(50)]


async def test_quit_ends_no_connection_that_others_use(server):
    async with AsyncRedis(port=server.port) as client:
        await client.set("k", "v")
        shared = client.sharing.connection
        assert await client.execute_command("QUIT")
        assert await client.get("k") == b"v"
        assert client.sharing.connection is shared


@pytest.mark.parametrize("name", ["", " ", b"", b" "])
async def test_a_command_without_a_name_shifts_nobodys_reply(server, name):
    """The server answers an empty command with silence, so one on the shared connection would shift all replies."""
    async with AsyncRedis(port=server.port, socket_timeout=1, retry=None) as client:
        await client.ping()
        nameless = asyncio.create_task(client.execute_command(name))
        await asyncio.sleep(0)
        replies = await asyncio.gather(*(client.echo(str(number)) for number in range(50)))
        assert replies == [str(number).encode() for number in range(50)]
        with pytest.raises((redis_exceptions.RedisError, ValueError)):
            await nameless
        assert await client.echo("after") == b"after"


@pytest.mark.parametrize("transaction", [True, False])
async def test_nor_does_one_in_a_pipeline(server, transaction):
    async with AsyncRedis(port=server.port, socket_timeout=1, retry=None) as client:
        await client.ping()
        pipe = client.pipeline(transaction).echo("mine")
        pipe.execute_command(" ")
        nameless = asyncio.create_task(pipe.execute())
        await asyncio.sleep(0)
        replies = await asyncio.gather(*(client.echo(str(number)) for number in range(50)))
        assert replies == [str(number).encode() for number in range(50)]
        with pytest.raises((redis_exceptions.RedisError, ValueError)):
            await nameless
        assert await client.echo("after") == b"after"


async def follow_all_keys(connection):
    """Connect as redis-py does, then ask the server for a push about each key that anybody changes."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
    assert await connection.read_response() in (b"OK", "OK")


@pytest.mark.parametrize("decode", [True, False])
async def test_a_push_is_never_taken_for_a_reply(server, decode):
    """Every change of a key pushes a message onto the connection that the replies use."""
    async with AsyncRedis(
        port=server.port, protocol=3, redis_connect_func=follow_all_keys, decode_responses=decode
    ) as client:

        async def caller(number):
            wrong = []
            for turn in range(20):
                text = f"{number}-{turn}"
                if not await client.set(f"key:{number}", text):
                    wrong.append("SET")
                if await client.get(f"key:{number}") != (text if decode else text.encode()):
                    wrong.append(text)
                if await client.pipeline().incr(f"n:{number}").echo(text).execute() != [
                    turn + 1,
                    text if decode else text.encode(),
                ]:
                    wrong.append("pipeline")
            return wrong

        await client.ping()
        before = opened(server)
        assert await asyncio.gather(*(caller(number) for number in range(30))) == [[]] * 30
        assert opened(server, before) == 0
        with server.client() as stranger:
            stranger.mset({f"foreign:{number}": 1 for number in range(100)})
        await asyncio.sleep(0.05)
        assert await client.get("foreign:1") in (b"1", "1"), "pushes came while nobody waited"


async def test_a_push_that_cannot_be_decoded_shifts_nobodys_reply(server):
    async with AsyncRedis(
        port=server.port, protocol=3, redis_connect_func=follow_all_keys, decode_responses=True, retry=None
    ) as client:
        await client.ping()
        before = opened(server)
        for turn in range(20):
            changes = [client.set(b"\xff\xfe", turn) for _ in range(5)]
            replies = await asyncio.gather(*changes, *(client.echo(f"{turn}-{number}") for number in range(20)))
            assert replies == [True] * 5 + [f"{turn}-{number}" for number in range(20)]
        assert opened(server, before) == 0


async def test_tracking_that_one_caller_turns_on_disturbs_no_later_borrower(server):
    async with AsyncRedis(port=server.port, protocol=3) as client:
        await client.client_tracking_on(bcast=True)
        for number in range(20):
            await client.set("k", number)
            await client.rpush("q", number)
            assert await client.blpop("q", timeout=5) == [b"q", str(number).encode()]
            assert await client.get("k") == str(number).encode()


async def test_a_caller_that_leaves_takes_no_reply_with_it(server):
    async with AsyncRedis(port=server.port) as client:
        await client.ping()
        before = opened(server)
        for turn in range(20):
            tasks = [asyncio.create_task(client.echo(f"{turn}-{number}")) for number in range(50)]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            for number, reply in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                assert isinstance(reply, asyncio.CancelledError) or reply == f"{turn}-{number}".encode()
        assert await client.echo("end") == b"end"
        assert client.sharing.in_flight == 0
        assert opened(server, before) == 0
