"""Versions, keys and warnings as Django makes them, and which keys ``clear()`` takes for the cache's own."""

from __future__ import annotations

import warnings

import pytest
from django.core.cache.backends.base import CacheKeyWarning
from django.core.cache.backends.redis import RedisCache

from redispool_app.cache import RedisPoolCache
from tests.support import cache_faces
from tests.support.cache_faces import new_cache

face, at_redis = cache_faces.face, cache_faces.at_redis

pytestmark = pytest.mark.usefixtures("manager")


# Versions and keys.


async def test_versions_are_apart(face):
    cache = face(VERSION=4)
    await cache.set("k", "four")
    await cache.set("k", "two", version=2)
    assert await cache.get("k") == await cache.get("k", version=4) == "four"
    assert await cache.get("k", version=2) == "two"
    assert await cache.get("k", version=3) is None


async def test_a_value_moves_to_another_version_with_its_time(face, at_redis):
    cache = face()
    await cache.set("k", "v", 50)
    assert await cache.incr_version("k") == 2
    assert await cache.get("k") is None
    assert await cache.get("k", version=2) == "v"
    assert 0 < at_redis.ttl(":2:k") <= 50
    assert await cache.decr_version("k", version=2) == 1
    assert await cache.incr_version("k", 5) == 6
    assert await cache.get("k", version=6) == "v"
    assert at_redis.keys() == [b":6:k"]
    for call in (cache.incr_version, cache.decr_version):
        with pytest.raises(ValueError, match=r"^Key 'k' not found$"):
            await call("k")


class Reprinted(str):
    """A str that shows itself as another, as Django's lazy texts and some enums do."""

    def __str__(self):
        return "shown"

    def __format__(self, spec):
        return "formatted"


@pytest.mark.parametrize(
    "key", ["k", "", 5, None, b"k", ("a", 1), "ä€😀", "100%s{}", Reprinted("held"), "k" * 239, "k" * 240, "a b\n"]
)
def test_full_keys_and_warnings_are_djangos(key):
    params = {"KEY_PREFIX": "p%s{}", "VERSION": "blue"}
    made = []
    for cache in (new_cache(**params), RedisCache("redis://unused", params)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            full = cache._full_key(key, None) if isinstance(cache, RedisPoolCache) else cache.make_and_validate_key(key)
        made.append((full, [(warning.category, str(warning.message)) for warning in caught]))
    assert made[0] == made[1]


@pytest.mark.parametrize("character", [chr(number) for number in (*range(0x21), 0x7F)])
async def test_every_character_that_memcached_refuses_is_warned_about(face, character):
    with pytest.warns(CacheKeyWarning, match="characters that will cause errors if used with memcached"):
        await face().get(f"a{character}b")


async def test_what_only_python_calls_unprintable_is_not_warned_about(face):
    cache = face()
    await cache.set("a\u00a0b\u200b", 1)
    assert await cache.get("a\u00a0b\u200b") == 1


def shouting(key, key_prefix, version):
    return f"{key_prefix}!{version}!{key.upper()}"


async def test_a_key_function_makes_the_keys(face, at_redis):
    for function in (shouting, f"{__name__}.shouting"):
        cache = face(KEY_FUNCTION=function, KEY_PREFIX="p")
        await cache.set("k", 1)
        assert await cache.get("K") == 1
        assert at_redis.keys() == [b"p!1!K"]


async def test_a_subclass_that_makes_its_own_keys_is_asked(manager, at_redis):
    class Tenants(RedisPoolCache):
        def make_key(self, key, version=None):
            return "tenant:" + super().make_key(key, version)

    class Careless(RedisPoolCache):
        def validate_key(self, key):
            pass

    tenants = Tenants("", {})
    tenants.set("k", 1)
    assert at_redis.keys() == [b"tenant::1:k"]
    assert tenants.keys("*") == ["k"]
    assert await tenants.aget("k") == 1
    Careless("", {}).set("a b", 1)  # no warning


def test_prefix_and_version_can_change_while_a_cache_is_in_use(at_redis):
    cache = new_cache()
    cache.key_prefix, cache.version = "later", 7
    cache.set("k", 1)
    assert at_redis.keys() == [b"later:7:k"]


# Clearing: this cache's keys, and nobody else's.


STRANGERS = ["other", ":x", "x:y:z", "a:v:1", "a:b:1:k", "a", "a:1", "[a]:1:k", "ab:1:k"]


@pytest.mark.parametrize("prefix", ["", "a", "[ab]", "*", "a\\"])
async def test_clear_deletes_all_versions_of_this_caches_keys_only(face, at_redis, server, prefix):
    cache = face(KEY_PREFIX=prefix, VERSION="blue")
    own = [f"{prefix}:{version}:{key}" for version in (1, -2, 30, "blue") for key in ("k", "a:b", "ü\n", "")]
    strangers = [key for key in STRANGERS if key != f"{prefix}:1:k"]
    for key in own + strangers:
        at_redis.set(key, 1)
    assert await cache.clear() is True
    assert sorted(key.decode() for key in at_redis.scan_iter()) == sorted(strangers)
    assert server.calls("flushdb") == 0


async def test_clear_goes_through_many_pages(face, at_redis):
    at_redis.mset({f":1:{number}": 1 for number in range(5000)} | {"other": 1})
    assert await face().clear() is True
    assert at_redis.keys() == [b"other"]


async def test_clear_empties_the_database_when_asked_to(face, at_redis):
    at_redis.set("other", 1)
    assert await face(CLEAR_FLUSHES_DB=True).clear() is True
    assert at_redis.dbsize() == 0
