"""Pipelines and transactions answer as redis-py's do, travel as one unit, and leave everybody else alone."""

from __future__ import annotations

import asyncio
import inspect
from operator import methodcaller as do

import pytest
from redis import exceptions as redis_exceptions

from tests.support.command_table import VALUES
from tests.support.twin_clients import MODES, Failure, assert_same, named

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

in_every_mode = pytest.mark.parametrize("mode", MODES, ids=named)
either_way = pytest.mark.parametrize("transaction", [True, False], ids=["transaction", "no transaction"])


def piped(*calls, transaction=True, raise_on_error=True):
    """Return a call that queues the given calls in one pipeline and executes it."""

    async def run(client):
        async with client.pipeline(transaction) as pipe:
            for call in calls:
                queued = call(pipe)
                if inspect.iscoroutine(queued):
                    await queued
            return await pipe.execute(raise_on_error)

    return run


def queueable(calls):
    """Return the calls of the table that a pipeline takes and that answer the same each time."""
    taken = [call for call in calls if isinstance(call, do) and "_iter" not in repr(call)]
    return [call for call in taken if not any(name in repr(call) for name in ("bitfield'", "client_", "'acl_list'"))]


@either_way
@in_every_mode
@pytest.mark.parametrize("kind", VALUES)
async def test_every_kind_of_command_answers_in_a_pipeline_as_in_redis_py(server, kind, mode, transaction):
    calls = queueable(VALUES[kind])
    assert len(calls) > 10
    (answer,) = await assert_same(server, [piped(*calls, transaction=transaction, raise_on_error=False)], **mode)
    if not isinstance(answer, Failure):
        assert len(answer[1]) == len(calls)


SET = do("set", "k", "text")
PIPELINES = {
    "nothing": [],
    "one": [do("get", "missing")],
    "all fine": [SET, do("get", "k"), do("incr", "n"), do("hset", "h", mapping={"a": 1}), do("hgetall", "h")],
    "wrong kind": [SET, do("incr", "k"), do("get", "k")],
    "wrong kind twice": [SET, do("lpush", "k", 1), do("hgetall", "k"), do("get", "k")],
    "a long command fails": [SET, do("lpush", "k", *["ä" * 50] * 50)],
    "binary fails": [SET, do("lpush", "k", b"\xff\x00")],
    "unknown": [SET, do("execute_command", "NOSUCHCOMMAND", "a"), do("get", "k")],
    "unknown twice": [do("execute_command", "NOSUCHCOMMAND"), do("execute_command", "NEITHER"), do("get", "k")],
    "wrong arity": [SET, do("execute_command", "GET"), do("get", "k")],
    "empty response": [SET, do("execute_command", "HGET", "k", "f", EMPTY_RESPONSE="none"), do("get", "k")],
    "missing stream": [do("xclaim", "x", "g", "me", 0, ["1-1"]), do("xread", {"x": "0"})],
    "no script": [SET, do("evalsha", "0" * 40, 0), do("get", "k")],
    "cannot be sent": [SET, do("set", "k", object())],
    "cannot be sent: bool": [SET, do("set", "k", True), do("get", "k")],
    "binary value": [do("set", "k", b"\xff\xfe"), do("dump", "missing"), do("execute_command", "TYPE", "k")],
    "raw": [do("set", "k", "v"), do("execute_command", "GET", "k", NEVER_DECODE=True)],
    "raw binary": [do("set", "k", b"\xff\xfe"), do("execute_command", "GET", "k", NEVER_DECODE=True)],
    "not decodable": [do("set", "k", b"\xff\xfe"), do("get", "k"), do("echo", "after")],
    "spelling": [do("execute_command", "set", "k", 1), do("execute_command", "config get", "maxmemory-samples")],
    "blocking": [do("rpush", "q", 1), do("blpop", "q", timeout=1), do("echo", "after")],
    "stateful": [do("client_setname", "me"), do("client_getname"), do("echo", "after")],
    "unwatch": [do("unwatch"), do("get", "k")],
}


@in_every_mode
@pytest.mark.parametrize("kind", PIPELINES)
async def test_results_and_annotated_errors_are_those_of_redis_py(server, kind, mode):
    calls = []
    for transaction in (True, False):
        for raise_on_error in (True, False):
            run = piped(*PIPELINES[kind], transaction=transaction, raise_on_error=raise_on_error)
            calls += [run, do("get", "k"), run, do("echo", "the client goes on"), do("flushdb")]
    answers = await assert_same(server, calls, **mode)
    assert not any(isinstance(answer, Failure) for answer in answers[3::5])


# Uses of one pipeline object, each as a call on a client.


async def used_again(client):
    pipe = client.pipeline()
    first = await pipe.set("a", 1).execute()
    second = await pipe.incr("a").get("a").execute()
    return first, second, await pipe.execute(), len(pipe), bool(pipe)


async def used_again_after_an_error(client):
    pipe = client.pipeline()
    with pytest.raises(redis_exceptions.ResponseError):
        await pipe.set("a", "text").incr("a").execute()
    return await pipe.get("a").execute()


async def chained_and_awaited(client):
    pipe = await client.pipeline().set("a", 1).get("a")
    return len(pipe), await pipe.execute()


async def reset_before_it_is_executed(client):
    async with client.pipeline() as pipe:
        pipe.set("a", 1)
        await pipe.reset()
        return await pipe.execute(), await client.get("a")


async def watched_and_unchanged(client):
    await client.set("a", 1)
    async with client.pipeline() as pipe:
        await pipe.watch("a")
        value = int(await pipe.get("a"))
        pipe.multi()
        return value, await pipe.set("a", value + 1).get("a").execute(), await client.get("a")


async def watched_and_changed(client):
    async with client.pipeline() as pipe:
        await pipe.watch("a")
        await client.set("a", "changed")
        pipe.multi()
        return await pipe.set("a", "mine").execute()


async def watched_and_unwatched(client):
    async with client.pipeline() as pipe:
        await pipe.watch("a")
        await client.set("a", "changed")
        await pipe.unwatch()
        return await pipe.set("a", "mine").execute(), await client.get("a")


async def multi_within_multi(client):
    async with client.pipeline() as pipe:
        pipe.multi()
        pipe.multi()


async def multi_after_commands(client):
    async with client.pipeline() as pipe:
        pipe.get("a")
        pipe.multi()


async def watch_after_multi(client):
    async with client.pipeline() as pipe:
        pipe.multi()
        await pipe.watch("a")


async def explicit_multi_without_watch(client):
    async with client.pipeline(transaction=False) as pipe:
        pipe.multi()
        return await pipe.set("a", 1).get("a").execute()


async def a_script_the_server_has_never_seen(client):
    script = client.register_script("return {KEYS[1], ARGV[1]}")
    pipe = client.pipeline()
    await script(keys=["k"], args=["v"], client=pipe)
    pipe.echo("between")
    await script(keys=["l"], args=["w"], client=pipe)
    return await pipe.execute(), await script(keys=["m"], args=["x"])


async def a_script_without_a_transaction(client):
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    pipe = client.pipeline(transaction=False)
    for _ in range(3):
        await script(keys=["n"], client=pipe)
    return await pipe.execute()


async def transaction_of_the_client(client):
    async def double(pipe):
        value = int(await pipe.get("n") or 1)
        pipe.multi()
        pipe.set("n", value * 2)

    def no_coroutine(pipe):
        pipe.multi()
        pipe.get("n")

    return (
        await client.transaction(double, "n"),
        await client.transaction(no_coroutine, "n"),
        await client.transaction(double, "n", value_from_callable=True),
        await client.get("n"),
    )


USES = [
    used_again,
    used_again_after_an_error,
    chained_and_awaited,
    reset_before_it_is_executed,
    watched_and_unchanged,
    watched_and_changed,
    watched_and_unwatched,
    multi_within_multi,
    multi_after_commands,
    watch_after_multi,
    explicit_multi_without_watch,
    a_script_the_server_has_never_seen,
    a_script_without_a_transaction,
    transaction_of_the_client,
]


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
@pytest.mark.parametrize("use", USES)
async def test_a_pipeline_is_used_as_in_redis_py(server, use, mode):
    await assert_same(server, [use, do("echo", "the client goes on")], **mode)


async def test_the_uses_mean_what_their_names_say(server):
    answers = await assert_same(server, USES)
    failed = {use for use, answer in zip(USES, answers, strict=True) if isinstance(answer, Failure)}
    assert failed == {watched_and_changed, multi_within_multi, multi_after_commands, watch_after_multi}
    watched = answers[USES.index(watched_and_changed)]
    assert watched == Failure("redis.exceptions.WatchError", "Watched variable changed.")


def test_pipelines_work_under_uvloop(server):
    uvloop = pytest.importorskip("uvloop")
    calls = [piped(*each, transaction=way) for name, each in PIPELINES.items() for way in (True, False)]

    async def program():
        for mode in MODES[:4]:
            await assert_same(server, [*calls, *USES], **mode)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(program())
