"""A write on a connection of its own whose reply is lost: its caller is told so, and it is never sent again."""

from __future__ import annotations

import contextlib

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import OutcomeUnknown

from . import test_lost_transactions
from .test_lost_transactions import awaited, either_loss

proxy, run = test_lost_transactions.proxy, test_lost_transactions.run

TOO_LARGE_TO_SHARE = "x" * 2_000_000

WRITES = {
    "a large value": ("APPEND", "n", TOO_LARGE_TO_SHARE),
    "a blocking move": ("BLMOVE", "from", "n", "LEFT", "RIGHT", 0.1),
    "a blocking pop": ("BLPOP", "from", 0.1),
}


@pytest.fixture
def at_redis(server):
    with server.client() as client:
        client.rpush("from", *range(20))
        yield client


def state(at_redis):
    """What the writes change, as numbers: the size of ``n``, and what is left to be popped."""
    size = at_redis.strlen if at_redis.type("n") == b"string" else at_redis.llen
    return size("n"), at_redis.llen("from")


def lose(proxy, loss, last=b"\r\n"):
    """Let the server receive the next write, up to its ``last`` bytes, and its answer be lost."""
    if loss == "cut":
        proxy.cut_after = last
    else:
        proxy.swallow_replies_of_open_connections()


AFTER_ONE = {
    "a large value": (len(TOO_LARGE_TO_SHARE), 20),
    "a blocking move": (1, 19),
    "a blocking pop": (0, 19),
}


@either_loss
@pytest.mark.parametrize("write", WRITES)
def test_a_lost_write_is_an_unknown_outcome_and_was_done_once(run, proxy, at_redis, write, loss):
    async def body(client):
        connection = await awaited(client.connection_pool.get_connection())
        await awaited(client.connection_pool.release(connection))  # so that the one to be lost is there
        lose(proxy, loss)
        with pytest.raises(OutcomeUnknown, match="may or may not have been carried out"):
            await awaited(client.execute_command(*WRITES[write]))
        assert client.sharing.statistics.unknown == 1

    run(body)
    assert state(at_redis) == AFTER_ONE[write]


@either_loss
@pytest.mark.parametrize("transaction", [True, False])
def test_so_it_is_with_a_large_pipeline(run, proxy, at_redis, loss, transaction):
    async def body(client):
        connection = await awaited(client.connection_pool.get_connection())
        await awaited(client.connection_pool.release(connection))
        lose(proxy, loss, b"EXEC" if transaction else b"once")
        pipe = client.pipeline(transaction=transaction)
        pipe.append("n", TOO_LARGE_TO_SHARE)
        pipe.rpush("from", "once")
        with pytest.raises(OutcomeUnknown, match="may or may not have been carried out"):
            await awaited(pipe.execute())
        await awaited(pipe.reset())

    run(body)
    assert state(at_redis) == (len(TOO_LARGE_TO_SHARE), 21)


@either_loss
def test_so_it_is_with_a_write_between_watch_and_multi(run, proxy, at_redis, loss):
    async def body(client):
        pipe = client.pipeline()
        await awaited(pipe.watch("watched"))
        lose(proxy, loss)
        with pytest.raises(OutcomeUnknown):
            await awaited(pipe.rpush("from", "once"))
        assert not pipe.watching
        await awaited(pipe.reset())

    run(body)
    assert state(at_redis) == (0, 21)


@either_loss
def test_to_watch_in_vain_is_no_unknown_outcome(run, proxy, at_redis, loss):
    async def body(client):
        connection = await awaited(client.connection_pool.get_connection())
        await awaited(client.connection_pool.release(connection))
        lose(proxy, loss)
        pipe = client.pipeline()
        # With repetitions of redis-py's own it may succeed at last.
        with contextlib.suppress(redis_exceptions.ConnectionError, redis_exceptions.TimeoutError):
            await awaited(pipe.watch("from"))
        assert client.sharing.statistics.unknown == 0
        await awaited(pipe.reset())

    run(body)
    assert state(at_redis) == (0, 20)


def test_what_was_never_written_is_no_unknown_outcome(run, proxy, at_redis):
    async def body(client):
        proxy.refuse()
        await awaited(client.connection_pool.disconnect())
        with pytest.raises(redis_exceptions.ConnectionError) as caught:
            await awaited(client.execute_command("BLPOP", "from", 0.1))
        assert not isinstance(caught.value, OutcomeUnknown)
        proxy.accept()

    run(body, retry=None)
    assert state(at_redis) == (0, 20)


def test_a_large_read_is_read_again(run, proxy, at_redis):
    key = "k" * 2_000_000
    at_redis.set(key, "v")

    async def body(client):
        proxy.cut_before = b"GET"
        assert await awaited(client.get(key)) == b"v"

    run(body)


def test_a_server_that_refuses_has_done_nothing(run, at_redis):
    async def body(client):
        with pytest.raises(redis_exceptions.ResponseError, match="WRONGTYPE"):
            await awaited(client.append("from", TOO_LARGE_TO_SHARE))

    run(body)
    assert state(at_redis) == (0, 20)
