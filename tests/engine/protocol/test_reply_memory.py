"""A reply that does not fit into this process's memory fails its own caller; the connection is replaced."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import ReplyTooLargeError
from redispool_app.engine.health.faults import classify
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import at_once

WAYS_TO_SAY_IT = [MemoryError(), redis_exceptions.InvalidResponse("Out of memory")]
each_way = pytest.mark.parametrize("raised", WAYS_TO_SAY_IT, ids=["python", "hiredis"])
each_side = pytest.mark.parametrize("side", ["async", "sync"])


def without_memory(client, raised):
    """Let the shared connection of ``client`` find no memory for the next reply."""

    def gets(*args):
        raise raised

    connection = client.sharing.connection
    if hasattr(connection, "_incoming"):
        connection._incoming.gets = gets
    else:
        connection._gets = gets


def outcomes_of(manager, side, commands, raised):
    """Send commands all at once to a connection that cannot hold the first reply; return what came of each."""

    async def use():
        client = await manager.get_client()
        await client.ping()
        without_memory(client, raised)
        return await asyncio.gather(*(client.execute_command(*each) for each in commands), return_exceptions=True)

    if side == "async":
        return asyncio.run(use())
    client = manager.get_sync_client()
    client.ping()
    without_memory(client, raised)
    return at_once([lambda each=each: client.execute_command(*each) for each in commands])


@each_way
@each_side
def test_one_caller_is_told_and_the_others_are_served(side, raised, manager):
    outcomes = outcomes_of(manager, side, [("ECHO", "x")] * 10, raised)
    (error,) = [each for each in outcomes if each != b"x"]
    assert isinstance(error, ReplyTooLargeError)
    assert "memory" in str(error)
    assert classify(error, "here:1").kind == "memory"
    info = manager.get_pool_info()
    assert info["last_error_kind"] == "memory"
    assert "ask for less at once" in info["last_error"]
    assert manager._health_check_sync()


@each_side
def test_a_write_whose_reply_does_not_fit_may_have_been_carried_out(side, manager):
    (error,) = outcomes_of(manager, side, [("INCR", "n")], MemoryError())
    assert isinstance(error, OutcomeUnknown)
    assert classify(error, "here:1").kind == "memory"


@each_side
def test_a_pipeline_is_told_too(side, manager):
    async def use():
        client = await manager.get_client()
        await client.ping()
        without_memory(client, MemoryError())
        await client.pipeline(transaction=False).get("a").get("b").execute()

    with pytest.raises(ReplyTooLargeError):
        if side == "async":
            asyncio.run(use())
        else:
            client = manager.get_sync_client()
            client.ping()
            without_memory(client, MemoryError())
            client.pipeline(transaction=False).get("a").get("b").execute()


@each_way
@each_side
def test_on_a_connection_of_ones_own_the_caller_is_told_and_the_connection_replaced(side, raised, manager, monkeypatch):
    from redis._parsers.hiredis import _AsyncHiredisParser, _HiredisParser

    def read_response(*args, **kwargs):
        raise raised

    async def use():
        client = await manager.get_client()
        connection = await client.connection_pool.get_connection()
        try:
            await connection.send_command("PING")
            with monkeypatch.context() as patch:
                patch.setattr(_AsyncHiredisParser, "read_response", read_response)
                await connection.read_response()
        finally:
            assert not connection.is_connected
            await client.connection_pool.release(connection)

    def use_sync():
        pool = manager.get_sync_client().connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("PING")
            with monkeypatch.context() as patch:
                patch.setattr(_HiredisParser, "read_response", read_response)
                connection.read_response()
        finally:
            assert connection._sock is None
            pool.release(connection)

    with pytest.raises(ReplyTooLargeError):
        asyncio.run(use()) if side == "async" else use_sync()
    assert manager.get_pool_info()["last_error_kind"] == "memory"
