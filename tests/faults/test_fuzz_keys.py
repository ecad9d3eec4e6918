"""Any keys and values, in any order: threads and coroutines are told what redis-py is told, and the server holds it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import redis
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings

from redispool_app.engine import AsyncRedis, SyncRedis

fuzz = hypothesis_settings(
    deadline=timedelta(seconds=30),
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

texts = strategies.text(strategies.characters(), max_size=12)
"""Lone surrogates included, which no encoding takes."""
awkward = strategies.sampled_from(
    ["", " ", "a b", "a\r\nGET b\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "\x00", b"\xff\xfe\x80", b"\r\n", "{a}", "a*[b]?\\"]
)
strings = strategies.one_of(awkward, texts, strategies.binary(max_size=40))
numbers = strategies.one_of(strategies.integers(), strategies.floats())
refused = strategies.sampled_from([None, True, ("a",), {"a": 1}, 1j])
keys = strategies.one_of(awkward, strings)
values = strategies.one_of(strings, numbers, refused, strategies.binary(min_size=70_000, max_size=70_000))
calls = strategies.one_of(
    strategies.tuples(strategies.just("set"), keys, values),
    strategies.tuples(strategies.sampled_from(["get", "incr", "delete", "exists", "strlen", "type", "dump"]), keys),
    strategies.tuples(strategies.sampled_from(["append", "setnx", "getset", "rename", "sadd", "lpush"]), keys, values),
    strategies.tuples(strategies.just("hset"), keys, strings, values),
    strategies.tuples(strategies.just("mget"), strategies.lists(keys, min_size=1, max_size=4)),
    strategies.tuples(strategies.just("mset"), strategies.dictionaries(strings, values, min_size=1, max_size=4)),
)


def told(ask, call):
    """Return what a call gave: the reply, or the exception's type, and its words where they are the server's."""
    try:
        return ask(call)
    except redis.ResponseError as error:
        return type(error), str(error)
    except Exception as error:
        return type(error)


@pytest.fixture
def asks(server):
    """One way to ask for each client, each with a database of its own."""
    with (
        asyncio.Runner() as runner,
        redis.Redis(port=server.port, db=1, protocol=2) as plain,
        SyncRedis(port=server.port, db=2, protocol=2) as sync,
    ):
        client = AsyncRedis(port=server.port, db=3, protocol=2)

        async def ask(call):
            return await getattr(client, call[0])(*call[1:])

        yield {
            "redis-py": lambda call: getattr(plain, call[0])(*call[1:]),
            "threads": lambda call: getattr(sync, call[0])(*call[1:]),
            "coroutines": lambda call: runner.run(ask(call)),
        }
        runner.run(client.aclose())


@given(program=strategies.lists(calls, min_size=1, max_size=8))
@fuzz
def test_whatever_is_asked_is_answered_as_redis_py_answers_it(program, asks):
    outcomes = {name: [told(ask, call) for call in [("flushdb",), *program]] for name, ask in asks.items()}
    held = {name: {key: ask(("dump", key)) for key in sorted(ask(("keys",)))} for name, ask in asks.items()}
    assert outcomes["threads"] == outcomes["coroutines"] == outcomes["redis-py"]
    assert held["threads"] == held["coroutines"] == held["redis-py"]


@given(pairs=strategies.dictionaries(strategies.one_of(awkward, strategies.binary(max_size=40)), strings, max_size=20))
@fuzz
def test_keys_that_are_asked_for_together_are_not_mistaken_for_each_other(pairs, server):
    """All in flight at once, on one connection."""
    pairs = {key: value for key, value in pairs.items() if not isinstance(value, str) or value.isascii()}

    async def use():
        async with AsyncRedis(port=server.port, protocol=2) as client:
            await client.flushdb()
            await asyncio.gather(*(client.set(key, value) for key, value in pairs.items()))
            return await asyncio.gather(*(client.get(key) for key in pairs))

    # A text and the bytes that it becomes are one key; the later value counts.
    as_bytes = {_bytes(key): _bytes(value) for key, value in pairs.items()}
    assert asyncio.run(use()) == [as_bytes[_bytes(key)] for key in pairs]


def _bytes(text):
    return text.encode() if isinstance(text, str) else text
