"""Callers that leave: what one does to itself never reaches another, and every reply finds the one who asked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from redispool_app.engine import AsyncRedis
from tests.support.proxy import Proxy

KEYS = 1000
CALLERS = 10_000


@pytest.fixture
def proxy(server):
    with server.client() as client:
        client.mset({f"key:{number}": f"value {number}" for number in range(KEYS)})
    with Proxy(server.port) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy, **options):
    client = AsyncRedis.from_url(proxy.url, **{"socket_timeout": 30, **options})
    try:
        await client.ping()
        # A proxy that delays replies looks like a stalled server, beside which another connection would be made.
        client.sharing.connection.on_stalled = None
        yield client
    finally:
        await client.aclose()


async def nothing_in_flight(client):
    async with asyncio.timeout(10):
        while client.sharing.in_flight:
            await asyncio.sleep(0.001)


class Crowd:
    """Callers that ask for keys of their own, leave when they like, and write down every wrong reply."""

    def __init__(self, client, seed, decode):
        self.client = client
        self.rng = random.Random(seed)
        self.decode = decode
        self.wrong = []
        self.answered = 0

    def value(self, number):
        return f"value {number}" if self.decode else f"value {number}".encode()

    def check(self, reply, expected):
        self.answered += 1
        if reply != expected:
            self.wrong.append((reply, expected))

    async def ask(self, number):
        self.check(await self.client.get(f"key:{number}"), self.value(number))

    async def ask_for_several(self, number, transaction):
        numbers = [(number + step) % KEYS for step in range(self.rng.randrange(1, 6))]
        pipe = self.client.pipeline(transaction=transaction)
        for each in numbers:
            pipe.get(f"key:{each}")
        self.check(await pipe.execute(), [self.value(each) for each in numbers])

    async def ask_within(self, seconds, number):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ask(number)

    async def wave(self, callers, *, pipelines):
        """Let ``callers`` ask at once; cancel most of them after some ticks or some milliseconds."""
        loop, rng = asyncio.get_running_loop(), self.rng
        by_tick: dict[int, list[asyncio.Task[None]]] = {}
        tasks = []
        for _ in range(callers):
            number, kind = rng.randrange(KEYS), rng.random()
            if pipelines and kind < 0.3:
                asking = self.ask_for_several(number, transaction=kind < 0.15)
            elif kind < 0.5:
                asking = self.ask_within(rng.random() * 0.02, number)
            else:
                asking = self.ask(number)
            task = asyncio.create_task(asking)
            tasks.append(task)
            leaving = rng.random()
            if leaving < 0.4:
                by_tick.setdefault(rng.randrange(12), []).append(task)
            elif leaving < 0.8:
                loop.call_later(rng.random() * 0.02, task.cancel)
        for tick in range(12):
            for task in by_tick.get(tick, ()):
                task.cancel()
            await asyncio.sleep(0)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        unexpected = [each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)]
        assert unexpected == []
        return sum(isinstance(each, asyncio.CancelledError) for each in ended)


@pytest.mark.parametrize("pipelines", [False, True], ids=["commands", "commands and pipelines"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_no_reply_crosses_however_many_callers_leave(proxy, decode, pipelines):
    async with connected(proxy, decode_responses=decode) as client:
        crowd = Crowd(client, seed=f"{decode}{pipelines}", decode=decode)
        cancelled = 0
        for _ in range(10):
            cancelled += await crowd.wave(CALLERS // 10, pipelines=pipelines)
        assert crowd.wrong == []
        assert cancelled > CALLERS // 10, "too few callers left"
        assert crowd.answered > CALLERS // 10, "too few callers stayed"

        await nothing_in_flight(client)
        crowd.answered = 0
        await asyncio.gather(*(crowd.ask(number) for number in range(1000)))
        assert crowd.wrong == []
        assert crowd.answered == 1000
        assert client.sharing.in_flight == 0
        assert proxy.opened == 1, "somebody else's leaving cost the connection"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_no_reply_crosses_when_replies_arrive_byte_by_byte(proxy, protocol):
    async with connected(proxy, protocol=protocol) as client:
        proxy.piece = 1
        crowd = Crowd(client, seed=protocol, decode=False)
        for _ in range(5):
            await crowd.wave(60, pipelines=True)
        proxy.heal()
        await nothing_in_flight(client)
        await asyncio.gather(*(crowd.ask(number) for number in range(100)))
        assert crowd.wrong == []
        assert proxy.opened == 1


async def test_a_caller_that_leaves_in_its_first_tick_is_never_sent(proxy, server):
    async with connected(proxy) as client:
        staying = asyncio.create_task(client.incr("stays"))
        leaving = asyncio.create_task(client.incr("leaves"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == 1
        assert leaving.cancelled()
        assert await client.get("leaves") is None
        assert client.sharing.in_flight == 0


async def test_a_caller_that_leaves_after_the_write_has_its_command_done_and_its_reply_thrown_away(proxy):
    async with connected(proxy) as client:
        proxy.reply_delay = 0.1
        leaving = asyncio.create_task(client.incr("n"))
        await asyncio.sleep(0.02)
        leaving.cancel()
        following = [asyncio.create_task(client.echo(f"e{number}")) for number in range(20)]
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await asyncio.gather(*following) == [f"e{number}".encode() for number in range(20)]
        assert await client.get("n") == b"1"
        assert client.sharing.in_flight == 0
        assert proxy.opened == 1


async def test_a_cancelled_pipeline_leaves_all_its_replies_behind(proxy):
    async with connected(proxy) as client:
        proxy.reply_delay = 0.05
        pipe = client.pipeline(transaction=False)
        for number in range(500):
            pipe.get(f"key:{number}")
        leaving = asyncio.create_task(pipe.execute())
        await asyncio.sleep(0.01)
        leaving.cancel()
        assert await client.get("key:7") == b"value 7"
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await nothing_in_flight(client)
        assert proxy.opened == 1


@pytest.mark.parametrize("seconds", [0.0, 0.01], ids=["no time", "ten milliseconds"])
async def test_a_callers_own_timeout_costs_nobody_else_anything(proxy, seconds):
    async with connected(proxy) as client:
        proxy.reply_delay = 0.1
        patient = asyncio.create_task(client.get("key:1"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await client.get("key:2")
        assert await patient == b"value 1"
        assert await client.get("key:3") == b"value 3"
        assert proxy.opened == 1


async def test_a_response_callback_that_raises_fails_one_caller_only(proxy):
    def broken(response, **options):
        if response == b"value 13":
            raise ValueError("no luck")
        return response

    async with connected(proxy) as client:
        client.set_response_callback("GET", broken)
        replies = await asyncio.gather(*(client.get(f"key:{number}") for number in range(30)), return_exceptions=True)
        assert isinstance(replies.pop(13), ValueError)
        assert replies == [f"value {number}".encode() for number in range(30) if number != 13]
        assert proxy.opened == 1


async def test_a_reply_that_cannot_be_decoded_fails_one_caller_only(proxy, server):
    with server.client() as admin:
        admin.set("key:13", b"\xff\xfe")
    async with connected(proxy, decode_responses=True) as client:
        replies = await asyncio.gather(*(client.get(f"key:{number}") for number in range(30)), return_exceptions=True)
        assert isinstance(replies.pop(13), UnicodeDecodeError)
        assert replies == [f"value {number}" for number in range(30) if number != 13]
        assert proxy.opened == 1


async def test_an_error_reply_reaches_only_the_one_who_asked(proxy):
    async with connected(proxy) as client:
        replies = await asyncio.gather(
            *(client.lpop(f"key:{number}") if number % 3 else client.get(f"key:{number}") for number in range(30)),
            return_exceptions=True,
        )
        for number, reply in enumerate(replies):
            if number % 3:
                assert "WRONGTYPE" in str(reply)
            else:
                assert reply == f"value {number}".encode()


async def test_an_attempt_to_connect_that_everyone_has_left_fails_without_a_word(proxy):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    times = {"socket_timeout": 0.1, "socket_connect_timeout": 0.1, "retry": Retry(NoBackoff(), 0)}
    async with AsyncRedis.from_url(proxy.url, **times) as client:
        proxy.swallow = True
        leaving = [asyncio.create_task(client.get("key:1")) for _ in range(3)]
        await asyncio.sleep(0.02)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        del leaving, task
        await asyncio.sleep(0.5)
        proxy.heal()
        assert await client.get("key:1") == b"value 1"
    # A task whose exception nobody has seen complains when it is collected.
    del client
    gc.collect()
    assert complaints == []


async def test_cancelling_everyone_at_once_leaves_a_working_client(proxy):
    async with connected(proxy) as client:
        for ticks in range(6):
            tasks = [asyncio.create_task(client.get(f"key:{number}")) for number in range(300)]
            for _ in range(ticks):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await nothing_in_flight(client)
        assert await client.get("key:5") == b"value 5"
        assert proxy.opened == 1
