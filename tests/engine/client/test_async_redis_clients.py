"""Every way to make a client that redis-py knows, and what a client makes: locks, subscriptions, monitors."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis.asyncio
from redis import exceptions as redis_exceptions
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from redispool_app.engine import AsyncRedis
from tests.support.servers import RedisServer, eventually
from tests.support.twin_clients import both, opened

protocols = pytest.mark.parametrize("protocol", [2, 3])


async def works(client):
    """Use what shares, what does not, and a transaction."""
    assert await client.set("k", "v")
    assert await client.get("k") in (b"v", "v")
    assert len(await client.pipeline().get("k").incr("n").execute()) == 2
    await client.rpush("q", 1)
    assert len(await client.blpop("q", timeout=5)) == 2
    return True


@protocols
async def test_a_url_says_what_it_says_to_redis_py(server, protocol):
    url = f"redis://127.0.0.1:{server.port}/3?decode_responses=yes&client_name=by-url"
    async with AsyncRedis.from_url(url, protocol=protocol) as client:
        assert type(client) is AsyncRedis
        assert await works(client)
        assert await client.get("k") == "v"
        about = await client.client_info()
        assert [str(about[key]) for key in ("db", "name", "resp")] == ["3", "by-url", str(protocol)]


@pytest.mark.parametrize("kind", [redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool])
async def test_a_pool_of_redis_py_serves_and_belongs_to_whoever_made_it(server, kind):
    pool = kind(port=server.port, max_connections=4)
    async with AsyncRedis(connection_pool=pool) as client:
        assert await works(client)
        assert client.connection_pool is pool
    async with AsyncRedis(connection_pool=pool) as client:
        assert await works(client), "closing a client leaves a pool that it was given"
    await AsyncRedis.from_pool(pool).aclose()
    await pool.aclose()


async def test_the_pool_of_a_manager_serves(manager):
    pool = (await manager.get_client()).connection_pool
    async with AsyncRedis(connection_pool=pool) as client:
        assert await works(client)
    assert await works(await manager.get_client())


async def test_a_unix_socket_serves(tmp_path):
    path = str(tmp_path / "s")
    server = RedisServer(unixsocket=path).start()
    try:
        async with AsyncRedis(unix_socket_path=path) as client:
            assert await works(client)
        async with AsyncRedis.from_url(f"unix://{path}?db=1") as client:
            assert await works(client)
    finally:
        server.stop()


class Rotating(CredentialProvider):
    """Count how often the password was asked for."""

    asked = 0

    def get_credentials(self):
        self.asked += 1
        return ("default", "open sesame")

    async def get_credentials_async(self):
        return self.get_credentials()


@protocols
async def test_credentials_come_from_a_provider_at_each_connection(protocol):
    server = RedisServer(requirepass="open sesame").start()
    provider = Rotating()
    try:
        async with AsyncRedis(port=server.port, credential_provider=provider, protocol=protocol) as client:
            await asyncio.gather(*(client.echo(str(number)) for number in range(50)))
            assert provider.asked == 1
            assert await works(client)
            assert provider.asked == 2
        async with AsyncRedis(port=server.port, password="open sesame", protocol=protocol) as client:
            assert await works(client)
        wrong = UsernamePasswordCredentialProvider("default", "wrong")
        async with AsyncRedis(port=server.port, credential_provider=wrong, protocol=protocol, retry=None) as client:
            with pytest.raises(redis_exceptions.AuthenticationError):
                await client.get("k")
    finally:
        server.stop()


@protocols
async def test_a_client_of_a_single_connection_keeps_to_it(server, protocol):
    async with AsyncRedis(port=server.port, single_connection_client=True, protocol=protocol) as client:
        before = opened(server)
        replies = await asyncio.gather(*(client.echo(str(number)) for number in range(50)))
        assert replies == [str(number).encode() for number in range(50)]
        await client.client_setname("mine")
        assert await client.client_getname() in (b"mine", "mine"), "state lasts on a single connection"
        await client.execute_command("SELECT", 2)
        await client.set("k", "in 2")
        assert int((await client.client_info())["db"]) == 2
        assert opened(server, before) <= 1


async def test_client_makes_a_client_of_one_connection_on_the_same_pool(server):
    async with AsyncRedis(port=server.port) as client:
        async with client.client() as single:
            assert type(single) is AsyncRedis
            assert single.connection_pool is client.connection_pool
            await single.client_setname("single")
            assert await single.client_getname() in (b"single", "single")
            assert await works(single)
        assert await works(client)


async def test_an_unclosed_client_of_one_connection_is_named_and_its_connection_closed(own_server):
    made = AsyncRedis(port=own_server.port)
    clients = [await made.client().initialize()]
    await clients[0].ping()
    before = own_server.connections()
    gc.collect()
    with pytest.warns(ResourceWarning, match="Unclosed client session"):
        clients.clear()
    await asyncio.to_thread(eventually, lambda: own_server.connections() == before - 1)
    await made.aclose()


async def test_a_closed_client_leaves_no_connection_and_opens_again_on_use(server):
    client = AsyncRedis(port=server.port, client_name="leaving")
    assert await works(client)
    await client.aclose()
    await client.aclose()
    async with asyncio.timeout(5):
        while True:
            with server.client() as admin:
                if not [each for each in admin.client_list() if each["name"] == "leaving"]:
                    break
            await asyncio.sleep(0.01)
    assert await works(client), "redis-py's client connects again after aclose"
    await client.aclose()


# What a client makes.


@protocols
async def test_locks_exclude_wait_and_expire_as_in_redis_py(server, protocol):
    async with both(server, protocol=protocol) as (theirs, ours):
        lock, other = ours.lock("l", timeout=30), theirs.lock("l", timeout=30)
        assert await lock.acquire()
        assert await lock.locked()
        assert await lock.owned()
        assert not await other.acquire(blocking=False)
        assert not await other.acquire(blocking_timeout=0.05)
        assert await lock.extend(10)
        assert await lock.reacquire()
        waiting = asyncio.create_task(other.acquire(blocking_timeout=20))
        await asyncio.sleep(0.05)
        await lock.release()
        assert await waiting
        assert not await ours.lock("l", blocking=False).acquire()
        with pytest.raises(redis_exceptions.LockError):
            await lock.release()
        await other.release()
        brief = ours.lock("brief", timeout=0.05)
        assert await brief.acquire()
        await asyncio.sleep(0.2)
        with pytest.raises(redis_exceptions.LockNotOwnedError):
            await brief.release()
        async with ours.lock("context", timeout=5):
            assert await theirs.exists("lock", "context") == 1


async def test_a_lock_guards_a_read_and_a_write_of_many_callers(server):
    async with AsyncRedis(port=server.port) as client:

        async def add_one():
            async with client.lock("l", timeout=30, sleep=0.001):
                value = int(await client.get("n") or 0)
                await asyncio.sleep(0)
                await client.set("n", value + 1)

        await asyncio.gather(*(add_one() for _ in range(20)))
        assert await client.get("n") == b"20"


@protocols
@pytest.mark.parametrize("decode", [True, False])
async def test_subscriptions_bring_the_messages_that_redis_py_brings(server, protocol, decode):
    async def listen(client, publisher):
        got = []
        async with client.pubsub() as pubsub:
            handled = []
            await pubsub.subscribe("a", handled=handled.append)
            await pubsub.psubscribe("p*")
            await pubsub.ssubscribe("shard")
            while len(got) < 4:
                got.append(await pubsub.get_message(timeout=5))
            for channel, send in (("a", publisher.publish), ("pat", publisher.publish), ("shard", publisher.spublish)):
                assert await send(channel, "ä") == 1
                got.append(await pubsub.get_message(timeout=5))
            await publisher.publish("handled", "x")
            got.append(await pubsub.get_message(timeout=5))
            await pubsub.unsubscribe("a")
            got.append(await pubsub.get_message(timeout=5))
            got.append(await pubsub.get_message(timeout=0.01))
        return got, handled

    async with both(server, protocol=protocol, decode_responses=decode) as (theirs, ours):
        expected = await listen(theirs, theirs)
        assert await listen(ours, ours) == expected
        assert len(expected[1]) == 1


async def test_a_subscriber_and_plain_callers_do_not_disturb_each_other(server):
    async with AsyncRedis(port=server.port, protocol=3) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("news")
        texts = [f"{number}".encode() for number in range(300)]
        sent = asyncio.gather(*(client.publish("news", text) for text in texts))
        plain = asyncio.gather(*(client.echo(text) for text in texts))
        heard = []
        async with asyncio.timeout(20):
            async for message in pubsub.listen():
                if message["type"] == "message":
                    heard.append(message["data"])
                if len(heard) == len(texts):
                    break
        assert await plain == texts
        assert heard == texts
        assert await sent == [1] * 300


async def test_a_monitor_sees_what_the_client_sends(server):
    async with AsyncRedis(port=server.port) as client, client.monitor() as monitor:
        await client.set("watched", "v")
        async with asyncio.timeout(10):
            while (seen := await monitor.next_command())["command"] != "SET watched v":
                pass
        assert seen["db"] == 0
        assert await client.get("watched") == b"v"
