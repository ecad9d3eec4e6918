"""Pipelines beside many other callers: each unit stays whole, and each caller gets what it asked for."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from tests.support.twin_clients import opened

either_way = pytest.mark.parametrize("transaction", [True, False], ids=["transaction", "no transaction"])


def bytes_of(numbers):
    return [str(number).encode() for number in numbers]


@either_way
async def test_ten_thousand_commands_in_one_pipeline_keep_their_order(server, transaction):
    async with AsyncRedis(port=server.port, socket_timeout=60) as client:
        pipe = client.pipeline(transaction)
        for number in range(5_000):
            pipe.set(f"k{number}", number).get(f"k{number}")
        replies = await pipe.execute()
        assert replies[::2] == [True] * 5_000
        assert replies[1::2] == bytes_of(range(5_000))
        assert client.sharing.in_flight == 0


@either_way
async def test_five_megabytes_in_a_pipeline_arrive(server, transaction):
    async with AsyncRedis(port=server.port, socket_timeout=60) as client:
        value = bytes(range(256)) * 20_000
        others = asyncio.gather(*(client.echo(str(number)) for number in range(100)))
        assert await client.pipeline(transaction).set("large", value).get("large").execute() == [True, value]
        assert await others == bytes_of(range(100))


@either_way
async def test_pipelines_travel_on_the_connection_of_plain_commands(server, transaction):
    async with AsyncRedis(port=server.port) as client:
        await client.ping()
        before = opened(server)
        replies = await asyncio.gather(
            *(client.pipeline(transaction).echo(str(number)).incr("n").execute() for number in range(200))
        )
        assert [reply[0] for reply in replies] == bytes_of(range(200))
        assert [reply[1] for reply in replies] == list(range(1, 201))
        assert opened(server, before) == 0


@either_way
async def test_a_script_in_a_pipeline_needs_no_further_connection(server, transaction):
    async with AsyncRedis(port=server.port) as client:
        with server.client() as admin:
            admin.script_flush()
        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        await client.ping()
        before = opened(server)
        pipe = client.pipeline(transaction)
        await script(keys=["n"], args=[5], client=pipe)
        assert await pipe.echo("e").execute() == [5, b"e"]
        assert opened(server, before) == 0


@either_way
async def test_two_hundred_plain_callers_and_pipelines_keep_their_replies_apart(server, transaction):
    async with AsyncRedis(port=server.port) as client:

        async def plain(number):
            for turn in range(20):
                text = f"{number}-{turn}".encode()
                assert await client.echo(text) == text

        async def piped(number):
            for turn in range(10):
                texts = [f"pipe-{number}-{turn}-{place}".encode() for place in range(turn * 3 + 1)]
                pipe = client.pipeline(transaction)
                for text in texts:
                    pipe.echo(text)
                assert await pipe.execute() == texts

        async def failing(number):
            for turn in range(10):
                pipe = client.pipeline(transaction).set(f"text{number}", "x").incr(f"text{number}").echo(f"{turn}")
                ok, error, text = await pipe.execute(raise_on_error=False)
                assert ok is True
                assert isinstance(error, redis_exceptions.ResponseError)
                assert text == str(turn).encode()

        await asyncio.gather(
            *(plain(number) for number in range(200)),
            *(piped(number) for number in range(30)),
            *(failing(number) for number in range(30)),
        )
        assert client.sharing.in_flight == 0


async def test_a_transaction_is_atomic_against_concurrent_increments(server):
    async with AsyncRedis(port=server.port) as client, AsyncRedis(port=server.port) as stranger:
        units = 0

        async def transactions():
            nonlocal units
            for _ in range(40):
                pipe = client.pipeline()
                for _ in range(5):
                    pipe.incr("n")
                numbers = await pipe.execute()
                assert numbers == list(range(numbers[0], numbers[0] + 5))
                units += 1

        async def increments(whose):
            for _ in range(100):
                await whose.incr("n")

        await asyncio.gather(
            *(transactions() for _ in range(10)),
            *(increments(client) for _ in range(10)),
            *(increments(stranger) for _ in range(10)),
        )
        assert units == 400
        assert int(await client.get("n")) == 400 * 5 + 2_000


async def test_an_aborted_transaction_runs_nothing_and_swallows_nobodys_reply(server):
    async with AsyncRedis(port=server.port) as client:

        async def aborted():
            pipe = client.pipeline().set("never", 1)
            pipe.execute_command("GET")
            with pytest.raises(redis_exceptions.ResponseError, match="wrong number of arguments"):
                await pipe.execute()

        *_, replies = await asyncio.gather(
            *(aborted() for _ in range(20)), asyncio.gather(*(client.echo(str(number)) for number in range(100)))
        )
        assert replies == bytes_of(range(100))
        assert await client.get("never") is None


async def test_concurrent_optimistic_transactions_lose_no_update(server):
    async with AsyncRedis(port=server.port) as client:
        conflicts = 0

        async def add_one():
            nonlocal conflicts
            while True:
                try:
                    async with client.pipeline() as pipe:
                        await pipe.watch("n")
                        value = int(await pipe.get("n") or 0)
                        pipe.multi()
                        await pipe.set("n", value + 1).execute()
                        return
                except redis_exceptions.WatchError:
                    conflicts += 1

        plain = asyncio.gather(*(client.echo(str(number)) for number in range(200)))
        await asyncio.gather(*(add_one() for _ in range(20)))
        assert await plain == bytes_of(range(200))
        assert await client.get("n") == b"20"
        assert conflicts > 0


@either_way
async def test_a_cancelled_pipeline_costs_nobody_else_anything(server, transaction):
    async with AsyncRedis(port=server.port) as client:
        await client.ping()
        before = opened(server)
        rng = random.Random(11)

        async def piped(name):
            pipe = client.pipeline(transaction)
            for place in range(20):
                pipe.echo(f"{name}-{place}")
            return await pipe.execute()

        for turn in range(25):
            pipes = [asyncio.create_task(piped(f"{turn}-{number}")) for number in range(20)]
            plain = [asyncio.create_task(client.echo(f"{turn}-{number}")) for number in range(50)]
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            for task in rng.sample(pipes, 8):
                task.cancel()
            for number, reply in enumerate(await asyncio.gather(*pipes, return_exceptions=True)):
                expected = [f"{turn}-{number}-{place}".encode() for place in range(20)]
                assert isinstance(reply, asyncio.CancelledError) or reply == expected
            assert await asyncio.gather(*plain) == [f"{turn}-{number}".encode() for number in range(50)]
        assert await client.echo("end") == b"end"
        assert client.sharing.in_flight == 0
        assert opened(server, before) == 0


async def test_a_cancelled_transaction_is_whole_or_absent(server):
    async with AsyncRedis(port=server.port) as client:
        await client.ping()
        for turn in range(60):
            task = asyncio.create_task(client.pipeline().incr("a").incr("b").execute())
            for _ in range(turn % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            first, second = await client.mget("a", "b")
            assert first == second
