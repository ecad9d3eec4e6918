"""Locks of the cache and of stores outlive the pool that they were taken through."""

from __future__ import annotations

import asyncio
import threading

import pytest

from redispool_app.locks import AsyncLock, SyncLock

from .support.cache_faces import new_cache
from .support.stores import Carts, at_redis

__all__ = ["at_redis"]

LOCKS = {
    "cache": (
        ":1:job",
        lambda: new_cache().lock("job", timeout=10, sleep=0.01),
        lambda: new_cache().alock("job", timeout=10, sleep=0.01),
    ),
    "store": ("carts:lock:job", lambda: Carts().lock_sync("job"), lambda: Carts().lock("job")),
}

pytestmark = pytest.mark.parametrize(("key", "lock", "alock"), LOCKS.values(), ids=LOCKS)

METHODS = [("locked", ()), ("owned", ()), ("extend", (50,)), ("reacquire", ())]

PATIENCE = 30.0
"""Seconds until a test takes what it waits for as lost."""


def assert_nothing_is_left_open_but_the_pool_of_the_moment(manager):
    info = manager.get_pool_info()
    assert info["connections_opened_total"] - info["connections_closed_total"] == info["connections_open"]


def test_a_thread_keeps_its_lock_across_a_reset_and_gives_it_back(manager, at_redis, key, lock, alock):
    with lock():
        manager.reset_sync()
        assert at_redis.exists(key)
    assert not at_redis.exists(key)
    with lock():
        pass


async def test_a_task_keeps_its_lock_across_a_reset_and_gives_it_back(manager, at_redis, key, lock, alock):
    async with alock():
        await manager.reset_pool()
        assert at_redis.exists(key)
    assert not at_redis.exists(key)
    assert_nothing_is_left_open_but_the_pool_of_the_moment(manager)


def test_a_thread_that_waits_for_a_lock_waits_across_a_reset(manager, at_redis, monkeypatch, key, lock, alock):
    tried, got = threading.Semaphore(0), []
    do_acquire = SyncLock.do_acquire

    def try_once(self, token):
        done = do_acquire(self, token)
        tried.release()
        return done

    def wait_for_it():
        with lock():
            got.append(True)

    monkeypatch.setattr(SyncLock, "do_acquire", try_once)
    at_redis.set(key, "somebody else's")
    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    assert tried.acquire(timeout=PATIENCE)
    manager.reset_sync()
    # One of them may have been under way.
    assert all(tried.acquire(timeout=PATIENCE) for _ in range(2))
    at_redis.delete(key)
    waiter.join(PATIENCE)
    assert got == [True]
    assert not at_redis.exists(key)


async def test_a_task_that_waits_for_a_lock_waits_across_a_reset(manager, at_redis, monkeypatch, key, lock, alock):
    tried = asyncio.Semaphore(0)
    do_acquire = AsyncLock.do_acquire

    async def try_once(self, token):
        done = await do_acquire(self, token)
        tried.release()
        return done

    async def wait_for_it():
        async with alock():
            return True

    monkeypatch.setattr(AsyncLock, "do_acquire", try_once)
    at_redis.set(key, "somebody else's")
    waiter = asyncio.create_task(wait_for_it())
    async with asyncio.timeout(PATIENCE):
        await tried.acquire()
        await manager.reset_pool()
        for _ in range(2):
            await tried.acquire()
        at_redis.delete(key)
        assert await waiter is True
    assert not at_redis.exists(key)
    assert_nothing_is_left_open_but_the_pool_of_the_moment(manager)


async def test_every_method_of_a_lock_goes_on_after_a_reset(manager, at_redis, key, lock, alock):
    with lock() as held:
        for method, args in METHODS:
            manager.reset_sync()
            assert getattr(held, method)(*args) is True
        assert at_redis.ttl(key) <= 10
    async with alock() as held:
        for method, args in METHODS:
            await manager.reset_pool()
            assert await getattr(held, method)(*args) is True
        assert at_redis.ttl(key) <= 10
    assert_nothing_is_left_open_but_the_pool_of_the_moment(manager)
