"""Lifetimes, keys by pattern, locks and raw clients: what people use django-redis for."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time

import pytest
import redis.asyncio.lock
from django.core.exceptions import ImproperlyConfigured
from redis import exceptions as redis_exceptions

from redispool_app.cache.keys import LOCK, STALE
from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.testing import override
from tests.support import cache_faces
from tests.support.cache_faces import new_cache

face, at_redis = cache_faces.face, cache_faces.at_redis

pytestmark = pytest.mark.usefixtures("manager")


# Lifetimes.


async def test_the_time_that_is_left(face, at_redis):
    cache = face()
    await cache.set_many({"k": 1}, 50)
    await cache.set("always", 1, None)
    assert await cache.ttl("k") in (49, 50)
    assert 49_000 < await cache.pttl("k") <= 50_000
    assert await cache.ttl("always") is await cache.pttl("always") is None
    assert await cache.ttl("missing") == await cache.pttl("missing") == 0
    assert await cache.ttl("k", version=2) == 0


async def test_a_time_is_set_and_taken_away(face, at_redis):
    cache = face()
    await cache.set("k", 1)
    assert await cache.expire("k", 70) is True
    assert 65 <= at_redis.ttl(":1:k") <= 70
    assert await cache.pexpire("k", 80_500) is True
    assert 80_000 < at_redis.pttl(":1:k") <= 80_500
    assert await cache.persist("k") is True
    assert at_redis.ttl(":1:k") == -1
    assert await cache.persist("k") is False
    for call in (cache.expire, cache.pexpire):
        assert await call("missing", 5) is False
    assert await cache.persist("missing") is False


async def test_a_time_can_be_a_timedelta(face, at_redis):
    cache = face()
    await cache.set("k", 1)
    assert await cache.expire("k", datetime.timedelta(minutes=2, milliseconds=900)) is True
    assert 115 <= at_redis.ttl(":1:k") <= 120
    assert await cache.pexpire("k", datetime.timedelta(seconds=80, milliseconds=500)) is True
    assert 80_000 < at_redis.pttl(":1:k") <= 80_500
    assert await cache.expire("missing", datetime.timedelta(hours=1)) is False
    for past in (datetime.timedelta(0), datetime.timedelta(seconds=-1)):
        for call in (cache.expire, cache.pexpire):
            await cache.set("k", 1)
            assert await call("k", past) is True
            assert await cache.has_key("k") is False


async def test_a_key_can_end_at_a_moment(face, at_redis):
    cache = face()
    await cache.set("k", 1)
    now = time.time()
    moment = datetime.datetime.fromtimestamp(now + 100, tz=datetime.UTC)
    for call, when in (
        (cache.expire_at, moment),
        (cache.expire_at, now + 100),
        (cache.pexpire_at, moment),
        (cache.pexpire_at, (now + 100) * 1000),
    ):
        await cache.persist("k")
        assert await call("k", when) is True
        assert 95 <= at_redis.ttl(":1:k") <= 100
        assert await call("missing", when) is False
    assert await cache.expire_at("k", now - 5) is True
    assert await cache.has_key("k") is False


# Keys.


async def test_keys_are_found_by_pattern_as_their_callers_know_them(face):
    cache = face(KEY_PREFIX="p*[x]", VERSION=3)
    await cache.set_many({"a:1": 1, "a:2": 2, "b": 3, "ü\u00a0": 4})
    await cache.set("a:3", 1, version=4)
    await face(KEY_PREFIX="pq[x]", VERSION=3).set("a:4", 1)
    assert sorted(await cache.keys("a:*")) == ["a:1", "a:2"]
    assert sorted(await cache.iter_keys("a:[13]", itersize=1)) == ["a:1"]
    assert sorted(await cache.keys()) == ["a:1", "a:2", "b", "ü\u00a0"]
    assert await cache.keys("*", version=4) == ["a:3"]
    assert await cache.keys("nothing*") == []


async def test_many_pages_are_searched(face):
    cache = face()
    await cache.set_many({str(number): number for number in range(3000)})
    assert len(await cache.keys()) == 3000
    assert len(set(await cache.iter_keys("1*", itersize=10))) == 1111


async def test_what_matches_a_pattern_is_deleted_and_counted(face):
    cache = face()
    await cache.set_many({"a:1": 1, "a:2": 2, "b": 3})
    await cache.set("a:1", 1, version=2)
    assert await cache.delete_pattern("a:*", itersize=1) == 2
    assert await cache.delete_pattern("a:*") == 0
    assert await cache.keys() == ["b"]
    assert await cache.delete_pattern("*", version=2) == 1


async def test_locks_and_stale_copies_are_no_keys_of_the_cache_and_go_with_them(face, at_redis):
    cache = face(STALE_TIMEOUT=50)
    for key in ("a", "b"):
        at_redis.mset({f":1:{key}": 1, f":1:{key}{LOCK}": 1, f":1:{key}{STALE}": 1})
    assert sorted(await cache.keys()) == sorted(await cache.iter_keys("*")) == ["a", "b"]
    assert await cache.delete_pattern("a") == 1
    assert at_redis.exists(f":1:a{STALE}") == 0
    assert await cache.delete_pattern("*") == 1
    at_redis.set(f":1:c{STALE}", 1)
    assert await cache.clear() is True
    assert at_redis.dbsize() == 0


def behind(key, key_prefix, version):
    return f"{key}@{version}/{key_prefix}"


def hashed(key, key_prefix, version):
    return f"{key_prefix}:{version}:{hash(key)}"


async def test_keys_are_found_wherever_a_key_function_puts_them(face, at_redis):
    cache = face(KEY_FUNCTION=behind, KEY_PREFIX="p*", STALE_TIMEOUT=5)
    await cache.set_many({"a:1": 1, "a:2": 2, "b": 3})
    await cache.set("a:3", 1, version=12)
    at_redis.mset({"a@1/other": 1, f"b@7/p*{STALE}": 1})
    assert sorted(await cache.keys("a:*")) == ["a:1", "a:2"]
    assert await cache.keys("*", version=12) == ["a:3"]
    assert await cache.delete_pattern("a*") == 2
    assert await cache.clear() is True
    assert at_redis.keys() == [b"a@1/other"]


async def test_a_key_function_that_hides_keys_names_the_cure(face, at_redis):
    cache = face(KEY_FUNCTION=hashed)
    await cache.set("k", 1)
    for call in (cache.clear, cache.keys, lambda: cache.delete_pattern("*"), lambda: cache.iter_keys("*")):
        with pytest.raises(ImproperlyConfigured, match=r"own and set OPTIONS\['CLEAR_FLUSHES_DB'\] to True"):
            await call()
    assert await face(KEY_FUNCTION=hashed, CLEAR_FLUSHES_DB=True).clear() is True
    assert at_redis.dbsize() == 0


def doubled(key, key_prefix, version):
    return f"{key_prefix}|{version}|<{key}>"


def inner(full):
    return full.split("<")[1].rstrip(">").upper()


@pytest.mark.parametrize("place", ["OPTIONS", "beside"])
async def test_a_reverse_key_function_has_the_last_word(face, place):
    given = {"OPTIONS": {"REVERSE_KEY_FUNCTION": inner}} if place == "OPTIONS" else {"REVERSE_KEY_FUNCTION": inner}
    cache = face(KEY_FUNCTION=doubled, **given)
    await cache.set("k", 1)
    assert await cache.keys() == ["K"]
    path = face(KEY_FUNCTION=doubled, REVERSE_KEY_FUNCTION=f"{__name__}.inner")
    assert await path.keys() == ["K"]


# Locks.


async def test_a_lock_has_one_holder(face, at_redis):
    cache = face(KEY_PREFIX="p")
    async with cache.lock("job", timeout=20):
        assert 0 < at_redis.pttl("p:1:job") <= 20_000
        with pytest.raises(redis_exceptions.LockError):
            async with cache.lock("job", timeout=20, blocking_timeout=0.01):
                pytest.fail("two hold the lock")
        async with cache.lock("job", version=2, timeout=20, blocking_timeout=0):
            pass
    assert at_redis.dbsize() == 0


async def test_sync_and_async_code_exclude_each_other():
    cache = new_cache()
    async with cache.alock("job", timeout=20):
        assert await asyncio.to_thread(cache.lock("job", blocking=False).acquire) is False
    with cache.lock("job", timeout=20):
        assert await cache.alock("job").acquire(blocking=False) is False


async def test_an_async_lock_has_the_methods_of_redis_pys(at_redis):
    cache = new_cache()
    lock = await cache.alock("job", timeout=5)
    assert await lock.locked() is await lock.owned() is False
    assert await lock.acquire() is True
    assert await lock.locked() is await lock.owned() is True
    assert await cache.alock("job").owned() is False
    assert await lock.extend(60) is True
    assert at_redis.ttl(":1:job") > 50
    assert await lock.reacquire() is True
    assert at_redis.ttl(":1:job") <= 5
    await lock.release()
    assert await lock.locked() is False
    with pytest.raises(redis_exceptions.LockError):
        await lock.release()


async def test_a_lock_granted_to_a_caller_who_was_just_cancelled_is_given_back(monkeypatch, at_redis):
    granted = asyncio.Event()
    acquire = redis.asyncio.lock.Lock.do_acquire

    async def acquire_and_wait(self, token):
        assert await acquire(self, token)
        granted.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(redis.asyncio.lock.Lock, "do_acquire", acquire_and_wait)
    task = asyncio.create_task(new_cache().alock("job").acquire())
    await granted.wait()
    assert at_redis.exists(":1:job")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not at_redis.exists(":1:job")


def test_threads_take_turns():
    cache, inside, most = new_cache(), [], []

    def work():
        with cache.lock("job", timeout=30, sleep=0.01):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


# Clients, and the server in memory.


async def test_the_raw_clients_are_the_pools(manager):
    cache = new_cache()
    assert cache.get_client() is manager.get_sync_client()
    assert await cache.aget_client() is await manager.get_client()
    assert isinstance(cache.get_client(), SyncRedis)
    assert isinstance(await cache.aget_client(), AsyncRedis)
    cache.get_client().lpush(cache.make_key("list"), 1)
    assert await (await cache.aget_client()).llen(cache.make_key("list")) == 1


async def test_the_cache_works_on_the_server_in_memory(face):
    with override():
        cache = face(STALE_TIMEOUT=5)
        await cache.set_many({"a": 1, "b": {"x": 2}})
        assert await cache.incr("a") == 2
        assert await cache.get_or_set("c", lambda: "new") == "new"
        assert await cache.add("c", "newer") is False
        assert await cache.get_many("abc") == {"a": 2, "b": {"x": 2}, "c": "new"}
        assert sorted(await cache.keys()) == ["a", "b", "c"]
        assert await cache.clear() is True
        assert await cache.keys() == []
