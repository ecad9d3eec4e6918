"""A provider that streams tokens (Entra ID, IAM): connections in use log in with each, and no caller notices."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from redis.auth.token import SimpleToken
from redis.credentials import StreamingCredentialProvider

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.runtime.nesting import inside
from redispool_app.engine.runtime.token_stream import listened, stream_of
from tests.support.servers import eventually

from .test_renewal import Traffic

USER = "app"
SIDES = pytest.mark.parametrize("side", ["async", "sync"])
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])


class Streaming(StreamingCredentialProvider):
    """Keeps one callback of each kind, as redis-entraid does, and calls it in the test's thread."""

    def __init__(self, admin):
        self._admin = admin
        self.value = "first"
        self.asked = 0
        self._next = self._error = None
        admin.execute_command("ACL", "SETUSER", USER, "reset", "on", ">first", "~*", "&*", "+@all")

    def get_credentials(self):
        self.asked += 1
        return USER, self.value

    async def get_credentials_async(self):
        return self.get_credentials()

    def on_next(self, callback):
        self._next = callback

    def on_error(self, callback):
        self._error = callback

    def is_streaming(self):
        return True

    def push(self, value, *, is_valid=True, awaits=False):
        """Bring a new token; the server no longer takes the one before."""
        self._admin.execute_command("ACL", "SETUSER", USER, "resetpass", f">{value if is_valid else 'another'}")
        self.value = value if is_valid else "another"
        token = SimpleToken(value, (time.time() + 60) * 1000, time.time() * 1000, {"oid": USER})
        returned = self._next(token)
        if awaits:

            async def wait():
                await returned

            asyncio.run(wait())

    def fail(self, error):
        self._error(error)


@pytest.fixture
def admin(own_server):
    with own_server.client() as admin:
        yield admin


@pytest.fixture
def provider(admin):
    return Streaming(admin)


def logins(own_server):
    """How often AUTH or HELLO was sent, and how often it was refused."""
    stats = own_server.info("commandstats")
    found = [stats.get(f"cmdstat_{name}", {"calls": 0, "failed_calls": 0}) for name in ("auth", "hello")]
    return sum(each["calls"] for each in found), sum(each["failed_calls"] for each in found)


def connection_ids(admin):
    return {each["id"] for each in admin.client_list(_type="normal") if each["user"] == USER}


@SIDES
@PROTOCOLS
def test_the_shared_connection_logs_in_with_each_new_token_in_place(
    side, protocol, own_server, admin, provider, pool_settings
):
    # One shared connection, also where the machine is so busy that it seems stalled.
    keys = {"PROTOCOL": protocol, "SOCKET_TIMEOUT": 30, "MAX_SHARED_CONNECTIONS": 1}
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider, **keys)
    with Traffic(manager, side) as traffic:
        eventually(lambda: min(traffic.done) > 0)
        ids, before = connection_ids(admin), logins(own_server)[0]
        for number in range(1, 6):
            provider.push(f"token-{number}", awaits=number % 2)
            eventually(lambda number=number: logins(own_server)[0] >= before + number)
        done = traffic.done[0]
        eventually(lambda: traffic.done[0] > done)
        assert connection_ids(admin) == ids
        assert logins(own_server)[1] == 0
    assert traffic.errors == []
    assert provider.asked == 1


@SIDES
def test_a_token_that_the_server_refuses_costs_a_connection_and_no_caller(
    side, own_server, admin, provider, pool_settings, caplog
):
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider, SOCKET_TIMEOUT=30)
    with Traffic(manager, side) as traffic:
        eventually(lambda: min(traffic.done) > 0)
        ids = connection_ids(admin)
        provider.push("refused-secret", is_valid=False)
        eventually(lambda: connection_ids(admin) and not connection_ids(admin) & ids)
        done = traffic.done[0]
        eventually(lambda: traffic.done[0] > done)
    assert traffic.errors == []
    assert provider.asked == 2
    assert [each.getMessage() for each in caplog.records if "refused a new token" in each.getMessage()]
    assert "refused-secret" not in caplog.text


@SIDES
def test_dedicated_connections_are_replaced_when_they_are_free(side, own_server, admin, provider, pool_settings):
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider, MAX_CONNECTIONS=1)

    async def on_loop():
        client = await manager.get_client()
        first = await client.client_id()
        assert await client.client_id() == first
        provider.push("second")
        second = await client.client_id()
        assert second != first
        assert await client.client_id() == second
        await manager.close()

    if side == "async":
        asyncio.run(on_loop())
        return
    client = manager.get_sync_client()
    first = client.client_id()
    assert client.client_id() == first
    provider.push("second")
    second = client.client_id()
    assert second != first
    assert client.client_id() == second


def test_the_connection_of_nested_calls_is_replaced_after_a_new_token(own_server, admin, provider, pool_settings):
    client = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider).get_sync_client()
    client.get("key")
    shared = connection_ids(admin)
    inside[threading.get_ident()] = client.sharing  # as in a signal handler while this thread is inside a call
    try:
        client.get("key")
        (kept,) = connection_ids(admin) - shared
        provider.push("second")
        eventually(lambda: kept not in connection_ids(admin))
        assert client.get("key") is None
    finally:
        del inside[threading.get_ident()]


@PROTOCOLS
def test_several_loops_threads_and_subscribers_share_one_provider(protocol, own_server, admin, provider, pool_settings):
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider, PROTOCOL=protocol, SOCKET_TIMEOUT=30)
    with Traffic(manager, "sync") as threads, Traffic(manager, "async") as loop:
        eventually(lambda: min(threads.done) > 0 and min(loop.done) > 0)
        # redis-py sets a callback of its own here, for RESP3.
        with manager.get_sync_client().pubsub() as pubsub:
            pubsub.subscribe("news")
            ids, before = connection_ids(admin), logins(own_server)[0]
            provider.push("second")
            eventually(lambda: logins(own_server)[0] >= before + 2 + (protocol == 3))
            done = threads.done[0], loop.done[0]
            eventually(lambda: threads.done[0] > done[0] and loop.done[0] > done[1])
            assert connection_ids(admin) == ids
    assert threads.errors == loop.errors == []


@SIDES
def test_clients_without_a_manager_are_told_too(side, own_server, admin, provider):
    options = {"port": own_server.port, "credential_provider": provider}

    async def on_loop():
        async with AsyncRedis(**options) as client:
            await client.set("key", 1)
            ids, before = connection_ids(admin), logins(own_server)[0]
            await asyncio.to_thread(provider.push, "second")
            await asyncio.to_thread(eventually, lambda: logins(own_server)[0] > before)
            assert await client.get("key") == b"1"
            assert connection_ids(admin) == ids

    if side == "async":
        asyncio.run(on_loop())
        return
    with SyncRedis(**options) as client:
        client.set("key", 1)
        ids, before = connection_ids(admin), logins(own_server)[0]
        provider.push("second")
        eventually(lambda: logins(own_server)[0] > before)
        assert client.get("key") == b"1"
        assert connection_ids(admin) == ids


def test_what_the_provider_reports_reaches_the_log_and_no_caller(own_server, provider, pool_settings, caplog):
    caplog.set_level(logging.WARNING, logger="redispool_app")
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider)
    assert manager.get_sync_client().ping()
    provider.fail(RuntimeError("a secret"))
    assert "The credential provider reports RuntimeError" in caplog.text
    assert "a secret" not in caplog.text
    assert manager.get_sync_client().ping()
    assert manager.get_pool_info()["state"] == "healthy"


@SIDES
def test_a_log_filter_that_raises_keeps_a_refused_token_from_nothing(side, own_server, admin, provider, pool_settings):
    def filter_of_a_project(record):
        raise RuntimeError

    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=provider, SOCKET_TIMEOUT=30)
    logger = logging.getLogger("redispool_app.pool")
    logger.addFilter(filter_of_a_project)
    try:
        with Traffic(manager, side) as traffic:
            eventually(lambda: min(traffic.done) > 0)
            ids = connection_ids(admin)
            provider.push("refused", is_valid=False)
            eventually(lambda: connection_ids(admin) and not connection_ids(admin) & ids)
            provider.fail(RuntimeError("a secret"))
    finally:
        logger.removeFilter(filter_of_a_project)
    assert traffic.errors == []


def test_a_callback_that_raises_keeps_the_others_from_nothing(provider):
    called = []

    def raising(token):
        raise RuntimeError

    stream = stream_of(provider)
    for callback in (raising, called.append, raising):
        stream.add(callback)
    provider.push("second")
    assert len(called) == 1


def test_a_stand_in_forgets_callbacks_whose_objects_are_gone(provider):
    class Owner:
        def use(self, token):
            pass

    stand_in, owner = listened(provider), Owner()
    stand_in.on_next(owner.use)
    stand_in.on_next(owner.use)
    assert len(stand_in.stream._callbacks) == 1
    del owner
    assert stand_in.stream._callbacks == {}
    assert listened(stand_in) is stand_in
