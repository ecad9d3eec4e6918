"""AUTH on a client of many callers: a new password of the same user reaches every connection, another user none."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import redis
from redis import exceptions as redis_exceptions
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.connection.connection_async import ObservedAsync
from redispool_app.engine.connection.connection_sync import ObservedSync
from redispool_app.exceptions import CommandRefused
from tests.engine.protocol.test_connection_state import LARGE, closed
from tests.support.servers import eventually

from .test_lost_transactions import awaited


@pytest.fixture(params=[(AsyncRedis, 2), (AsyncRedis, 3), (SyncRedis, 2), (SyncRedis, 3)], ids=str)
def make(request, own_server):
    kind, protocol = request.param

    def make(**options):
        return kind(port=own_server.port, protocol=protocol, retry=None, **options)

    return make


@pytest.fixture
def admin(own_server):
    with own_server.client() as admin:
        admin.acl_setuser("ann", enabled=True, passwords=["+old"], keys="~*", channels="&*", commands=["+@all"])
        admin.acl_setuser("bob", enabled=True, passwords=["+secret"], keys="~*", channels="&*", commands=["+@all"])
        yield admin


def require(own_server, admin, password):
    admin.config_set("requirepass", password)
    admin.connection_pool.connection_kwargs["password"] = own_server.password = password


def rotate(admin):
    admin.execute_command("ACL", "SETUSER", "ann", "<old", ">new")


def cut(admin):
    """Close every connection but the one that asks: clients must log in again."""
    admin.client_kill_filter(skipme=True, _type="normal")


async def works_on_new_connections(client, admin, user="default"):
    cut(admin)
    await asyncio.sleep(0.05)  # an event loop learns of a closed connection in its next round
    for call in (client.ping, lambda: client.set("k", LARGE)):  # what was open is closed
        with contextlib.suppress(redis_exceptions.ConnectionError, redis_exceptions.TimeoutError):
            await awaited(call())
    assert await awaited(client.acl_whoami()) in (user, user.encode())
    assert await awaited(client.set("k", LARGE)) is True
    assert await awaited(client.blpop(["none"], timeout=0.01)) is None


async def test_a_server_without_a_password_takes_any_for_the_default_user_also_later(make, admin):
    client = make()
    try:
        assert await awaited(client.execute_command("AUTH", "default", "any")) in (True, b"OK")
        await works_on_new_connections(client, admin)
    finally:
        await closed(client)


@pytest.mark.parametrize("args", [("new",), ("new", "default")])
async def test_a_server_that_begins_to_want_a_password(make, own_server, admin, args):
    client = make()
    try:
        assert await awaited(client.ping())
        require(own_server, admin, "new")
        assert await awaited(client.auth(*args)) is True
        await works_on_new_connections(client, admin)
        # As redis-py's own tests end: the password is taken away again.
        assert await awaited(client.auth("new")) is True
        await awaited(client.config_set("requirepass", ""))
        own_server.password = None
        assert await awaited(client.ping())
    finally:
        await closed(client)


async def test_before_anything_is_connected(make, own_server, admin):
    client = make()
    try:
        require(own_server, admin, "new")
        with pytest.raises(redis_exceptions.AuthenticationError):
            await awaited(client.auth("wrong"))
        assert await awaited(client.auth("new")) is True
        await works_on_new_connections(client, admin)
    finally:
        await closed(client)


async def test_a_user_gets_a_new_password(make, admin):
    client = make(username="ann", password="old")
    try:
        assert await awaited(client.acl_whoami()) in ("ann", b"ann")
        await awaited(client.blpop(["none"], timeout=0.01))  # one lies idle
        rotate(admin)
        assert await awaited(client.auth("new", "ann")) is True
        await works_on_new_connections(client, admin, "ann")
    finally:
        await closed(client)


async def test_a_wrong_password_changes_nothing(make, admin):
    client = make(username="ann", password="old")
    try:
        assert await awaited(client.ping())
        with pytest.raises(redis_exceptions.AuthenticationError):
            await awaited(client.auth("wrong", "ann"))
        assert await awaited(client.acl_whoami()) in ("ann", b"ann")
        await works_on_new_connections(client, admin, "ann")
    finally:
        await closed(client)


async def test_without_a_password_on_the_server_redis_py_s_error_comes(make, admin):
    client = make()
    try:
        for connected in (False, True):
            with pytest.raises(redis_exceptions.RedisError, match="without any password configured"):
                await awaited(client.auth("needless"))
            if not connected:
                await awaited(client.ping())
        await works_on_new_connections(client, admin)
    finally:
        await closed(client)


@pytest.mark.parametrize("options", [{}, {"username": "ann", "password": "old"}])
async def test_another_user_is_refused_with_the_cure(make, admin, options):
    client = make(**options)
    try:
        own = options.get("username", "default")
        for call in (
            lambda: client.auth("secret", "bob"),
            lambda: client.execute_command("auth", b"bob", b"secret"),
            lambda: client.auth("", "") if own == "ann" else client.auth("old", "ann"),
        ):
            with pytest.raises(CommandRefused, match="a client, or an alias of REDIS_POOL, for each user"):
                await awaited(call())
        assert await awaited(client.acl_whoami()) in (own, own.encode())
    finally:
        await closed(client)


async def test_a_pipeline_may_log_in_as_another_user_and_leaves_no_trace(make, admin):
    client = make(username="ann", password="old")
    stop, seen = asyncio.Event(), set()

    async def watch():
        while not stop.is_set():
            seen.add(await awaited(client.acl_whoami()))
            seen.add((await awaited(client.client_info()))["user"])
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    try:
        for _ in range(20):
            pipe = client.pipeline(transaction=False)
            pipe.auth("secret", "bob")
            pipe.acl_whoami()
            assert (await awaited(pipe.execute()))[1] in ("bob", b"bob")
            await asyncio.sleep(0)
        stop.set()
        await watching
        assert {each if isinstance(each, str) else each.decode() for each in seen} == {"ann"}
    finally:
        stop.set()
        await closed(client)


async def test_a_static_credential_provider_gets_the_password_too(make, admin):
    provider = UsernamePasswordCredentialProvider("ann", "old")
    client = make(credential_provider=provider)
    try:
        assert await awaited(client.ping())
        assert await awaited(client.auth("old", "ann")) is True
        rotate(admin)
        assert await awaited(client.auth("new", "ann")) is True
        with pytest.raises(CommandRefused):
            await awaited(client.auth("secret", "bob"))
        await works_on_new_connections(client, admin, "ann")
    finally:
        await closed(client)


class Rotating(CredentialProvider):
    password = "old"

    def get_credentials(self):
        return "ann", self.password


async def test_a_project_s_own_provider_stays_the_source_for_new_connections(make, admin):
    provider = Rotating()
    client = make(credential_provider=provider)
    try:
        assert await awaited(client.ping())
        rotate(admin)
        provider.password = "new"
        assert await awaited(client.auth("new", "ann")) is True
        await works_on_new_connections(client, admin, "ann")
    finally:
        await closed(client)


async def test_a_client_of_one_connection_logs_in_as_redis_py_does(make, admin):
    client = make()
    try:
        single = client.client()
        assert await awaited(single.auth("secret", "bob")) is True
        assert await awaited(single.acl_whoami()) in ("bob", b"bob")
        await closed(single)
        assert (await awaited(client.client_info()))["user"] == "default"
    finally:
        await closed(client)


async def test_redis_py_answers_alike(own_server, admin):
    require(own_server, admin, "new")
    for kind in (redis.Redis, SyncRedis):
        with kind(port=own_server.port, password="new", retry=None) as client:
            assert client.auth("new") is True
            assert client.auth("new", "default") is True
            with pytest.raises(redis_exceptions.AuthenticationError, match="invalid username-password"):
                client.auth("wrong")
            with pytest.raises(redis_exceptions.ResponseError, match="wrong number of arguments"):
                client.execute_command("AUTH")


# A manager: every loop and all threads log in with the new password, while traffic runs.


@pytest.mark.parametrize("change", ["requirepass", "ACL SETUSER"])
@pytest.mark.parametrize("by", ["async", "sync"])
def test_a_rotation_under_traffic_reaches_all_clients_of_the_alias(own_server, admin, pool_settings, change, by):
    user = "ann" if change == "ACL SETUSER" else "default"
    keys = {"USERNAME": "ann", "PASSWORD": "old"} if user == "ann" else {}
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=30, RETRY_WRITES=True, **keys)
    blocking = manager.get_sync_client()
    stop, failures, users = threading.Event(), [], set()

    loops = []

    def thread_traffic():
        while not stop.is_set():
            try:
                users.add(blocking.acl_whoami())
                blocking.set("k", "v")
                if user == "ann":
                    blocking.client_id()
            except Exception as error:
                failures.append(error)

    async def loop_traffic():
        client = await manager.get_client()
        loops.append((asyncio.get_running_loop(), client))
        while not stop.is_set():
            try:
                users.add(await client.acl_whoami())
                await client.set("k", "v")
                if user == "ann":
                    await client.client_id()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=thread_traffic) for _ in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(loop_traffic())))
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: loops and own_server.calls("set") > 50)
        if user == "ann":
            admin.execute_command("ACL", "SETUSER", "ann", ">new")
        else:
            require(own_server, admin, "new")
        args = ("new", "ann") if user == "ann" else ("new",)
        if by == "sync":
            assert blocking.auth(*args) is True
        else:
            loop, client = loops[0]
            assert asyncio.run_coroutine_threadsafe(client.auth(*args), loop).result(30) is True
        # Every client has the password before the connections go.
        pools = [entry.pool for entry in manager._pool_set.loops.all()]
        eventually(lambda: all(pool.connection_kwargs["password"] == "new" for pool in pools))
        if user == "ann":
            admin.execute_command("ACL", "SETUSER", "ann", "<old")
        assert failures == []
        cut(admin)
        done = own_server.calls("set")
        eventually(lambda: own_server.calls("set") > done + 50)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    # A cut may reach a caller whose connection could not be replaced in time; a refused login may not.
    assert [error for error in failures if isinstance(error, redis_exceptions.AuthenticationError)] == []
    assert not any("WRONGPASS" in str(error) or "NOAUTH" in str(error) for error in failures)
    assert {each if isinstance(each, str) else each.decode() for each in users} == {user}
    assert asyncio.run(asks(manager)) is True
    faults = {change["fault_kind"] for change in manager.health_history()}
    assert "auth" not in faults


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("connections", [1, 10], ids=["connection of its own", "shared connection"])
async def test_a_second_rotation_without_an_open_connection(own_server, admin, pool_settings, kind, connections):
    manager = pool_settings(own_server.url, USERNAME="ann", PASSWORD="old", MAX_CONNECTIONS=connections)
    client = await manager.get_client() if kind == "async" else manager.get_sync_client()

    async def call(method, *args):
        return await (
            getattr(client, method)(*args) if kind == "async" else asyncio.to_thread(getattr(client, method), *args)
        )

    for before, now in (("old", "new"), ("new", "newer")):
        assert await call("get", "k") is None
        admin.execute_command("ACL", "SETUSER", "ann", f"<{before}", f">{now}")
        cut(admin)
        await asyncio.sleep(0.05)
        assert await call("auth", now, "ann") is True
    assert await call("get", "k") is None


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_login_that_a_rotation_overtakes_is_repeated(
    own_server, admin, pool_settings, monkeypatch, kind, protocol
):
    manager = pool_settings(own_server.url, USERNAME="ann", PASSWORD="old", PROTOCOL=protocol, SOCKET_TIMEOUT=30)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.ping()
    await asyncio.to_thread(blocking.ping)
    asked = []

    def is_first_login(args):
        if "old" in args:
            asked.append(args)
        return len(asked) == 1 and "old" in args

    def finish(reply):
        assert reply is True
        admin.execute_command("ACL", "SETUSER", "ann", "<old")

    if kind == "async":
        send = ObservedAsync.send_command

        async def send_command(self, *args, **kwargs):
            if is_first_login(args):
                admin.execute_command("ACL", "SETUSER", "ann", ">new")
                finish(await client.auth("new", "ann"))
            await send(self, *args, **kwargs)

        monkeypatch.setattr(ObservedAsync, "send_command", send_command)
        assert await client.client_id() > 0
    else:
        send = ObservedSync.send_command

        def send_command(self, *args, **kwargs):
            if is_first_login(args):
                admin.execute_command("ACL", "SETUSER", "ann", ">new")
                finish(asyncio.run_coroutine_threadsafe(client.auth("new", "ann"), loop).result(30))
            send(self, *args, **kwargs)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(ObservedSync, "send_command", send_command)
        assert await asyncio.to_thread(blocking.client_id) > 0
    assert len(asked) == 1
    assert [change["state"] for change in manager.health_history()] == ["healthy"]
    assert manager.get_pool_info()["errors_total"] == 0


async def asks(manager):
    """A loop that begins later uses the new password."""
    return await (await manager.get_client()).ping()


async def test_a_wrong_password_is_no_fault_of_the_server(own_server, admin, pool_settings):
    manager = pool_settings(own_server.url, USERNAME="ann", PASSWORD="old")
    client = await manager.get_client()
    blocking = manager.get_sync_client()
    await client.ping()
    await asyncio.to_thread(blocking.ping)
    with pytest.raises(redis_exceptions.AuthenticationError):
        await client.auth("wrong", "ann")
    with pytest.raises(redis_exceptions.AuthenticationError):
        await asyncio.to_thread(blocking.auth, "wrong", "ann")
    assert [change["state"] for change in manager.health_history()] == ["healthy"]
    assert "secret" not in repr(manager.get_pool_info())
