"""Every way to make a sync client that redis-py knows, every transport, and what a client makes."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from time import monotonic

import pytest
import redis
from redis import exceptions as redis_exceptions
from redis.backoff import ConstantBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry
from redis.sentinel import Sentinel

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import RedisUnavailable
from tests.engine.connection.test_transports import tcp, tls, unix  # noqa: F401
from tests.engine.topology.test_sentinel import sentinel  # noqa: F401
from tests.support.crowd import at_once, value_of, working
from tests.support.servers import RedisServer, eventually, free_port
from tests.support.twin_clients import opened

from .test_async_redis_clients import Rotating

protocols = pytest.mark.parametrize("protocol", [2, 3])


def works(client):
    """Use what shares, what does not, and a transaction."""
    assert client.set("k", "v")
    assert client.get("k") in (b"v", "v")
    assert len(client.pipeline().get("k").incr("n").execute()) == 2
    client.rpush("q", 1)
    assert len(client.blpop("q", timeout=5)) == 2
    return True


def echoes(client, count):
    """Echo from as many threads at once; return whether each got its own."""
    replies = at_once(partial(client.echo, str(number)) for number in range(count))
    return replies == [b"%d" % number for number in range(count)]


def connections_named(server, name):
    with server.client() as admin:
        return [each for each in admin.client_list() if each["name"] == name]


# Ways to make one.


@protocols
def test_a_url_says_what_it_says_to_redis_py(server, protocol):
    url = f"redis://127.0.0.1:{server.port}/3?decode_responses=yes&client_name=by-url"
    with SyncRedis.from_url(url, protocol=protocol) as client:
        assert type(client) is SyncRedis
        assert works(client)
        assert client.get("k") == "v"
        about = client.client_info()
        assert [str(about[key]) for key in ("db", "name", "resp")] == ["3", "by-url", str(protocol)]


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_a_pool_of_redis_py_serves_and_belongs_to_whoever_made_it(server, kind):
    pool = kind(port=server.port, max_connections=4)
    with SyncRedis(connection_pool=pool) as client:
        assert works(client)
        assert client.connection_pool is pool
    with SyncRedis(connection_pool=pool) as client:
        assert works(client), "closing a client leaves a pool that it was given"
    SyncRedis.from_pool(pool).close()
    pool.disconnect()


def test_clients_of_one_pool_share_one_connection(server):
    pool = redis.ConnectionPool(port=server.port)
    before = opened(server)
    clients = [SyncRedis(connection_pool=pool) for _ in range(20)]
    replies = at_once(partial(client.echo, str(number)) for number, client in enumerate(clients))
    assert replies == [b"%d" % number for number in range(20)]
    assert opened(server, before) == 1
    SyncRedis.from_pool(pool).close()


def test_the_pool_of_a_manager_serves(manager):
    pool = manager.get_sync_client().connection_pool
    with SyncRedis(connection_pool=pool) as client:
        assert works(client)
    assert works(manager.get_sync_client())


def test_a_unix_socket_serves(tmp_path):
    path = str(tmp_path / "s")
    server = RedisServer(unixsocket=path).start()
    try:
        with SyncRedis(unix_socket_path=path) as client:
            assert works(client)
            assert echoes(client, 20)
        with SyncRedis.from_url(f"unix://{path}?db=1") as client:
            assert works(client)
    finally:
        server.stop()


@protocols
def test_credentials_come_from_a_provider_at_each_connection(protocol):
    server = RedisServer(requirepass="open sesame").start()
    provider = Rotating()
    try:
        with SyncRedis(port=server.port, credential_provider=provider, protocol=protocol) as client:
            assert echoes(client, 20)
            assert provider.asked == 1
            assert works(client)
            assert provider.asked == 2
        with SyncRedis(port=server.port, password="open sesame", protocol=protocol) as client:
            assert works(client)
        wrong = UsernamePasswordCredentialProvider("default", "wrong")
        with (
            SyncRedis(port=server.port, credential_provider=wrong, protocol=protocol, retry=None) as client,
            pytest.raises(redis_exceptions.AuthenticationError),
        ):
            client.get("k")
    finally:
        server.stop()


@protocols
def test_a_client_of_a_single_connection_keeps_to_it(server, protocol):
    before = opened(server)
    with SyncRedis(port=server.port, single_connection_client=True, protocol=protocol) as client:
        client.client_setname("mine")
        assert client.client_getname() in (b"mine", "mine"), "state lasts on a single connection"
        client.execute_command("SELECT", 2)
        client.set("k", "in 2")
        assert int(client.client_info()["db"]) == 2
        assert opened(server, before) == 1


def test_client_makes_a_client_of_one_connection_on_the_same_pool(server):
    with SyncRedis(port=server.port) as client:
        with client.client() as single:
            assert type(single) is SyncRedis
            assert single.connection_pool is client.connection_pool
            single.client_setname("single")
            assert single.client_getname() in (b"single", "single")
            assert works(single)
        assert works(client)


def test_a_closed_client_leaves_no_connection_and_opens_again_on_use(server):
    client = SyncRedis(port=server.port, client_name="leaving")
    assert works(client)
    client.close()
    client.close()
    eventually(lambda: not connections_named(server, "leaving"))
    assert works(client), "redis-py's client connects again after close"
    client.close()


def test_a_client_that_is_forgotten_leaves_no_connection(server):
    client = SyncRedis(port=server.port, client_name="forgotten")
    client.ping()
    assert connections_named(server, "forgotten")
    del client
    eventually(lambda: not connections_named(server, "forgotten"))


# Transports.


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
@protocols
def test_threads_share_one_connection_over_every_transport(transport, protocol, request, pool_settings):
    url, keys = request.getfixturevalue(transport)
    manager = pool_settings(url, PROTOCOL=protocol, SOCKET_TIMEOUT=10, **keys)
    client = manager.get_sync_client()
    big = bytes(range(256)) * 2000

    def small(number):
        for turn in range(50):
            assert client.echo(f"{number}-{turn}" * 50) == (f"{number}-{turn}" * 50).encode()

    client.set("big", big)
    outcomes = at_once([*(partial(small, number) for number in range(16)), *[partial(client.get, "big")] * 8])
    assert outcomes == [None] * 16 + [big] * 8
    assert client.pipeline().incr("n").hset("h", mapping={"a": 1}).hgetall("h").execute()[2] == {b"a": b"1"}
    assert client.blpop("never", 0.05) is None
    info = manager.get_pool_info()
    assert (info["connections_shared"], info["connections_opened_total"]) == (1, 2)
    manager.close_sync()
    assert manager.get_pool_info()["connections_open"] == 0


def test_a_tls_connection_that_is_cut_is_replaced(server, pool_settings, request):
    url, keys = request.getfixturevalue("tls")
    client = pool_settings(url, **keys).get_sync_client()
    client.set("x", "kept")
    read = []

    def read_one():
        # A cut that meets a handshake looks as if TLS were set up wrongly, so the next check decides.
        with contextlib.suppress(RedisUnavailable):
            read.append(client.get("x"))

    with working([read_one] * 6), server.client() as admin:
        for _ in range(5):
            before = len(read)
            admin.client_kill_filter(_type="normal", skipme=True)
            eventually(lambda before=before: len(read) > before + 20)
    assert set(read) == {b"kept"}


def test_threads_share_the_connection_to_a_primary_found_by_sentinel(own_server, request):
    finder = Sentinel([("127.0.0.1", request.getfixturevalue("sentinel"))], socket_timeout=5, protocol=2)
    client = finder.master_for("primary", redis_class=SyncRedis, protocol=2)
    assert echoes(client, 30)
    with own_server.client() as admin:
        others = [each for each in admin.client_list(_type="normal") if not each["name"].startswith("sentinel")]
        assert len(others) == 2, "this client's and the one that asks"
        assert works(client)
        admin.client_kill_filter(_type="normal", skipme=True)
    threading.Event().wait(0.05)
    assert client.get("n") == b"1"
    client.close()
    for each in finder.sentinels:
        each.close()


# What a client makes.


@protocols
def test_locks_exclude_wait_and_expire_as_in_redis_py(server, protocol):
    with redis.Redis(port=server.port, protocol=protocol) as theirs, SyncRedis(port=server.port) as ours:
        lock, other = ours.lock("l", timeout=30), theirs.lock("l", timeout=30, thread_local=False)
        assert lock.acquire()
        assert lock.locked()
        assert lock.owned()
        assert not other.acquire(blocking=False)
        assert not other.acquire(blocking_timeout=0.05)
        assert lock.extend(10)
        assert lock.reacquire()
        assert isinstance(at_once([lock.release])[0], Exception), "it belongs to the thread that acquired it"
        assert lock.owned()
        waiting = threading.Thread(target=other.acquire, kwargs={"blocking_timeout": 20})
        waiting.start()
        lock.release()
        waiting.join(20)
        assert other.owned()
        with pytest.raises(redis_exceptions.LockError):
            lock.release()
        other.release()
        brief = ours.lock("brief", timeout=0.05)
        assert brief.acquire()
        threading.Event().wait(0.2)
        with pytest.raises(redis_exceptions.LockNotOwnedError):
            brief.release()
        with ours.lock("context", timeout=5):
            assert theirs.exists("context") == 1


def test_a_lock_guards_a_read_and_a_write_of_many_threads(server):
    with SyncRedis(port=server.port) as client:

        def add_one():
            with client.lock("l", timeout=30, sleep=0.001):
                client.set("n", int(client.get("n") or 0) + 1)

        assert at_once([add_one] * 20) == [None] * 20
        assert client.get("n") == b"20"


@protocols
@pytest.mark.parametrize("decode", [True, False])
def test_subscriptions_bring_the_messages_that_redis_py_brings(server, protocol, decode):
    def listen(client):
        got, handled = [], []
        with client.pubsub() as pubsub:
            pubsub.subscribe("a", handled=handled.append)
            pubsub.psubscribe("p*")
            pubsub.ssubscribe("shard")
            got += [pubsub.get_message(timeout=5) for _ in range(4)]
            for channel, send in (("a", client.publish), ("pat", client.publish), ("shard", client.spublish)):
                assert send(channel, "ä") == 1
                got.append(pubsub.get_message(timeout=5))
            client.publish("handled", "x")
            got.append(pubsub.get_message(timeout=5))
            pubsub.unsubscribe("a")
            got += [pubsub.get_message(timeout=5), pubsub.get_message(timeout=0.01)]
        return got, handled

    heard = []
    for kind in (redis.Redis, SyncRedis):
        with kind(port=server.port, protocol=protocol, decode_responses=decode) as client:
            heard.append(listen(client))
    assert heard[1] == heard[0]
    assert len(heard[0][1]) == 1


def test_a_subscriber_in_a_thread_and_plain_callers_do_not_disturb_each_other(server):
    texts = [b"%d" % number for number in range(300)]
    heard = []
    with SyncRedis(port=server.port, protocol=3) as client, client.pubsub() as pubsub:
        pubsub.subscribe(news=lambda message: heard.append(message["data"]))
        listening = pubsub.run_in_thread(sleep_time=0.01)
        try:
            with working([lambda: value_of(client.echo("x"))] * 4):
                assert [client.publish("news", text) for text in texts] == [1] * 300
                eventually(lambda: len(heard) == 300)
        finally:
            listening.stop()
            listening.join(10)
    assert heard == texts


def test_a_monitor_sees_what_the_client_sends(server):
    with SyncRedis(port=server.port) as client, client.monitor() as monitor:
        client.set("watched", "v")
        while (seen := monitor.next_command())["command"] != "SET watched v":
            pass
        assert seen["db"] == 0
        assert client.get("watched") == b"v"


def test_attempts_to_connect_end_with_the_caller_s_deadline():
    began = monotonic()
    with (
        SyncRedis(port=free_port(), socket_timeout=0.3, retry=Retry(ConstantBackoff(0.2), 50)) as client,
        pytest.raises(redis_exceptions.ConnectionError, match="refused"),
    ):
        client.get("k")
    assert monotonic() - began < 3, "fifty attempts would take ten seconds"
    assert client.connection_pool.connection_kwargs["retry"].get_retries() == 50
