"""Keys, values, stored bytes, unasked replies and servers that make no sense, against real and scripted servers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.utils.functional import SimpleLazyObject
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.admin_pages import PAGE, Page, client_of
from tests.support.servers import eventually

from .fuzz.scripted_server import ScriptedServer

PATIENCE = 10.0


@pytest.fixture(params=["threads", "coroutines"])
def ask(request):
    """Run ``(name, *args)`` calls side by side on one client of ours; return what each gave or raised."""
    return {"threads": by_threads, "coroutines": by_coroutines}[request.param]


def by_threads(port, *calls, **options):
    with SyncRedis(port=port, **options) as client, ThreadPoolExecutor(len(calls)) as threads:

        def one(call):
            try:
                return getattr(client, call[0])(*call[1:])
            except Exception as error:
                return error

        return [each.result(PATIENCE) for each in [threads.submit(one, call) for call in calls]]


def by_coroutines(port, *calls, **options):
    async def one(client, name, *args):
        return await getattr(client, name)(*args)

    async def together():
        client = AsyncRedis(port=port, **options)
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.gather(*(one(client, *call) for call in calls), return_exceptions=True)
        finally:
            await client.aclose()

    return asyncio.run(together())


# Keys and values.

KEYS = {
    "spaces": " a b  c ",
    "lines": "a\r\nGET b\r\n",
    "a whole command": "*1\r\n$8\r\nFLUSHALL\r\n",
    "NUL": "a\x00b",
    "nothing": "",
    "other letters": "ключ-鍵-🔑",
    "bytes that are no UTF-8": b"\xff\xfe\x80",
    "a glob": "[a-z]*?\\",
    "ten megabytes": b"k" * 10_000_000,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_any_key_and_value_arrive_as_they_are(ask, server, key):
    calls = [("set", key, key), ("set", "bystander", "untouched")]
    assert ask(server.port, *calls) == [True, True]
    expected = key.encode() if isinstance(key, str) else key
    assert ask(server.port, ("get", key), ("get", "bystander"), ("dbsize",)) == [expected, b"untouched", 2]
    with server.client() as plain:
        assert plain.get(key) == expected


@pytest.mark.parametrize(
    "key", ["\ud800", object(), None, True, ("a",), {"a": 1}, 1 + 2j], ids=lambda key: type(key).__name__
)
def test_what_cannot_be_a_key_or_a_value_is_refused_as_redis_py_does_it(ask, server, key):
    for call in (
        ("get", key),
        ("set", "a", key),
        ("mget", [key]),
        ("hset", "h", key, "v"),
        ("execute_command", "GET", key),
    ):
        with server.client() as plain, pytest.raises(Exception) as caught:
            getattr(plain, call[0])(*call[1:])
        refused, *others = ask(server.port, call, ("echo", "one"), ("echo", "two"))
        assert type(refused) is caught.type
        assert others == [b"one", b"two"]
    assert server.calls("set") == 0


@pytest.mark.parametrize("name", ["GET a\r\nFLUSHALL", "get\tx\nflushall", "FLUSHALL\x00", "GET\r\n\r\nFLUSHALL"])
def test_a_command_s_name_cannot_smuggle_another_one_in(ask, server, name):
    with server.client() as plain:
        plain.set("a", 1)
    outcome, other = ask(server.port, ("execute_command", name), ("echo", "other"), socket_timeout=1)
    assert other == b"other"
    assert outcome is None or isinstance(outcome, redis_exceptions.RedisError | bytes)
    assert server.calls("flushall") <= 1  # the fixture's own
    with server.client() as plain:
        assert plain.get("a") == b"1"


CACHE = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache", "OPTIONS": {"SERIALIZER": "json"}}}


@pytest.mark.filterwarnings("ignore:Cache key")
@pytest.mark.parametrize("key", [key for key in KEYS.values() if isinstance(key, str)], ids=lambda key: repr(key)[:20])
def test_the_cache_takes_any_key_and_prefix_literally(server, manager, settings, key):
    settings.CACHES = {"default": {**CACHE["default"], "KEY_PREFIX": key}}
    cache = caches.create_connection("default")
    cache.set(key, {"x": key})
    assert cache.get(key) == asyncio.run(caches.create_connection("default").aget(key)) == {"x": key}
    with server.client() as plain:
        assert plain.keys() == [cache.make_key(key).encode()]


STORED = [
    b"",
    b"\x00",
    b"{",
    b"[" * 100_000,
    b"nan",
    b"\xff",
    b"1" * 5_000,
    b"x\x9cdamaged",
    b"\x1f\x8b\x08\x00",
    b"\x28\xb5\x2f\xfd\x00",
    b"\xfd7zXZ\x00",
    b"\x80\x05N.",
    b"\xdd\xff\xff\xff\xff",
    b"\xc1",
]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize("stored", STORED, ids=lambda stored: repr(stored)[:20])
def test_stored_bytes_that_make_no_sense_are_a_value_error(server, manager, settings, serializer, stored):
    if serializer == "msgpack":
        pytest.importorskip("msgpack")
    settings.CACHES = {"default": {**CACHE["default"], "OPTIONS": {"SERIALIZER": serializer}}}
    cache = caches.create_connection("default")
    with server.client() as plain:
        plain.set(cache.make_key("bad"), stored)
    cache.set("good", "as ever")
    try:
        value = cache.get("bad")
    except (ValueError, ImproperlyConfigured) as error:
        told = str(error)
    else:
        told = repr(value)
    assert len(told) < 20_000
    assert cache.get("good") == "as ever"


# Replies.


@pytest.mark.parametrize("words", ["MOVED x", "ASK", "MOVED 1 nowhere", "", "LOADING"])
def test_what_a_script_answers_stays_its_caller_s_affair(ask, server, words):
    script = f"return redis.error_reply('{words}')"
    others = [("echo", str(number)) for number in range(20)]
    outcomes = ask(server.port, *others, ("eval", script, 0), *others, ("incr", "n"))
    assert isinstance(outcomes[20], redis_exceptions.RedisError)
    assert not isinstance(outcomes[20], OutcomeUnknown)
    assert outcomes[:20] == outcomes[21:41] == [str(number).encode() for number in range(20)]
    assert outcomes[41] == 1


def test_threads_get_their_own_replies_while_scripts_answer_strange_errors(server):
    """The rest of a reply that cannot be read must not be taken for somebody else's."""
    with SyncRedis(port=server.port) as client:
        wrong, ended = [], threading.Event()

        def work(name):
            while not ended.is_set():
                reply = client.echo(name)
                if reply != name.encode():
                    wrong.append((name, reply))
                    return

        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(work, f"mine-{number}") for number in range(4)]
            for _ in range(20):
                with pytest.raises(redis_exceptions.ResponseError):
                    client.eval("return redis.error_reply('MOVED x')", 0)
            ended.set()
            for each in asked:
                each.result(PATIENCE)
        assert wrong == []


def test_a_map_with_a_list_for_a_key_costs_a_connection_and_no_more(ask):
    with ScriptedServer(bad=b"%1\r\n*0\r\n:1\r\n") as server:
        outcomes = ask(server.port, ("get", "left"), ("get", "bad"), protocol=3)
        assert outcomes[0] == b"left"
        assert isinstance(outcomes[1], redis_exceptions.RedisError)
        assert ask(server.port, ("get", "a"), ("get", "b"), protocol=3) == [b"a", b"b"]


def test_a_reply_that_nobody_asked_for_is_nobody_s():
    with ScriptedServer() as server, SyncRedis(port=server.port) as client:
        assert client.get("a") == b"a"
        server.say(b"$8\r\nunasked!\r\n")
        eventually(lambda: client.sharing.connection._calls.poll(0))
        threading.Event().wait(0.05)
        assert [client.get("b"), client.get("c")] == [b"b", b"c"]
        assert server.accepted == 2


def test_a_reply_that_no_coroutine_asked_for_is_nobody_s():
    async def use(server):
        client = AsyncRedis(port=server.port)
        try:
            assert await client.get("a") == b"a"
            server.say(b"$8\r\nunasked!\r\n")
            await asyncio.sleep(0.05)
            assert [await client.get("b"), await client.get("c")] == [b"b", b"c"]
        finally:
            await client.aclose()

    with ScriptedServer() as server:
        asyncio.run(use(server))
        assert server.accepted == 2


@pytest.mark.parametrize("answer", [None, b"garbage\r\n", (b"$10\r\nab", None)], ids=["end", "garbage", "half"])
def test_a_command_that_ends_each_connection_is_not_tried_for_ever(ask, answer):
    with ScriptedServer(bad=answer) as server:
        (outcome,) = ask(server.port, ("get", "bad"), socket_timeout=2)
        assert isinstance(outcome, redis_exceptions.ConnectionError | redis_exceptions.TimeoutError)
        assert server.accepted <= 8
        (outcome,) = ask(server.port, ("set", "x", "bad"), socket_timeout=2)
        assert isinstance(outcome, OutcomeUnknown)
        assert server.accepted <= 10


@pytest.mark.parametrize("answer", [None, b"garbage\r\n"], ids=["end", "garbage"])
def test_nor_with_a_manager(answer, pool_settings):
    with ScriptedServer(bad=answer) as server:
        manager = pool_settings(server.url)
        with pytest.raises(redis.ConnectionError):
            manager.get_sync_client().get("bad")
        assert server.accepted <= 8
        manager.close_sync()


# Servers that are none.

INFO = [
    b":1\r\n",
    b"$-1\r\n",
    b"*1\r\n:1\r\n",
    b"+<script>\r\n",
    b"$4\r\n\xff\xfe\x00\r\r\n",
    b"-ERR unknown command 'INFO'\r\n",
    b"-NOPERM no permission\r\n",
    b"+uptime_in_seconds:999999999999999999\r\n",
    b"+uptime_in_seconds:-999999999999999999\r\n",
    b"+redis_version:<script>alert(1)</script>\r\n",
    b"+used_memory:99999999999999999999999999999999\r\n",
]


@pytest.mark.django_db
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("info", INFO)
def test_page_and_command_survive_any_answer_to_info(info, protocol, pool_settings, capsys):
    with ScriptedServer(INFO=info) as server:
        manager = pool_settings(server.url, PROTOCOL=protocol)
        page = Page(client_of("view_redispool").get(PAGE))
        call_command("redis_health")
        manager.close_sync()
    assert "Healthy" in page.text
    assert "<script>" not in page.html
    assert "healthy" in capsys.readouterr().out


@pytest.mark.django_db
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n", b"", None, b":5\r\n", b"*0\r\n", b"$-1\r\n", b"-<script>\x1b[31m\r\n", b"%1\r\n*0\r\n:1\r\n"],
)
def test_a_server_that_answers_ping_with_anything_else_is_unhealthy(answer, protocol, pool_settings, capsys):
    with ScriptedServer(PING=answer) as server:
        manager = pool_settings(server.url, PROTOCOL=protocol, HEALTH_CHECK_TIMEOUT=0.2, CLOSE_TIMEOUT=0)
        assert manager._health_check_sync() is False
        assert asyncio.run(manager._health_check()) is False
        page = Page(client_of("view_redispool").get(PAGE))
        with pytest.raises(CommandError) as caught:
            call_command("redis_health")
        manager.close_sync()
    assert "Unhealthy" in page.text
    assert "<script>" not in page.html
    assert caught.value.returncode == 1
    capsys.readouterr()


# Settings.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CONNECTION_URL", "redis://h"),
        ("DB", 1),
        ("TIMEOUT", -1),
        ("PASSWORD", "hunter2"),
        ("CLIENT_NAME", "site"),
        ("DECODE_RESPONSES", True),
        ("PROTOCOL", 3),
    ],
)
def test_a_lazy_value_is_refused_as_redis_py_cannot_use_it(key, value, pool_settings):
    keys = {"url": "redis://unused", "url" if key == "CONNECTION_URL" else key: SimpleLazyObject(lambda: value)}
    manager = pool_settings(**keys)
    with pytest.raises(ImproperlyConfigured) as caught:
        manager.get_sync_client()
    assert f"REDIS_POOL['{key}']" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert manager.get_pool_info()["state"] == "misconfigured"


@pytest.mark.parametrize("name", ["a\r\nFLUSHALL", "a b", "a\x00", "ä", "", "\n"])
def test_a_client_s_name_cannot_carry_a_command(name, pool_settings):
    with pytest.raises(ImproperlyConfigured, match="CLIENT_NAME"):
        pool_settings("redis://127.0.0.1:1", CLIENT_NAME=name).get_sync_client()


@pytest.mark.parametrize("alias", ["a\r\nb", "a b", "", "a/b", "<b>", 5])
def test_an_alias_cannot_carry_lines_or_markup(alias, pool_settings, settings):
    manager = pool_settings("redis://unused")
    settings.REDIS_POOL = {"default": {}, alias: {"CONNECTION_URL": "redis://h"}}
    from redispool_app.conf import get_aliases

    with pytest.raises(ImproperlyConfigured, match="alias"):
        get_aliases()
    assert manager.get_pool_info()["alias"] == "default"
