"""Pipelines and clients of one connection behave as redis-py's own on the same server, with errors and after them."""

from __future__ import annotations

from operator import methodcaller as do

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy
from tests.support.servers import free_port
from tests.support.twin_clients import ASYNC, SYNC, assert_same, assert_same_sync, described

from .test_lost_transactions import awaited

NOAUTH = "return redis.error_reply('NOAUTH upstream')"
LOADING = "return redis.error_reply('LOADING upstream')"
NESTED = "return {redis.error_reply('NOAUTH nested'), 1}"
NESTED_LATER = "return {1, redis.error_reply('NOAUTH nested')}"

STACKS = {
    "first": [do("eval", NOAUTH, 0), do("set", "x", 1)],
    "later": [do("set", "x", 1), do("eval", NOAUTH, 0), do("set", "y", 1)],
    "loading": [do("eval", LOADING, 0), do("set", "x", 1)],
    "loading later": [do("set", "x", 1), do("eval", LOADING, 0)],
    "nested": [do("eval", NESTED, 0), do("set", "x", 1)],
    "nested later": [do("set", "x", 1), do("eval", NESTED_LATER, 0)],
    "alone": [do("eval", NOAUTH, 0)],
    "another error": [do("eval", "return redis.error_reply('WRONGTYPE own')", 0), do("set", "x", 1)],
    "cannot be sent": [do("set", "x", 1), do("set", "a", object())],
    "cannot be sent: None": [do("set", "a", None)],
    "no name": [do("execute_command", 5, "a")],
    "blocking cannot be sent": [do("blpop", [object()], timeout=1)],
}


def used(stack, transaction, raise_on_error):
    """Run a pipeline, then the same object again; return what came of both and what it keeps in between."""

    async def call(client):
        pipe = client.pipeline(transaction=transaction)
        results = []
        for commands in (stack, [do("set", "b", 1)]):
            try:
                for command in commands:
                    command(pipe)
                results.append(described(await pipe.execute(raise_on_error=raise_on_error)))
            except Exception as error:
                results.append(described(error))
            results.append(len(pipe))
        results.append(described(await client.mget("x", "y", "a", "b")))
        return results

    return call


CALLS = [
    used(stack, transaction, raise_on_error)
    for stack in STACKS.values()
    for transaction in (True, False)
    for raise_on_error in (True, False)
]

# redis-py sends a pipeline again after such an answer; that is not compared.
ONCE = {"retry": None}


@pytest.mark.parametrize("protocol", [2, 3])
async def test_async_pipelines_fail_as_those_of_redis_py(server, protocol):
    await assert_same(server, CALLS, protocol=protocol, **ONCE)


@pytest.mark.parametrize("protocol", [2, 3])
def test_sync_pipelines_fail_as_those_of_redis_py(server, protocol):
    assert_same_sync(server, CALLS, protocol=protocol, **ONCE)


@pytest.mark.parametrize("kinds", [ASYNC, SYNC], ids=["async", "sync"])
@pytest.mark.parametrize("transaction", [True, False])
async def test_commands_that_found_no_server_are_kept_as_in_redis_py(kinds, transaction):
    port = free_port()
    seen = []
    for make in kinds:
        client = make(port=port, retry=None)
        pipe = client.pipeline(transaction=transaction)
        pipe.set("kept", 1)
        pipe.get("kept")
        with pytest.raises(redis_exceptions.ConnectionError):
            await pipe.execute()
        seen.append(len(pipe))
        await client.aclose()
    assert seen == [2, 2]


@pytest.mark.parametrize("make", [AsyncRedis, SyncRedis])
async def test_kept_commands_are_sent_when_the_server_is_there(own_server, make):
    port = own_server.port
    own_server.kill()
    client = make(port=port, retry=None)
    try:
        pipe = client.pipeline().incr("n")
        with pytest.raises(redis_exceptions.ConnectionError):
            await awaited(pipe.execute())
        own_server.start()
        assert await awaited(pipe.execute()) == [1]
        assert await awaited(pipe.execute()) == []
    finally:
        await awaited(client.aclose() if make is AsyncRedis else client.close())


@pytest.mark.parametrize("make", [AsyncRedis, SyncRedis])
async def test_commands_that_may_have_been_carried_out_are_not_kept(server, make):
    with Proxy(server.port) as proxy:
        client = make(port=proxy.port, retry=None)
        try:
            await awaited(client.ping())
            proxy.cut_after = b"EXEC"
            pipe = client.pipeline().incr("n")
            with pytest.raises(OutcomeUnknown):
                await awaited(pipe.execute())
            assert len(pipe) == 0
        finally:
            proxy.heal()
            await awaited(client.aclose() if make is AsyncRedis else client.close())


SINGLE = [do("eval", script, 0) for script in (NOAUTH, LOADING, NESTED, NESTED_LATER)]


@pytest.mark.parametrize("mode", [{}, {"protocol": 3}, {"decode_responses": True}], ids=str)
async def test_single_replies_that_hold_such_errors_are_those_of_redis_py(server, mode):
    await assert_same(server, SINGLE, **mode, **ONCE)


@pytest.mark.parametrize("mode", [{}, {"protocol": 3}, {"decode_responses": True}], ids=str)
def test_so_they_are_for_threads(server, mode):
    assert_same_sync(server, SINGLE, **mode, **ONCE)


@pytest.mark.parametrize("make", [AsyncRedis, SyncRedis])
async def test_a_connection_that_is_set_carries_every_command(server, make):
    client = make(port=server.port)
    try:
        await awaited(client.set("k", "v"))  # the shared connection is there
        connection = await awaited(client.connection_pool.get_connection())
        client.connection = connection
        await awaited(client.client_setname("mine"))
        assert await awaited(client.execute_command("CLIENT", "GETNAME")) in (b"mine", "mine")
        before = server.calls("get")
        number = await awaited(client.client_id())
        for call in (do("get", "k"), do("execute_raw", "GET", "k")):
            assert await awaited(call(client)) == b"v"
            with server.client() as admin:
                (own,) = [each for each in admin.client_list() if each["id"] == str(number)]
            assert own["cmd"] == "get"
        assert server.calls("get") == before + 2
        if make is SyncRedis:
            assert client.get_raw("k") == b"v"
        else:
            assert client.send_get("k") is None
            assert client.send_raw("GET", "k") is None
        await awaited(client.select(2))
        assert await awaited(client.get("k")) is None
        client.connection = None
        await awaited(connection.disconnect())
        await awaited(client.connection_pool.release(connection))
        assert await awaited(client.get("k")) == b"v"
        assert client.sharing.connection is not None
    finally:
        await awaited(client.aclose() if make is AsyncRedis else client.close())
