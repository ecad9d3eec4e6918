"""The cache API: values, times to live, several values and counters, through blocking and through async methods."""

from __future__ import annotations

import threading

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from redis import exceptions as redis_exceptions

from redispool_app.cache import RedisPoolCache
from redispool_app.cache import operations as cache_plans
from redispool_app.redis_pool import RedisConnectionManager
from tests.support import cache_faces
from tests.support.cache_faces import new_cache

face, at_redis = cache_faces.face, cache_faces.at_redis

pytestmark = pytest.mark.usefixtures("manager")


# Values.


async def test_a_value_comes_back_and_a_missing_one_is_the_default(face):
    cache = face()
    assert await cache.get("k") is None
    assert await cache.get("k", "default") == "default"
    assert await cache.set("k", {"tea": 2}) is None
    assert await cache.get("k") == {"tea": 2}


async def test_a_stored_none_is_not_missing(face):
    cache = face()
    await cache.set("k", None)
    assert await cache.get("k", "default") is None
    assert await cache.has_key("k") is True
    assert await cache.add("k", 1) is False


async def test_add_writes_only_what_is_missing(face, at_redis):
    cache = face()
    assert await cache.add("k", 1, 50) is True
    assert await cache.add("k", 2, 500) is False
    assert await cache.get("k") == 1
    assert 0 < at_redis.ttl(":1:k") <= 50


async def test_set_can_be_asked_to_create_only_or_to_replace_only(face):
    cache = face()
    assert await cache.set("k", 1, xx=True) is False
    assert await cache.set("k", 1, nx=True) is True
    assert await cache.set("k", 2, nx=True) is False
    assert await cache.set("k", 3, xx=True) is True
    assert await cache.get("k") == 3
    with pytest.raises(ValueError, match="exclude each other"):
        await cache.set("k", 4, nx=True, xx=True)


async def test_delete_says_whether_there_was_something(face):
    cache = face()
    await cache.set("k", 1)
    assert await cache.delete("k") is True
    assert await cache.delete("k") is False


async def test_a_value_that_cannot_be_pickled_is_an_error_and_leaves_the_old_one(face):
    cache = face()
    await cache.set("k", 1)
    for timeout in (300, 0):
        with pytest.raises(Exception, match=r"pickle|local object"):
            await cache.set("k", lambda: None, timeout)
    with pytest.raises(Exception, match=r"pickle|local object"):
        await cache.set_many({"a": 1, "k": lambda: None})
    assert await cache.get_many(["a", "k"]) == {"k": 1}


def test_in_asks_whether_the_key_is_there():
    cache = new_cache()
    assert "k" not in cache
    cache.set("k", None)
    assert "k" in cache


# Times to live: whole seconds, as Django counts them.


@pytest.mark.parametrize(("timeout", "left"), [(60, 60), (1.9, 1), ("20", 20), (None, -1)])
async def test_a_timeout_is_cut_to_whole_seconds_and_none_is_for_ever(face, at_redis, timeout, left):
    cache = face()
    await cache.set("a", 1, timeout)
    await cache.set_many({"b": 1, "c": "text"}, timeout)
    await cache.add("d", 1, timeout)
    assert [at_redis.ttl(f":1:{key}") for key in "abcd"] == [left] * 4


@pytest.mark.parametrize("timeout", [0, -5, 0.5])
async def test_what_has_expired_already_is_deleted_instead_of_stored(face, timeout):
    cache = face()
    await cache.set_many({"a": 1, "b": 1, "kept": 1})
    assert await cache.set("a", 2, timeout) is None
    assert await cache.set_many({"b": 2}, timeout) == []
    assert await cache.add("new", 1, timeout) is True
    assert await cache.add("kept", 2, timeout) is False
    assert await cache.get_many(["a", "b", "new", "kept"]) == {"kept": 1}


async def test_without_a_timeout_the_caches_own_holds(face, at_redis):
    await face(TIMEOUT=77).set("a", 1)
    await face(TIMEOUT=None).set("b", 1)
    await face().set("c", 1)
    assert [at_redis.ttl(f":1:{key}") for key in "abc"] == [77, -1, 300]


async def test_touch_sets_the_time_anew_and_says_whether_the_key_is_there(face, at_redis):
    cache = face()
    assert await cache.touch("k", 60) is False
    await cache.set("k", 1, 5)
    assert await cache.touch("k", 60) is True
    assert 55 <= at_redis.ttl(":1:k") <= 60
    assert await cache.touch("k") is True
    assert 295 <= at_redis.ttl(":1:k") <= 300
    assert await cache.touch("k", None) is True
    assert at_redis.ttl(":1:k") == -1
    assert await cache.touch("k", 0) is True
    assert await cache.has_key("k") is False


# Several values.


async def test_many_values_are_read_in_one_command_and_missing_ones_left_out(server, face):
    cache = face()
    await cache.set_many({"a": 1, "b": "two", "c": None})
    assert await cache.get_many(key for key in ("c", "missing", "a", "b", "a")) == {"c": None, "a": 1, "b": "two"}
    assert server.calls("mget") == 1
    assert server.calls("get") == 0


async def test_many_values_are_written_in_one_transaction_with_their_time(server, face, at_redis):
    cache = face()
    assert await cache.set_many({"a": 1, "b": "two"}, 50) == []
    assert (server.calls("multi"), server.calls("set")) == (1, 2)
    assert [at_redis.ttl(f":1:{key}") for key in "ab"] == [50, 50]
    assert await cache.set_many({"a": 3, "b": 4}, None) == []
    assert (server.calls("multi"), server.calls("mset")) == (1, 1)
    assert await cache.get_many("ab") == {"a": 3, "b": 4}


async def test_many_keys_are_deleted_in_one_command(server, face):
    cache = face()
    await cache.set_many({"a": 1, "b": 2, "c": 3})
    assert await cache.delete_many(key for key in ("a", "c", "missing")) is None
    assert server.calls("unlink") == 1
    assert await cache.get_many("abc") == {"b": 2}


async def test_nothing_at_all_is_no_command(server, face):
    cache = face()
    assert await cache.get_many([]) == {}
    assert await cache.set_many({}) == []
    assert await cache.delete_many([]) is None
    assert (server.calls("mget"), server.calls("unlink")) == (0, 0)


async def test_very_many_keys_travel_in_portions(server, face, monkeypatch):
    monkeypatch.setattr(cache_plans, "MOST_KEYS", 10)
    cache = face()
    values = {str(number): number for number in range(25)}
    await cache.set_many(values)
    assert await cache.get_many(values) == values
    assert server.calls("mget") == 3
    await cache.delete_many(values)
    assert server.calls("unlink") == 3
    assert await cache.get_many(values) == {}


# Counters.


async def test_a_counter_counts_and_keeps_its_time(face, at_redis):
    cache = face()
    await cache.set("k", 5, 50)
    assert await cache.incr("k") == 6
    assert await cache.incr("k", 10) == 16
    assert await cache.decr("k", 20) == -4
    assert await cache.decr("k") == -5
    assert await cache.get("k") == -5
    assert 0 < at_redis.ttl(":1:k") <= 50


async def test_a_counter_that_is_missing_is_a_value_error_with_djangos_words(face, at_redis):
    with pytest.raises(ValueError, match=r"^Key ':1:k' not found\.$"):
        await face().incr("k")
    with pytest.raises(ValueError, match=r"^Key 'a:3:k' not found\.$"):
        await face(KEY_PREFIX="a").decr("k", version=3)
    assert at_redis.dbsize() == 0


@pytest.mark.parametrize("value", ["text", 1.5, True, None, 2**70, 2**63 - 1])
async def test_what_cannot_be_counted_is_a_value_error_that_names_the_key_and_changes_nothing(face, value):
    cache = face()
    await cache.set("k", value)
    with pytest.raises(ValueError, match=r"^Key ':1:k' cannot be counted: .* set it anew\.$"):
        await cache.incr("k")
    assert await cache.get("k") == value


async def test_totals_beyond_53_bits_are_exact(face):
    cache = face()
    await cache.set("k", 2**62)
    assert await cache.incr("k", 12345) == 2**62 + 12345


async def test_a_delta_that_is_no_integer_is_refused_before_anything_is_sent(server, face):
    cache = face()
    for delta in (1.5, "1", None, True, False):
        with pytest.raises(TypeError):
            await cache.incr("k", delta)
    assert server.calls("evalsha") == server.calls("eval") == 0


async def test_a_list_under_the_key_is_the_servers_error(face, at_redis):
    at_redis.rpush(":1:k", 1)
    cache = face()
    for call in (cache.get, cache.incr):
        with pytest.raises(redis_exceptions.ResponseError, match=r"^WRONGTYPE|Operation against a key"):
            await call("k")


async def test_counting_goes_on_after_the_server_forgot_its_scripts(face, at_redis):
    cache = face()
    await cache.set("k", 1)
    for total in (2, 3):
        at_redis.script_flush()
        assert await cache.incr("k") == total


def test_no_increment_brings_an_expired_counter_back(at_redis):
    """Were it EXISTS and then INCRBY, a counter that expires in between would live for ever."""
    cache = new_cache()
    for round_ in range(150):
        at_redis.set(":1:k", 0, px=1 + round_ % 3)
        with pytest.raises(ValueError, match="not found"):
            while True:
                cache.incr("k")
        assert at_redis.exists(":1:k") == 0


def test_no_increment_is_lost_among_threads():
    cache, totals = new_cache(), []
    cache.set("k", 0)

    def count():
        totals.extend([cache.incr("k") for _ in range(50)])

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(totals) == list(range(1, 401))


# Instances.


def test_every_method_of_djangos_api_that_does_io_is_this_packages_own():
    shared = {"make_key", "validate_key", "make_and_validate_key"}
    methods = {name for name in dir(BaseCache) if callable(getattr(BaseCache, name)) and not name.startswith("_")}
    inherited = {name for name in methods if getattr(RedisPoolCache, name) is getattr(BaseCache, name)}
    assert inherited == shared


def test_threads_get_instances_of_their_own_on_one_pool(settings):
    settings.CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache", "OPTIONS": {"SERIALIZER": "json"}}}
    seen = [caches["default"]]
    thread = threading.Thread(target=lambda: seen.append(caches["default"]))
    thread.start()
    thread.join()
    assert seen[0] is not seen[1]
    assert seen[0]._setup is seen[1]._setup
    assert seen[0].manager is RedisConnectionManager()


async def test_the_end_of_a_request_closes_nothing(server, face):
    cache = face()
    await cache.set("k", 1)
    opened = server.info("stats")["total_connections_received"]
    for _ in range(3):
        await cache.close()
        assert await cache.get("k") == 1
    # Each look at the server is a connection too.
    assert server.info("stats")["total_connections_received"] == opened + 1
