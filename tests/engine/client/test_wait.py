"""WAIT and WAITAOF tell the truth, or are refused before anything is sent."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.exceptions import CommandRefused
from tests.engine.protocol.test_connection_state import closed
from tests.support.servers import RedisServer, eventually

from .test_lost_transactions import awaited


@pytest.fixture
def pair(own_server):
    """A primary and its replica, in step."""
    with own_server.client() as admin:
        admin.config_set("repl-diskless-sync-delay", 0)
    replica = RedisServer(replicaof=f"127.0.0.1 {own_server.port}").start()
    try:
        eventually(lambda: replica.info("replication").get("master_link_status") == "up", 20)
        eventually(lambda: own_server.info("replication").get("connected_slaves") == 1, 20)
        yield own_server, replica
    finally:
        replica.stop()


@pytest.fixture(params=[AsyncRedis, SyncRedis], ids=["async", "sync"])
def make(request, pair):
    return lambda **options: request.param(port=pair[0].port, retry=None, **options)


@pytest.fixture
def stopped(pair):
    """A function that stops the replica; it goes on when the test ends."""
    yield pair[1].pause
    pair[1].resume()


async def test_a_pipeline_is_told_how_many_replicas_have_its_writes(make, stopped):
    client = make(socket_timeout=30)
    try:
        for value in range(5):  # others' writes and reads, on the shared connection
            await awaited(client.set("k", value))

        def pipe():
            return client.pipeline(transaction=False).set("k", "v").get("k").wait(1, 300)

        assert await awaited(pipe().execute()) == [True, b"v", 1]
        stopped()
        assert await awaited(pipe().execute()) == [True, b"v", 0]
        script = client.pipeline(transaction=False).eval("return redis.call('INCR','n')", 0).wait(1, 50)
        assert await awaited(script.execute()) == [1, 0]
        acknowledged = await awaited(client.pipeline(transaction=False).incr("n").waitaof(0, 1, 50).execute())
        assert list(acknowledged[1]) == [0, 0]
    finally:
        await closed(client)


async def test_it_waits_longer_than_socket_timeout_for_a_replica(pair, stopped, pool_settings):
    manager = pool_settings(pair[0].url, SOCKET_TIMEOUT=1.0)
    client = await manager.get_client()
    stopped()
    assert await client.pipeline(transaction=False).set("k", "v").wait(1, 2000).execute() == [True, 0]
    waiting = asyncio.ensure_future(client.pipeline(transaction=False).set("k", "v").wait(1, 0).execute())
    await asyncio.sleep(2)
    assert not waiting.done()
    pair[1].resume()
    assert await asyncio.wait_for(waiting, 20) == [True, 1]
    assert [change["state"] for change in manager.health_history()] == ["healthy"]


async def test_where_it_cannot_be_true_it_is_refused(make, stopped):
    client = make()
    try:
        await awaited(client.set("k", "v"))
        stopped()
        for refused in (
            lambda: client.wait(1, 50),
            lambda: client.waitaof(0, 1, 50),
            lambda: client.pipeline().set("k", "v").wait(1, 50).execute(),
            lambda: client.pipeline().set("k", "v").waitaof(0, 1, 50).execute(),
            lambda: client.pipeline(transaction=False).wait(1, 50).execute(),
            lambda: client.pipeline(transaction=False).get("k").wait(1, 50).set("k", "w").execute(),
        ):
            with pytest.raises(CommandRefused, match=r"client\.pipeline\(transaction=False\)"):
                await awaited(refused())
        assert await awaited(client.get("k")) == b"v"
    finally:
        await closed(client)


async def test_between_watch_and_multi_it_answers_for_what_was_written_there(make, stopped):
    client = make()
    try:
        pipe = client.pipeline()
        await awaited(pipe.watch("k"))
        with pytest.raises(CommandRefused):
            await awaited(pipe.wait(1, 50))
        await awaited(pipe.incr("n"))
        assert await awaited(pipe.wait(1, 1000)) == 1
        stopped()
        await awaited(pipe.incr("n"))
        assert await awaited(pipe.wait(1, 50)) == 0
        pipe.multi()
        pipe.incr("n")
        pipe.wait(1, 50)
        with pytest.raises(CommandRefused):
            await awaited(pipe.execute())
        assert not pipe.watching
        # The next caller of that connection has written nothing on it.
        await awaited(pipe.watch("k"))
        with pytest.raises(CommandRefused):
            await awaited(pipe.wait(1, 50))
        await awaited(pipe.reset())
    finally:
        await closed(client)


async def test_a_client_of_one_connection_may_ask_about_its_own_writes(make, pair, stopped):
    client = make(single_connection_client=True)
    try:
        with pytest.raises(CommandRefused):
            await awaited(client.wait(1, 50))
        await awaited(client.set("k", "v"))
        assert await awaited(client.wait(1, 1000)) == 1
        stopped()
        await awaited(client.set("k", "v"))
        assert await awaited(client.wait(1, 50)) == 0
        # A new connection has written nothing, and would answer 1.
        number = await awaited(client.client_id())
        with pair[0].client() as admin:
            admin.client_kill_filter(_id=number)
        with pytest.raises((CommandRefused, redis_exceptions.ConnectionError)):
            await awaited(client.wait(1, 50))
        with pytest.raises(CommandRefused):
            await awaited(client.wait(1, 50))
    finally:
        await closed(client)
