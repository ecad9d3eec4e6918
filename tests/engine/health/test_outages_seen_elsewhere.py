"""What one connection of a process has learned of an outage concerns those that lay idle meanwhile, too."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy
from tests.support.servers import eventually


@pytest.fixture
def partition(own_server, pool_settings):
    """A manager, and a function that lets the network vanish without a word until a thread has noticed."""
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(
            proxy.url,
            SOCKET_TIMEOUT=0.5,
            SOCKET_CONNECT_TIMEOUT=0.5,
            HEALTH_CHECK_TIMEOUT=0.5,
            RETRY_BACKOFF_CAP=0.2,
        )

        def vanish(notice):
            proxy.block()
            assert proxy.half_open() > 0
            with pytest.raises((redis_exceptions.TimeoutError, OutcomeUnknown)):
                notice()
            eventually(lambda: manager._health.confirmed)
            proxy.accept()
            eventually(lambda: manager._is_healthy)

        yield manager, vanish


async def test_a_loop_hears_of_what_a_thread_saw(partition):
    manager, vanish = partition
    client = await manager.get_client()
    await client.set("key", "value")
    await asyncio.to_thread(lambda: manager.get_sync_client().ping())
    await asyncio.to_thread(vanish, lambda: manager.get_sync_client().get("key"))
    assert await client.get("key") == b"value", "nobody waits on the connection that died"


@pytest.mark.parametrize("most", [1, 4])
def test_the_probe_uses_no_connection_that_lay_idle_meanwhile(own_server, pool_settings, most):
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=30, MAX_SHARED_CONNECTIONS=most)
        client = manager.get_sync_client()
        client.set("key", "value")

        async def notice():
            other = await manager.get_client()
            await other.ping()
            assert proxy.half_open() > 0
            # A read goes by another connection in time, if one may be made; a write stays where it is.
            with pytest.raises(redis_exceptions.TimeoutError if most == 1 else OutcomeUnknown):
                await (other.get("key") if most == 1 else other.set("key", "value"))

        asyncio.run(notice())
        eventually(lambda: manager._is_healthy)
        assert client.get("key") == b"value"


async def test_connections_of_ones_own_that_lay_idle_are_made_anew(partition):
    manager, vanish = partition
    client = await manager.get_client()
    await asyncio.gather(*(client.blpop(f"empty:{number}", 0.01) for number in range(3)))
    await client.set("key", "value")
    await asyncio.to_thread(lambda: manager.get_sync_client().ping())
    await asyncio.to_thread(vanish, lambda: manager.get_sync_client().get("key"))
    await client.rpush("list", 1, 2, 3)
    popped = await asyncio.gather(*(client.blpop("list", 1) for _ in range(3)))
    assert sorted(int(value) for _, value in popped) == [1, 2, 3]


def test_a_threads_connections_of_their_own_are_made_anew(partition):
    manager, vanish = partition
    client = manager.get_sync_client()
    client.blpop("empty", 0.01)
    vanish(lambda: client.get("key"))
    client.rpush("list", 1)
    assert client.blpop("list", 1) == (b"list", b"1")


async def test_who_listens_on_a_connection_of_its_own_keeps_it(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3)
    client = await manager.get_client()
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("news")
        assert await pubsub.get_message(timeout=1) is None
        own_server.pause()
        with pytest.raises(redis_exceptions.TimeoutError):
            await client.get("key")
        own_server.resume()
        await asyncio.to_thread(eventually, lambda: manager._is_healthy)
        assert await client.publish("news", "all is well") == 1
        message = await pubsub.get_message(timeout=1)
    assert message is not None
    assert message["data"] == b"all is well"
