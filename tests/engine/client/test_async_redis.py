"""A program written for redis.asyncio.Redis gets from AsyncRedis what it got before: values and errors."""

from __future__ import annotations

import asyncio
from operator import methodcaller as do

import pytest
import redis.asyncio
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.engine.stats.request_timing import RequestTiming, current_timing
from tests.support.command_failures import FAILURES, WRONG_KIND
from tests.support.command_table import KEY_NAMES, VALUES
from tests.support.twin_clients import MODES, Failure, assert_same, both, named, opened

# The table holds commands that redis-py calls deprecated and still offers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

in_every_mode = pytest.mark.parametrize("mode", MODES, ids=named)


@in_every_mode
@pytest.mark.parametrize("kind", VALUES)
async def test_every_kind_of_command_answers_as_in_redis_py(server, kind, mode):
    answers = await assert_same(server, VALUES[kind], **mode)
    failed = [(call, answer) for call, answer in zip(VALUES[kind], answers, strict=True) if isinstance(answer, Failure)]
    assert failed == [], "the table promises calls that succeed"


@in_every_mode
@pytest.mark.parametrize("calls", [FAILURES, WRONG_KIND], ids=["failures", "wrong kind"])
async def test_every_failure_has_the_type_and_the_text_of_redis_py(server, calls, mode):
    answers = await assert_same(server, calls, **mode)
    passed = [call for call, answer in zip(calls, answers, strict=True) if not isinstance(answer, Failure)]
    assert passed == (calls[:1] if calls is WRONG_KIND else []), "the table promises calls that fail"


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
def test_every_kind_of_command_works_under_uvloop(server, mode):
    uvloop = pytest.importorskip("uvloop")

    async def program():
        for calls in (*VALUES.values(), FAILURES, WRONG_KIND):
            await assert_same(server, calls, **mode)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(program())


VALUES_SENT = [
    0,
    -(2**63),
    10**40,
    0.1,
    1e300,
    -0.0,
    float("nan"),
    float("-inf"),
    1 / 3,
    "",
    "text",
    "ä€😀",
    "line\r\nline\x00end",
    b"",
    b"\xff\x00\r\n$5",
    bytearray(b"array"),
    memoryview(b"view"),
    True,
    None,
    1j,
    object,
    [1],
    ValueError("no value"),
]


@pytest.mark.parametrize(
    "mode",
    [{}, {"encoding": "latin-1"}, {"encoding": "latin-1", "encoding_errors": "replace"}, {"encoding": "utf-16"}],
    ids=named,
)
async def test_a_value_arrives_in_the_bytes_that_redis_py_sends_or_is_refused_in_the_same_words(server, mode):
    calls = []
    for number, value in enumerate(VALUES_SENT):
        calls += [do("set", f"k{number}", value), do("get", f"k{number}"), do("echo", value)]
    answers = await assert_same(server, calls, **mode)
    assert any(isinstance(answer, Failure) for answer in answers)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("errors", ["strict", "replace", "ignore"])
async def test_what_cannot_be_decoded_fails_as_in_redis_py(server, protocol, errors):
    calls = [
        do("set", "k", b"\xff\xfe binary"),
        do("get", "k"),
        do("mget", "k", "k"),
        do("hset", "h", b"\xff", b"\xfe"),
        do("hgetall", "h"),
        do("get", "missing"),
    ]
    await assert_same(server, calls, protocol=protocol, decode_responses=True, encoding_errors=errors)


async def test_a_reply_that_cannot_be_decoded_fails_its_caller_only(server):
    async with AsyncRedis(port=server.port, decode_responses=True) as client:
        await client.set("binary", b"\xff\xfe")
        await client.set("text", "fine")
        before = opened(server)
        replies = await asyncio.gather(
            *(client.get("binary" if number % 3 else "text") for number in range(60)), return_exceptions=True
        )
        for number, reply in enumerate(replies):
            assert isinstance(reply, UnicodeDecodeError) if number % 3 else reply == "fine"
        assert await client.get("text") == "fine"
        assert opened(server, before) == 0


async def test_a_refused_value_fails_its_caller_only(server):
    async with AsyncRedis(port=server.port) as client:
        replies = await asyncio.gather(
            *(client.echo(number if number % 3 else None) for number in range(60)), return_exceptions=True
        )
        for number, reply in enumerate(replies):
            if number % 3:
                assert reply == str(number).encode()
            else:
                assert isinstance(reply, redis_exceptions.DataError)


async def test_values_of_five_megabytes_travel_both_ways(server):
    async with AsyncRedis(port=server.port) as client:
        value = bytes(range(256)) * 20_000
        others = asyncio.gather(*(client.echo(str(number)) for number in range(200)))
        assert await client.set("large", value)
        assert await client.get("large") == value
        assert await client.hset("h", mapping={"f": value, "g": value}) == 2
        assert await client.hmget("h", "f", "g") == [value, value]
        assert await others == [str(number).encode() for number in range(200)]


# Response callbacks.


async def test_own_response_callbacks_are_called_as_in_redis_py(server):
    async def later(reply, **options):
        await asyncio.sleep(0)
        return "later", reply, options

    async with both(server) as clients:
        seen = []
        for client in clients:
            client.set_response_callback("GET", lambda reply, **options: ("own", reply, options))
            client.set_response_callback("CONFIG GET", lambda reply, **options: sorted(reply))
            client.set_response_callback("echo", later)
            await client.set("k", "v")
            seen.append(
                [
                    await client.get("k"),
                    await client.execute_command("get", "k", mine=1),
                    await client.config_get("maxmemory-samples"),
                    await client.echo("hello"),
                ]
            )
            pipe = client.pipeline()
            seen[-1].append(await pipe.get("k").echo("hello").execute())
    theirs, ours = seen
    assert ours == theirs
    assert ours[0] == ("own", b"v", {})


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_response_callback_that_raises_fails_its_caller_only(server, transaction):
    def refuse(reply, **options):
        raise LookupError(f"no {reply!r}")

    async with AsyncRedis(port=server.port) as client:
        client.set_response_callback("GET", refuse)
        await client.set("k", "v")
        before = opened(server)
        replies = await asyncio.gather(
            *(client.get("k") if number % 2 else client.echo(str(number)) for number in range(100)),
            client.pipeline(transaction).get("k").execute(),
            return_exceptions=True,
        )
        for number, reply in enumerate(replies):
            if number % 2 or number == 100:
                assert isinstance(reply, LookupError)
                assert str(reply) == "no b'v'"
            else:
                assert reply == str(number).encode()
        assert opened(server, before) == 0, "no connection was lost"


# The client as an object.


def test_an_instance_is_a_redis_py_client_and_takes_every_argument_of_it():
    client = AsyncRedis(host="example", port=1, db=2, password="p", client_name="n", decode_responses=True)
    assert isinstance(client, redis.asyncio.Redis)
    theirs = redis.asyncio.Redis(host="example", port=1, db=2, password="p", client_name="n", decode_responses=True)
    ours, expected = client.get_connection_kwargs(), theirs.get_connection_kwargs()
    for name in ("host", "port", "db", "password", "client_name", "decode_responses", "encoding", "socket_timeout"):
        assert ours[name] == expected[name], name
    assert client.get_encoder().decode_responses


async def test_a_subclass_may_override_execute_command(server):
    class Prefixed(AsyncRedis):
        async def execute_command(self, *args, **options):
            if args[0] in ("GET", "SET"):
                args = (args[0], f"mine:{args[1]}", *args[2:])
            return await super().execute_command(*args, **options)

    async with Prefixed(port=server.port) as client:
        await client.set("k", "v")
        assert await client.get("k") == b"v"
        assert await client.keys("*") == [b"mine:k"]
        assert type(client.client()) is Prefixed


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
async def test_send_get_is_send_raw_of_get(server, mode):
    async with AsyncRedis(port=server.port, **mode) as client:
        assert client.send_get("k") is None, "there is no connection yet"
        for number, key in enumerate(KEY_NAMES):
            await client.execute_raw("SET", key, b"\xff%d" % number)
        await client.rpush("list", "x")
        assert [await client.send_get(key) for key in KEY_NAMES] == [
            b"\xff%d" % number for number in range(len(KEY_NAMES))
        ]
        assert await client.send_get("missing") is await client.send_raw("GET", "missing") is None
        with pytest.raises(redis_exceptions.ResponseError, match="WRONGTYPE"):
            await client.send_get("list")
        token = current_timing.set(RequestTiming())
        try:
            assert client.send_get("k") is None, "it would not be counted"
        finally:
            current_timing.reset(token)
