"""Nothing secret where anybody looks: logs, page, document, command, exceptions with their chains, reprs, processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import redis
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from redis.credentials import CredentialProvider

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.admin_pages import PAGE, client_of
from tests.support.faulty_servers import FAULTS, pool_of
from tests.support.faulty_servers import PASSWORD as FAULTY_PASSWORD

from .fuzz.scripted_server import ScriptedServer

pytestmark = pytest.mark.django_db

SECRET = "s3cr3t-hunter2"
SLOW = {
    "a loading server",
    "a paused server",
    "a server that hangs up",
    "an unknown host",
    "protected mode",
    "tls to a plain port",
    "tls to a plain port until the connection times out",
}


class Provider(CredentialProvider):
    """Hands out the secret, or fails with it in its words."""

    def __init__(self, error=None):
        self.error = error

    def get_credentials(self):
        if self.error is not None:
            raise self.error
        return "bob", SECRET


WAYS = {
    "in the URL": lambda port: {"CONNECTION_URL": f"redis://bob:{SECRET}@127.0.0.1:{port}/0"},
    "in the URL's options": lambda port: {
        "CONNECTION_URL": f"redis://127.0.0.1:{port}/0?username=bob&password={SECRET}"
    },
    "under PASSWORD": lambda port: {
        "CONNECTION_URL": f"redis://127.0.0.1:{port}/0",
        "USERNAME": "bob",
        "PASSWORD": SECRET,
    },
    "from a provider": lambda port: {
        "CONNECTION_URL": f"redis://127.0.0.1:{port}/0",
        "CREDENTIAL_PROVIDER": Provider(),
    },
}


def everything_about(error):
    """What an exception can tell: itself and its whole chain."""
    told = []
    while error is not None:
        told += [str(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told


def shown_by(manager):
    """What the page, the document, the probe, the command and the manager tell."""
    viewer, out = client_of("view_redispool"), io.StringIO()
    yield from (viewer.get(path).content.decode() for path in (PAGE, "/redis/status/", "/redis/health/"))
    for options in ((), ("--json",)):
        try:
            call_command("redis_health", *options, stdout=out, stderr=out)
        except CommandError as error:
            yield from everything_about(error)
    yield out.getvalue()
    yield json.dumps(manager.get_pool_info())


def objects_of(manager, client):
    yield from (manager, client, client.connection_pool, client.pipeline(), client.sharing, manager._config)
    yield from (client.pubsub(), client.lock("a"), manager._config._url, manager._config.effective())
    yield from (manager._pool_set, manager._pool_set.settings, manager._pool_set.monitor, manager._health)
    yield client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    if client.sharing is not None and client.sharing.connection is not None:
        yield from (client.sharing.connection, client.sharing.connection.connection)


@pytest.fixture
def protected(own_server):
    """A server that knows bob by his password."""
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", f">{SECRET}", "~*", "&*", "+@all")
    return own_server


@pytest.fixture
def records(caplog):
    """The log's records, everything that could be printed of them included."""
    caplog.set_level(logging.DEBUG)

    def texts():
        printed = logging.Formatter("%(message)s")
        return [text for record in caplog.records for text in (printed.format(record), repr(record.args))]

    return texts


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_password_that_works_is_shown_nowhere(way, protocol, protected, pool_settings, records):
    manager = pool_settings(**_settings(WAYS[way](protected.port)), PROTOCOL=protocol)
    client = manager.get_sync_client()
    assert client.ping()
    shown = [repr(each) for each in objects_of(manager, client)]

    async def use():
        client = await manager.get_client()
        assert await client.ping()
        shown.extend(map(repr, objects_of(manager, client)))

    asyncio.run(use())
    shown += [*shown_by(manager), *records()]
    assert not [text for text in shown if SECRET in text]


def _settings(keys):
    return {"url" if key == "CONNECTION_URL" else key: value for key, value in keys.items()}


@pytest.mark.parametrize("way", WAYS)
def test_a_password_that_is_refused_is_shown_nowhere(way, own_server, pool_settings, records):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">another", "~*", "+@all")
    manager = pool_settings(**_settings(WAYS[way](own_server.port)))
    shown = [*errors_of(manager), *shown_by(manager), *records()]
    assert any("rejects the credentials" in text for text in shown)
    assert not [text for text in shown if SECRET in text]


def errors_of(manager):
    """What callers are told, first by a check, then by a client that tries to connect."""
    pool_set = manager._built()
    told = []

    def add(error):
        told.extend([*everything_about(error), "".join(traceback.format_exception(error))])

    async def use_async():
        for get in (manager.initialize, manager.get_client, _ask_async):
            try:
                await (get() if get is not _ask_async else _ask_async(manager))
            except Exception as error:
                add(error)

    for get in (manager.initialize_sync, manager.get_sync_client, lambda: _ask(pool_set)):
        try:
            get()
        except Exception as error:
            add(error)
    asyncio.run(use_async())
    return told


def _ask(pool_set):
    """As a client does that was handed out before the trouble began."""
    pool_set.health.passed(0.001)
    return pool_set.sync_client().get("a")


async def _ask_async(manager):
    manager._pool_set.health.passed(0.001)
    return await (await manager.get_client()).get("a")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.lab if name in SLOW else ()) for name in FAULTS])
def test_no_fault_brings_a_password_to_light(name, pool_settings, records):
    with pool_of(name, pool_settings) as manager:
        shown = [*errors_of(manager), *shown_by(manager), *map(repr, (manager, manager._config))]
    shown += records()
    assert len(shown) > 5
    assert not [text for text in shown if FAULTY_PASSWORD in text]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_repeats_what_it_does_not_understand_does_not_repeat_the_password(
    way, protocol, pool_settings, records
):
    def unknown(args):
        rest = " ".join(f"'{each.decode()}'" for each in args[1:])
        return f"-ERR unknown command '{args[0].decode()}', with args beginning with: {rest}\r\n".encode()

    with ScriptedServer(AUTH=unknown, HELLO=unknown, PING=unknown, GET=unknown) as server:
        server.answers[SECRET.encode()] = unknown
        manager = pool_settings(**_settings(WAYS[way](server.port)), PROTOCOL=protocol)
        shown = [*errors_of(manager), *shown_by(manager), *records()]
        manager.close_sync()
    assert any("unknown command" in text for text in shown)
    assert not [text for text in shown if SECRET in text]


PROVIDERS_ERRORS = [
    RuntimeError(f"vault denies {SECRET}"),
    KeyError(SECRET),
    ValueError(f"vault says {SECRET}"),
    OSError(f"vault {SECRET}"),
    ConnectionRefusedError(111, f"vault {SECRET}"),
    TimeoutError(f"vault {SECRET}"),
    redis.ConnectionError(f"vault {SECRET}"),
    redis.TimeoutError(f"vault {SECRET}"),
    redis.AuthenticationError(f"vault {SECRET}"),
    redis.ResponseError(f"vault {SECRET}"),
    redis.ResponseError(f"LOADING {SECRET}"),
]


@pytest.mark.parametrize("error", PROVIDERS_ERRORS, ids=lambda error: f"{type(error).__name__} {error}"[:30])
def test_what_a_failing_provider_says_is_shown_nowhere(error, own_server, pool_settings, records):
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=Provider(error))
    told = errors_of(manager)
    shown = [*told, *shown_by(manager), *records()]
    assert any(type(error).__name__ in text for text in told)
    assert manager.get_pool_info()["fault_kind"] == "auth"
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_provider_that_fails_between_two_commands_is_asked_again(face, protected, pool_settings):
    provider = Provider()
    manager = pool_settings(protected.url, CREDENTIAL_PROVIDER=provider)

    async def use():
        client = manager.get_sync_client() if face == "sync" else await manager.get_client()

        async def get():
            return client.get("a") if face == "sync" else await client.get("a")

        await get()
        provider.error = RuntimeError(SECRET)
        with protected.client() as admin:
            admin.client_kill_filter(user="bob", skipme=True)
        with pytest.raises(redis.ConnectionError, match="The credential provider raised RuntimeError") as caught:
            await get()
        provider.error = None
        while True:
            with contextlib.suppress(redis.ConnectionError):  # a probe may have asked meanwhile
                await get()
                return everything_about(caught.value)
            await asyncio.sleep(0.01)

    async def use_for(seconds):
        async with asyncio.timeout(seconds):
            return await use()

    assert not [text for text in asyncio.run(use_for(10)) if SECRET in text]


@pytest.mark.parametrize(
    "pool",
    [
        {"CONNECTION_URL": f"redis://bob:{SECRET}@host:port"},
        {"CONNECTION_URL": f"redis://bob:{SECRET}/x@127.0.0.1:1"},
        {"CONNECTION_URL": f"redis://bob:{SECRET}@[::1"},
        {"CONNECTION_URL": f"redis://bob:{SECRET}@127.0.0.1:1", "PASSWORD": SECRET},
        {"CONNECTION_URL": f"redis://127.0.0.1:1?password={SECRET}&nonsense=1"},
        {"CONNECTION_URL": f"redis://127.0.0.1:1?password={SECRET}&db=x"},
        {"CONNECTION_URL": "redis://127.0.0.1:1", "PASSWORD": [SECRET]},
        {"CONNECTION_URL": "redis://127.0.0.1:1", "PASSWORD": f"{SECRET}\ud800"},
        {"CONNECTION_URL": "redis://127.0.0.1:1", "PASSWORT": SECRET},
        {"CONNECTION_URL": [f"redis://bob:{SECRET}@127.0.0.1:1"]},
        {"CONNECTION_URL": "redis://127.0.0.1:1", "CREDENTIAL_PROVIDER": SECRET},
        {f"redis://bob:{SECRET}@127.0.0.1:1": {}},
        f"redis://bob:{SECRET}@127.0.0.1:1",
    ],
)
def test_wrong_settings_are_refused_without_repeating_a_password(pool, pool_settings, settings, records):
    manager = pool_settings("redis://unused")
    settings.REDIS_POOL = pool
    settings.CACHES = {
        "default": {
            "BACKEND": "redispool_app.cache.RedisPoolCache",
            "LOCATION": pool.get("CONNECTION_URL", "x") if isinstance(pool, dict) else pool,
            "OPTIONS": {key: value for key, value in pool.items() if key == "PASSWORD"}
            if isinstance(pool, dict)
            else {},
        }
    }
    shown = []
    for read in (manager.get_sync_client, lambda: caches.create_connection("default").get("a")):
        try:
            read()
        except (ImproperlyConfigured, redis.ConnectionError) as error:
            shown += everything_about(error)
    out = io.StringIO()
    for command in ("check", "redis_health"):
        try:
            call_command(command, stdout=out, stderr=out)
        except CommandError as error:
            shown += everything_about(error)
        except Exception as error:  # SystemCheckError is one of these
            shown += everything_about(error)
    shown += [out.getvalue(), *shown_by(manager), *records()]
    assert any("REDIS_POOL" in text for text in shown)
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("client_class", [SyncRedis, AsyncRedis])
def test_clients_without_a_manager_show_no_password_either(client_class):
    url = f"redis://bob:{SECRET}@127.0.0.1:1/0"
    for client in (client_class.from_url(url), client_class(username="bob", password=SECRET)):
        kwargs = client.connection_pool.connection_kwargs
        made = client.connection_pool.connection_class(**kwargs)
        assert not [each for each in (client, client.connection_pool, client.pipeline(), made) if SECRET in repr(each)]


def test_a_client_that_is_not_closed_is_warned_about_without_its_password(protected):
    async def forget():
        client = AsyncRedis(port=protected.port, username="bob", password=SECRET)
        await client.ping()
        with warnings.catch_warnings(record=True, action="always") as warned:
            del client
            gc.collect()
        return [str(each.message) for each in warned]

    told = asyncio.run(forget())
    assert told
    assert not [text for text in told if SECRET in text]


def test_a_cache_with_a_url_of_its_own_shows_no_password(protected, settings, pool_settings, records):
    pool_settings(f"redis://127.0.0.1:{protected.port}/7")
    settings.CACHES = {
        "default": {
            "BACKEND": "redispool_app.cache.RedisPoolCache",
            "LOCATION": f"redis://bob:{SECRET}@127.0.0.1:{protected.port}/0",
        }
    }
    cache = caches.create_connection("default")
    cache.set("a", 1)
    manager = cache.manager
    try:
        assert isinstance(manager, RedisConnectionManager)
        shown = [repr(cache), repr(manager), manager.alias, *shown_by(manager), *records()]
        assert cache.get("a") == 1
    finally:
        manager.close_sync()
        manager.reload_settings()
    assert not [text for text in shown if SECRET in text]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="this system shows processes in another way")
def test_no_process_shows_a_password_in_its_title(tmp_path):
    """An embedded server is the only process that the app starts: neither it nor this one tells about other pools."""
    code = f"""
import os, pathlib
import django
from django.conf import settings
settings.configure(
    BASE_DIR={str(tmp_path)!r},
    INSTALLED_APPS=["redispool_app"],
    REDIS_POOL={{
        "default": {{"CONNECTION_URL": "embedded://"}},
        "other": {{"CONNECTION_URL": "redis://bob:" + os.environ["WORD"] + "@127.0.0.1:1/0"}},
    }},
)
django.setup()
from redispool_app.redis_pool import RedisConnectionManager
client = RedisConnectionManager().get_sync_client()
client.ping()
try:
    RedisConnectionManager("other").get_sync_client()
except Exception:
    pass
server = client.info("server")["process_id"]
parent = int(pathlib.Path(f"/proc/{{server}}/stat").read_text().rpartition(")")[2].split()[1])
for process in (os.getpid(), server, parent):
    print(pathlib.Path(f"/proc/{{process}}/cmdline").read_bytes(), pathlib.Path(f"/proc/{{process}}/comm").read_text())
"""
    script = tmp_path / "site.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "WORD": SECRET, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("b'") == 3
    assert SECRET not in done.stdout + done.stderr
