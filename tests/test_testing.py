"""redispool_app.testing: the manager on a server in memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
import unittest
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.redis_pool import RedisConnectionManager, redis_connection_manager
from redispool_app.testing import FakePool, override

from .support.servers import free_port

pytestmark = pytest.mark.urls(__name__)

PROJECT = Path(__file__).resolve().parent.parent


def visit(request):
    return HttpResponse(str(request.redis.incr("visits")))


async def visit_async(request):
    return HttpResponse(str(await (await request.aredis()).incr("visits")))


urlpatterns = [path("sync/", visit), path("async/", visit_async)]


@pytest.fixture
def unreachable(pool_settings):
    """REDIS_POOL names a port where nothing listens, with a password: whatever went there would fail."""
    return pool_settings(f"redis://:secret-word@127.0.0.1:{free_port()}/3")


async def write(key, value):
    await (await redis_connection_manager.get_client()).set(key, value)


async def read(key):
    return await (await redis_connection_manager.get_client()).get(key)


def read_sync(key):
    return redis_connection_manager.get_sync_client().get(key)


# One set of data.


def test_sync_code_and_every_event_loop_see_the_same_data(unreachable):
    with override():
        asyncio.run(write("a", "1"))
        assert asyncio.run(read("a")) == b"1"
        assert read_sync("a") == b"1"
        redis_connection_manager.get_sync_client().set("b", "2")
        assert asyncio.run(read("b")) == b"2"


async def test_an_async_test_can_use_it_too(unreachable):
    with override():
        await write("a", "1")
        assert await read("a") == b"1"
        assert await asyncio.to_thread(read_sync, "a") == b"1"


def test_threads_see_the_same_data(unreachable):
    found = []
    with override():
        asyncio.run(write("a", "1"))
        threads = [threading.Thread(target=lambda: found.append(read_sync("a"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [b"1"] * 4


def test_each_override_starts_empty(unreachable):
    for _ in range(2):
        with override():
            assert read_sync("a") is None
            redis_connection_manager.get_sync_client().set("a", "1")


def test_an_override_within_another_has_its_own_data_and_leaves_the_outer_ones(unreachable):
    with override():
        asyncio.run(write("a", "outer"))
        with override():
            assert asyncio.run(read("a")) is None
            asyncio.run(write("a", "inner"))
        assert asyncio.run(read("a")) == b"outer"
        assert read_sync("a") == b"outer"


# What it leaves alone.


def test_the_server_of_the_settings_is_not_touched(manager, server):
    def received():
        return server.info("stats")["total_connections_received"]

    manager.get_sync_client().set("a", "real")
    before = received()
    with override():
        redis_connection_manager.get_sync_client().set("a", "fake")
        asyncio.run(write("a", "fake"))
        assert received() == before + 1  # the one that asked
    assert read_sync("a") == b"real"
    assert asyncio.run(read("a")) == b"real"


def test_what_was_there_is_back_even_after_an_exception(manager):
    manager.get_sync_client().set("a", "real")
    with pytest.raises(ValueError, match="mine"), override():
        raise ValueError("mine")
    assert read_sync("a") == b"real"


def test_the_settings_stay_as_they_are(unreachable, settings):
    before = settings.REDIS_POOL
    with override():
        read_sync("a")
        assert settings.REDIS_POOL is before


def test_other_aliases_keep_their_server(server, settings):
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": server.url},
        "sessions": {"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}"},
    }
    with override("sessions") as fake:
        assert fake.manager is RedisConnectionManager("sessions")
        fake.manager.get_sync_client().set("a", "fake")
        assert read_sync("a") is None
        redis_connection_manager.get_sync_client().set("b", "real")
    with server.client() as client:
        assert client.mget("a", "b") == [None, b"real"]


def test_settings_that_change_meanwhile_do_not_lead_to_a_real_server(unreachable, settings):
    with override():
        redis_connection_manager.get_sync_client().set("a", "1")
        changed = {**settings.REDIS_POOL, "DECODE_RESPONSES": True}
        with override_settings(REDIS_POOL=changed):
            assert read_sync("a") == "1"
            assert asyncio.run(read("a")) == "1"
        assert read_sync("a") == b"1"


# As in production.


def test_the_projects_own_options_hold(unreachable, settings):
    settings.REDIS_POOL = {**settings.REDIS_POOL, "DECODE_RESPONSES": True, "MAX_CONNECTIONS": 3, "CLIENT_NAME": "shop"}
    with override():
        client = redis_connection_manager.get_sync_client()
        client.set("a", "1")
        assert client.get("a") == "1"
        assert client.client_getname().startswith("shop:")
        assert client.connection_pool.connection_kwargs["db"] == 3
        assert redis_connection_manager.get_pool_info()["connections_max"] == 3


@pytest.mark.parametrize(
    "keys",
    [
        {"PASSWORD": "secret-word", "USERNAME": "shop"},
        {"CREDENTIAL_PROVIDER": "shop.secrets.Vault"},
        {"CONNECTION_URL": "rediss://localhost", "SSL_CERTFILE": "/run/secrets/client.pem"},
        {"CONNECTION_URL": "unix:///run/redis.sock", "DB": 2},
        {"CONNECTION_URL": "embedded://"},
        {"CONNECTION_URL": "redis://localhost?protocol=3"},
    ],
    ids=lambda keys: "-".join(keys),
)
def test_what_leads_to_the_real_server_is_not_needed(settings, keys):
    settings.REDIS_POOL = keys
    with override():
        asyncio.run(write("a", "1"))
        assert read_sync("a") == b"1"


def test_settings_that_are_wrong_are_wrong_here_too(settings):
    settings.REDIS_POOL = {"SOCKET_TIMOUT": 1}
    with override(), pytest.raises(ImproperlyConfigured, match="SOCKET_TIMEOUT"):
        redis_connection_manager.get_sync_client()


def test_the_manager_knows_its_connections_and_their_health(unreachable):
    with override():
        read_sync("a")
        info = redis_connection_manager.get_pool_info()
        assert info["is_healthy"]
        assert info["connections_open"] == 1
        assert info["health_checks_total"] == 1


async def test_a_closed_manager_refuses_work_until_it_is_initialised(unreachable):
    with override():
        await write("a", "1")
        await redis_connection_manager.close()
        with pytest.raises(PoolClosed):
            await redis_connection_manager.get_client()
        await redis_connection_manager.initialize()
        assert await read("a") == b"1"


def test_views_use_it_through_their_request(unreachable):
    with override():
        assert Client().get("/sync/").content == b"1"
        assert Client().get("/async/").content == b"2"
        assert asyncio.run(AsyncClient().get("/sync/")).content == b"3"
        assert asyncio.run(AsyncClient().get("/async/")).content == b"4"


# An outage.


def test_views_answer_503_during_an_outage_and_go_on_afterwards(unreachable):
    with override() as fake:
        assert Client().get("/sync/").content == b"1"
        with fake.outage():
            assert Client().get("/sync/").status_code == 503
            assert asyncio.run(AsyncClient().get("/async/")).status_code == 503
        assert Client().get("/sync/").content == b"2"
        assert asyncio.run(AsyncClient().get("/async/")).content == b"3"


async def test_callers_get_redis_unavailable_during_an_outage(unreachable):
    with override() as fake:
        client, sync_client = await redis_connection_manager.get_client(), redis_connection_manager.get_sync_client()
        with fake.outage():
            with pytest.raises(redis_exceptions.ConnectionError):
                await client.get("a")
            with pytest.raises(redis_exceptions.ConnectionError):
                sync_client.get("a")
            with pytest.raises(RedisUnavailable):
                await redis_connection_manager.get_client()
            with pytest.raises(RedisUnavailable):
                redis_connection_manager.get_sync_client()
        started = time.monotonic()
        assert await client.get("a") is None
        assert sync_client.get("a") is None
        assert time.monotonic() - started < 5


def test_an_outage_can_be_there_from_the_start(unreachable):
    with override() as fake, fake.outage(), pytest.raises(RedisUnavailable):
        redis_connection_manager.get_sync_client()


# As a decorator.


@override()
def test_a_test_function_can_be_decorated(unreachable):
    assert read_sync("a") is None


@override()
async def test_an_async_test_function_can_be_decorated(unreachable):
    await write("a", "1")
    assert await read("a") == b"1"


def test_a_decorated_function_may_call_itself(unreachable):
    @override()
    def descend(depth):
        assert read_sync("a") is None
        redis_connection_manager.get_sync_client().set("a", depth)
        if depth:
            descend(depth - 1)
        assert read_sync("a") == str(depth).encode()

    descend(2)


def test_a_test_case_can_be_decorated(unreachable):
    @override()
    class Case(unittest.TestCase):
        def setUp(self):
            redis_connection_manager.get_sync_client().incr("a")

        def test_one(self):
            assert read_sync("a") == b"1"

        def test_two(self):
            assert read_sync("a") == b"1"

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])
    with pytest.raises(RedisUnavailable):
        redis_connection_manager.get_sync_client()


# Packaging.


def run_python(*arguments, cwd=PROJECT):
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(PROJECT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_pytest_projects_get_the_fixture_from_the_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["redispool_app.testing"]\n')
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            def test_first(fake_redis):
                fake_redis.get_sync_client().set("a", "1")
                assert fake_redis.get_pool_info()["alias"] == "default"

            def test_second(fake_redis):
                assert fake_redis.get_sync_client().get("a") is None
            """
        )
    )
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path), cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_projects_without_pytest_can_import_it():
    forbid = """
        import sys

        class Forbid:
            def find_spec(self, name, *rest):
                if name.partition(".")[0] in ("pytest", "_pytest", "fakeredis"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Forbid())
        import redispool_app.testing
    """
    done = run_python("-c", textwrap.dedent(forbid))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_fakeredis_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    with pytest.raises(ImportError, match="pip install fakeredis"), override():
        pass
    with pytest.raises(ImportError, match="pip install fakeredis"):
        FakePool("default")


def test_a_fork_leaves_the_childs_files_alone():
    # A fake socket's descriptor is a number made up: here, that of a pipe.
    script = """
        import asyncio, os, stat
        import django
        django.setup()
        from redispool_app.redis_pool import redis_connection_manager as manager
        from redispool_app.testing import override

        async def use():
            await (await manager.get_client()).ping()
            return fork()

        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(0 if all(stat.S_ISFIFO(os.fstat(end).st_mode) for end in ends) else 1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        ends = [end for _ in range(30) for end in os.pipe()]
        with override():
            manager.get_sync_client().ping()
            codes = [fork(), asyncio.run(use())]
        raise SystemExit(max(codes))
    """
    done = run_python("-c", textwrap.dedent(script))
    assert (done.returncode, done.stderr) == (0, "")
