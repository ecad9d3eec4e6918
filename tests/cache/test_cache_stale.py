"""Stale copies: who would wait for a computation takes the last value, and nobody else ever sees it."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.core.cache.backends.redis import RedisCache

from redispool_app.cache.keys import STALE
from tests.support import cache_faces
from tests.support.cache_faces import new_cache, pickled

face, at_redis, elsewhere = cache_faces.face, cache_faces.at_redis, cache_faces.elsewhere

pytestmark = pytest.mark.usefixtures("manager")


async def test_who_would_wait_takes_the_stale_copy(face, elsewhere):
    cache = face(STALE_TIMEOUT=50)
    elsewhere.set(f":1:k{STALE}", pickled("old"))
    started = time.monotonic()
    assert await cache.get_or_set("k", lambda: pytest.fail("computed")) == "old"
    assert time.monotonic() - started < 5


async def test_the_copy_outlives_the_value_and_get_does_not_see_it(face, at_redis):
    cache = face(STALE_TIMEOUT=50)
    assert await cache.get_or_set("k", lambda: "v", 7) == "v"
    assert (at_redis.ttl(":1:k"), at_redis.ttl(f":1:k{STALE}")) == (7, 57)
    at_redis.delete(":1:k")  # as if expired
    assert await cache.get("k") is None
    assert await cache.has_key("k") is False
    assert await cache.get_many(["k"]) == {}
    assert await cache.add("k", "new") is True


async def test_one_computes_while_the_others_have_the_copy(at_redis):
    cache, inside, computed = new_cache(STALE_TIMEOUT=50), asyncio.Event(), []
    at_redis.set(f":1:k{STALE}", pickled("old"))

    async def compute():
        computed.append(1)
        await inside.wait()
        return "new"

    first = asyncio.create_task(cache.aget_or_set("k", compute))
    while not computed:
        await asyncio.sleep(0)
    others = await asyncio.gather(*(cache.aget_or_set("k", compute) for _ in range(20)))
    assert others == ["old"] * 20
    assert not first.done()
    inside.set()
    assert await first == await cache.aget_or_set("k", compute) == "new"
    assert computed == [1]
    assert at_redis.get(f":1:k{STALE}") == pickled("new")


async def test_what_never_expires_has_no_copy(face, at_redis):
    await face(STALE_TIMEOUT=50).get_or_set("k", lambda: "v", None)
    await face().get_or_set("j", lambda: "v")
    assert sorted(at_redis.keys()) == [b":1:j", b":1:k"]


@pytest.mark.parametrize(
    "change",
    [
        ("set", "k", "w"),
        ("set_many", {"k": "w"}),
        ("set_many", {"k": "w"}, None),
        ("set_many", {"k": "w"}, 0),
        ("set", "k", "w", 0),
        ("delete", "k"),
        ("delete_many", ["k"]),
        ("delete_pattern", "k"),
        ("clear",),
        ("incr_version", "k"),
    ],
    ids=str,
)
async def test_what_is_changed_on_purpose_leaves_no_stale_copy(face, at_redis, change):
    cache = face(STALE_TIMEOUT=50)
    for is_there in (True, False):
        await cache.get_or_set("k", lambda: "v")
        assert at_redis.exists(f":1:k{STALE}")
        if not is_there:
            if change[0] == "incr_version":
                continue  # which is an error then
            at_redis.delete(":1:k")
        name, *args = change
        await getattr(cache, name)(*args)
        assert not at_redis.exists(f":1:k{STALE}")
        await cache.clear()


async def computed(face, at_redis, *, is_there):
    """A cache that has computed ``k``: its stale copy is there, and perhaps the value."""
    cache = face(STALE_TIMEOUT=50)
    await cache.get_or_set("k", lambda: "v")
    if not is_there:
        at_redis.delete(":1:k")
    return cache


@pytest.mark.parametrize(
    ("is_there", "change"),
    [
        (True, lambda cache: cache.add("k", "w")),
        (True, lambda cache: cache.set("k", "w", nx=True)),
        (False, lambda cache: cache.set("k", "w", xx=True)),
        (False, lambda cache: cache.set("k", "w", None, xx=True)),
    ],
    ids=["add", "nx", "xx", "xx for ever"],
)
async def test_what_was_not_written_leaves_the_stale_copy(face, at_redis, is_there, change):
    cache = await computed(face, at_redis, is_there=is_there)
    assert await change(cache) is False
    assert at_redis.get(f":1:k{STALE}") == pickled("v")


@pytest.mark.parametrize(
    ("is_there", "change"),
    [
        (False, lambda cache: cache.add("k", "w", 50)),
        (False, lambda cache: cache.set("k", "w", nx=True)),
        (True, lambda cache: cache.set("k", "w", 50, xx=True)),
        (True, lambda cache: cache.set("k", "w", None, xx=True)),
    ],
    ids=["add", "nx", "xx", "xx for ever"],
)
async def test_what_was_written_on_a_condition_leaves_none(face, at_redis, is_there, change):
    cache = await computed(face, at_redis, is_there=is_there)
    assert await change(cache) is True
    assert at_redis.keys() == [b":1:k"]
    assert await cache.get("k") == "w"


async def test_a_version_that_could_not_be_moved_leaves_the_stale_copies(face, at_redis):
    cache = face(STALE_TIMEOUT=50)
    for version in (1, 2):
        await cache.get_or_set("k", lambda: "v", version=version)
    at_redis.delete(":1:k")
    with pytest.raises(ValueError, match=r"^Key 'k' not found$"):
        await cache.incr_version("k")
    assert at_redis.exists(f":1:k{STALE}", f":2:k{STALE}", ":2:k") == 3
    assert await cache.incr_version("k", version=2) == 3
    assert sorted(at_redis.keys()) == [f":1:k{STALE}".encode(), b":3:k"]


async def test_with_stale_copies_the_answers_stay_djangos(face):
    cache = face(STALE_TIMEOUT=50)
    assert await cache.set("k", 1) is None
    assert await cache.add("k", 1) is False
    assert await cache.delete("k") is True
    assert await cache.delete("k") is False
    assert await cache.set_many({"a": 1, "b": 2}) == []
    assert await cache.incr_version("a") == 2
    with pytest.raises(ValueError, match=r"^Key 'a' not found$"):
        await cache.incr_version("a")


def test_djangos_own_backend_reads_what_was_computed(server):
    theirs = RedisCache(server.url, {})
    new_cache(STALE_TIMEOUT=50).get_or_set("k", lambda: {"a": 1})
    assert theirs.get("k") == {"a": 1}
    theirs._cache._get_connection_pool(True).disconnect()
