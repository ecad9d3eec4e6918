"""Async methods to the bottom: no thread, one connection, any number of event loops, and cancellation hurts nobody."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async
from django.core.cache import cache as default_cache
from django.core.cache.backends.base import BaseCache

from redispool_app.cache import RedisPoolCache
from tests.support.cache_faces import new_cache

OURS = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}


@pytest.fixture
def no_threads(monkeypatch):
    """Fail whatever hands work to a thread."""

    def refuse(*args, **kwargs):
        raise AssertionError("work was handed to a thread")

    monkeypatch.setattr(SyncToAsync, "__call__", refuse)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)


async def test_no_async_method_uses_a_thread(manager, no_threads):
    cache = new_cache(STALE_TIMEOUT=5)
    await cache.aset("k", 1)
    await cache.aset_many({"a": 1, "b": 2})
    calls = {
        "aadd": ("k", 1),
        "aclear": (),
        "aclose": (),
        "adecr": ("k",),
        "adecr_version": ("b",),
        "adelete": ("a",),
        "adelete_many": (["a"],),
        "aget": ("k",),
        "aget_many": (["k"],),
        "aget_or_set": ("computed", lambda: 1),
        "ahas_key": ("k",),
        "aincr": ("k",),
        "aincr_version": ("k",),
        "aset": ("c", 1),
        "aset_many": ({"d": 1},),
        "atouch": ("b",),
        "attl": ("b",),
        "apttl": ("b",),
        "apersist": ("b",),
        "aexpire": ("b", 5),
        "apexpire": ("b", 5000),
        "aexpire_at": ("b", 4e9),
        "apexpire_at": ("b", 4e12),
        "akeys": ("*",),
        "adelete_pattern": ("x*",),
        "aget_client": (),
    }
    coroutines = {name for name, found in inspect.getmembers(RedisPoolCache) if inspect.iscoroutinefunction(found)}
    assert {name for name in coroutines if not name.startswith("_")} == set(calls)
    for name in sorted(calls, key="aclear".__eq__):
        await getattr(cache, name)(*calls[name])
    assert [key async for key in cache.aiter_keys("*")] == []
    async with cache.alock("lock", timeout=5):
        pass


def test_every_async_method_has_the_signature_of_its_twin():
    for name, method in inspect.getmembers(RedisPoolCache, inspect.isfunction):
        twin = getattr(RedisPoolCache, f"a{name}", None)
        if not name.startswith("_") and twin is not None:
            assert list(inspect.signature(method).parameters) == list(inspect.signature(twin).parameters), name
    for name, method in inspect.getmembers(BaseCache, inspect.isfunction):
        if not name.startswith("__"):
            given = list(inspect.signature(getattr(RedisPoolCache, name)).parameters)
            assert given[: len(inspect.signature(method).parameters)] == list(inspect.signature(method).parameters), (
                name
            )


async def test_three_hundred_callers_share_one_connection(server, manager):
    cache = new_cache()
    await cache.aset_many({str(number): {"number": number} for number in range(300)})
    before = server.info("stats")["total_connections_received"]
    found = await asyncio.gather(*(cache.aget(str(number)) for number in range(300)))
    assert found == [{"number": number} for number in range(300)]
    # The one more is this look at the server.
    assert server.info("stats")["total_connections_received"] == before + 1


async def test_a_client_is_ready_exactly_when_nothing_is_to_be_awaited_for_it(server, manager):
    assert manager.ready_client() is None, "no client yet"
    assert server.calls("ping") == 0
    client = await manager.get_client()
    assert manager.ready_client() is client
    checks = server.calls("ping")
    manager._last_health_check = 1.0
    assert manager.ready_client() is None, "a check is due"
    assert server.calls("ping") == checks
    assert await manager.get_client() is client is manager.ready_client()
    assert await asyncio.to_thread(asyncio.run, ready_elsewhere(manager)) is None, "another loop, another client"
    manager._is_healthy = False
    assert manager.ready_client() is None, "whoever comes next checks"
    assert await manager.get_client() is client is manager.ready_client()
    await manager.close()
    assert manager.ready_client() is None, "closed"


async def ready_elsewhere(manager):
    return manager.ready_client()


def test_outside_of_an_event_loop_no_client_can_be_ready(manager):
    with pytest.raises(RuntimeError, match="no running event loop"):
        manager.ready_client()


async def test_with_a_ready_client_no_method_asks_for_another(manager, monkeypatch):
    cache = new_cache()
    await cache.aset("k", 1)
    monkeypatch.setattr(manager, "get_client", lambda: pytest.fail("asked"))
    assert [await cache.aget("k"), await cache.aincr("k"), await cache.aget_many("k")] == [1, 2, {"k": 2}]
    assert await cache.aset_many({"a": 1, "b": 2}, 5) == []
    assert await cache.aget_or_set("c", lambda: 3) == 3


async def test_sync_and_async_code_see_the_same_values(manager):
    cache = new_cache()
    await cache.aset("k", "v")
    assert await asyncio.to_thread(cache.get, "k") == "v"
    await sync_to_async(cache.set)("k", "w")
    assert await cache.aget("k") == "w"


def test_every_event_loop_gets_a_connection_that_goes_with_it(server, manager):
    cache = new_cache()
    cache.set("k", "v")
    before = server.connections()
    for _ in range(20):
        assert asyncio.run(cache.aget("k")) == "v"
        assert async_to_sync(cache.aget)("k") == "v"
    assert server.connections() == before


async def test_a_cancelled_caller_costs_the_others_nothing(server, manager):
    cache = new_cache()
    await cache.aset("k", "v")
    tasks = [asyncio.create_task(cache.aget("k")) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == ["v"] * 50
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert await cache.aget("k") == "v"


async def test_replies_are_bytes_even_where_the_pool_decodes(server, pool_settings):
    pool_settings(server.url, DECODE_RESPONSES=True)
    cache = new_cache()
    await cache.aset_many({"a": "text", "b": 5, "c": b"\xff"})
    cache.set("d", {"deep": 1})
    assert await cache.aget_many("abcd") == {"a": "text", "b": 5, "c": b"\xff", "d": {"deep": 1}}
    assert cache.get("c") == b"\xff"
    assert await cache.aincr("b") == 6
    assert await cache.aget_or_set("e", lambda: "new") == "new"
    assert sorted(await cache.akeys()) == sorted(cache.keys()) == list("abcde")
    assert cache.clear() is True


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_give_the_same(server, pool_settings, protocol):
    pool_settings(server.url, PROTOCOL=protocol)
    cache = new_cache(STALE_TIMEOUT=5)
    await cache.aset_many({"a": "text", "b": 5})
    assert await cache.aadd("a", 1) is False
    assert await cache.aincr("b") == 6
    assert 295 <= await cache.attl("b") <= 300
    assert await cache.aget_or_set("c", lambda: [1]) == cache.get_or_set("c", lambda: 2) == [1]
    assert await cache.adelete("a") is True
    assert await cache.adelete("a") is False
    assert sorted(await cache.akeys()) == ["b", "c"]


def test_djangos_own_proxy_works_in_tasks_of_one_loop(server, manager, settings):
    settings.CACHES = OURS

    async def visit(number):
        await default_cache.aset(f"k{number}", number)
        return await default_cache.aget(f"k{number}")

    async def visits():
        return await asyncio.gather(*(visit(number) for number in range(30)))

    assert asyncio.run(visits()) == list(range(30))
