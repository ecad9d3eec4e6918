"""A transaction with WATCH whose connection is lost: nothing is done twice, nothing waits twice, async as sync."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
from inspect import isawaitable
from time import monotonic

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy

HANGS = 10.0
"""No caller of these tests may take this long (seconds); every time-out in them is far shorter."""


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(params=[AsyncRedis, SyncRedis], ids=["async", "sync"])
def run(request, proxy):
    """Run a test's body, written for asyncio, with a client of either kind."""

    def run(body, **options):
        async def main():
            client = request.param(port=proxy.port, socket_timeout=0.5, **options)
            try:
                await awaited(client.ping())
                return await body(client)
            finally:
                proxy.heal()
                await awaited(client.aclose() if request.param is AsyncRedis else client.close())

        began = monotonic()
        try:
            return asyncio.run(main())
        finally:
            assert monotonic() - began < HANGS

    return run


async def awaited(value):
    return await value if isawaitable(value) else value


def count(server):
    with server.client() as admin:
        return int(admin.get("n") or 0)


@contextlib.asynccontextmanager
async def watching(client):
    """A pipeline that watches the key ``n``."""
    pipe = client.pipeline()
    try:
        await awaited(pipe.watch("n"))
        yield pipe
    finally:
        await awaited(pipe.reset())


def queue_increment(pipe):
    pipe.multi()
    pipe.incr("n")


def cut_after_exec(proxy):
    proxy.cut_after = b"EXEC"


def answer_no_more(proxy):
    proxy.swallow_replies_of_open_connections()


LOSSES = {"cut": (cut_after_exec, FaultKind.CLOSED), "silence": (answer_no_more, FaultKind.TIMEOUT)}
either_loss = pytest.mark.parametrize("loss", LOSSES)


@either_loss
def test_a_lost_exec_is_an_unknown_outcome(run, proxy, server, loss):
    lose, kind = LOSSES[loss]

    async def body(client):
        async with watching(client) as pipe:
            queue_increment(pipe)
            lose(proxy)
            with pytest.raises(OutcomeUnknown, match="may or may not have been carried out") as caught:
                await awaited(pipe.execute())
        return caught.value

    assert classify(run(body), "here").kind is kind
    assert count(server) == 1, "the server did carry it out"


@either_loss
def test_the_transaction_helper_does_not_repeat_what_may_have_been_done(run, proxy, server, loss):
    calls = []

    async def body(client):
        def increment(pipe):
            calls.append(pipe)
            queue_increment(pipe)
            if len(calls) == 1:
                LOSSES[loss][0](proxy)

        with pytest.raises(OutcomeUnknown):
            await awaited(client.transaction(increment, "n"))

    run(body)
    assert (len(calls), count(server)) == (1, 1)


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_transaction_that_was_not_written_is_done_again_by_the_helper(run, proxy, server, reset):
    calls = []

    async def body(client):
        async def increment(pipe):
            calls.append(pipe)
            queue_increment(pipe)
            if len(calls) == 1:
                proxy.cut(reset)
                await asyncio.sleep(0.1)

        def increment_now(pipe):
            calls.append(pipe)
            queue_increment(pipe)
            if len(calls) == 1:
                proxy.cut(reset)
                threading.Event().wait(0.1)

        asynchronous = isinstance(client, AsyncRedis)
        return await awaited(client.transaction(increment if asynchronous else increment_now, "n"))

    assert run(body) == [1]
    assert (len(calls), count(server)) == (2, 1)


def test_a_lost_transaction_that_only_reads_may_be_done_again(run, proxy):
    calls = []

    async def body(client):
        def look(pipe):
            calls.append(pipe)
            pipe.multi()
            pipe.get("n")
            if len(calls) == 1:
                cut_after_exec(proxy)

        await awaited(client.set("n", 7))
        return await awaited(client.transaction(look, "n"))

    assert run(body) == [b"7"]
    assert len(calls) == 2


def test_a_key_that_changed_is_still_a_watch_error(run, server):
    async def body(client):
        async with watching(client) as pipe:
            queue_increment(pipe)
            await awaited(client.set("n", 40))
            with pytest.raises(redis_exceptions.WatchError):
                await awaited(pipe.execute())
            await awaited(pipe.watch("n"))
            queue_increment(pipe)
            return await awaited(pipe.execute())

    assert run(body) == [41]


def test_a_health_check_that_connects_again_does_not_lose_the_watch(run, proxy, server):
    async def body(client):
        async with watching(client) as pipe:
            queue_increment(pipe)
            await awaited(client.set("n", 40))
            answer_no_more(proxy)
            pipe.connection.next_health_check = 0
            with pytest.raises(redis_exceptions.WatchError):
                await awaited(pipe.execute())

    run(body, health_check_interval=60)
    assert count(server) == 40, "it was not carried out without its WATCH"


@pytest.mark.parametrize("when", ["before MULTI", "EXEC"])
def test_after_a_time_out_nobody_connects_again_to_unwatch(run, proxy, when):
    async def body(client):
        async with watching(client) as pipe:
            opened = proxy.opened
            answer_no_more(proxy)
            with pytest.raises((OutcomeUnknown, redis_exceptions.WatchError)):
                if when == "EXEC":
                    queue_increment(pipe)
                    await awaited(pipe.execute())
                else:
                    await awaited(pipe.get("n"))
        return proxy.opened - opened

    assert run(body) == 0


def test_a_pipeline_that_cannot_unwatch_gives_its_connection_back(run, proxy):
    async def body(client):
        for _ in range(3):
            async with watching(client):
                # All but the pipeline's own are open to others.
                answer_no_more(proxy)
        async with watching(client) as pipe:
            queue_increment(pipe)
            return await awaited(pipe.execute())

    assert run(body, max_connections=2) == [1]


def test_a_user_that_may_not_unwatch_gives_its_connection_back(run, own_server, proxy):
    proxy.target_port = own_server.port

    async def body(client):
        with own_server.client() as admin:
            for _ in range(3):
                async with watching(client):
                    admin.execute_command("ACL", "SETUSER", "default", "-unwatch")
        async with watching(client) as pipe:
            queue_increment(pipe)
            return await awaited(pipe.execute())

    assert run(body, max_connections=2) == [1]


async def test_a_cancelled_unwatch_leaves_no_reply_to_the_next_caller(proxy):
    async with AsyncRedis(port=proxy.port, socket_timeout=5) as client:
        pipe = client.pipeline()
        await pipe.watch("n")
        proxy.reply_delay = 0.2
        leaving = asyncio.create_task(pipe.reset())
        await asyncio.sleep(0.05)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        proxy.heal()
        await pipe.watch("n")
        assert await pipe.echo("mine") == b"mine"
        await pipe.reset()


def test_an_unknown_outcome_that_was_copied_is_classified_by_its_words():
    cut = pickle.loads(pickle.dumps(OutcomeUnknown("Connection closed by server. (…)")))
    late = pickle.loads(pickle.dumps(OutcomeUnknown("Timeout reading from here (…)")))
    assert classify(cut, "here").kind is FaultKind.CLOSED
    assert classify(late, "here").kind is FaultKind.TIMEOUT
