"""A store's locks: one holder, an end of their own, and nothing hidden from whoever leaves one."""

from __future__ import annotations

import asyncio
import threading

import pytest
import redis.asyncio.lock
from redis import exceptions as redis_exceptions

from tests.support import stores
from tests.support.stores import Carts

twin, at_redis = stores.twin, stores.at_redis


async def test_one_task_at_a_time_holds_a_lock(manager):
    store, inside, most = Carts(), 0, 0

    async def work():
        nonlocal inside, most
        async with store.lock("job", timeout=30, blocking_timeout=30):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(4)))
    assert most == 1
    assert not await store.exists("job", kind="lock")


def test_one_thread_at_a_time_holds_a_lock(manager):
    store, inside, seen, entered = Carts(), [], [], threading.Event()

    def work():
        with store.lock_sync("job", timeout=30, blocking_timeout=30):
            inside.append(1)
            seen.append(len(inside))
            entered.wait(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]


async def test_a_lock_that_is_taken_is_refused_in_time_and_the_pool_stays_healthy(manager, twin):
    store = twin(Carts)
    async with store.lock("job"):
        for wait in (0, 0.01):
            with pytest.raises(
                redis_exceptions.LockError, match=rf"Carts: the lock 'job' was not free within {wait} s"
            ):
                async with store.lock("job", blocking_timeout=wait):
                    pytest.fail("two hold the lock")
        async with store.lock("another job", blocking_timeout=0):
            pass
    assert manager._is_healthy
    async with store.lock("job", blocking_timeout=0):
        pass


async def test_redis_ends_a_lock_after_its_timeout(manager, twin, at_redis):
    async with twin(Carts).lock("job", timeout=2.5):
        assert 0 < at_redis.pttl("carts:lock:job") <= 2500


async def test_a_lock_can_be_extended_in_its_block(manager):
    async with Carts().lock("job", timeout=5) as lock:
        await lock.extend(60)
        assert await Carts().ttl("job", kind="lock") > 30
    with Carts().lock_sync("job", timeout=5) as lock:
        lock.extend(60)
        assert Carts().ttl_sync("job", kind="lock") > 30


async def test_a_lock_released_in_its_block_ends_without_complaint(manager):
    async with Carts().lock("job") as lock:
        await lock.release()
    with Carts().lock_sync("job", blocking_timeout=0) as lock:
        lock.release()


@pytest.mark.parametrize("taken_over", [False, True])
async def test_a_lock_lost_meanwhile_is_reported_on_leaving_it(manager, twin, at_redis, taken_over):
    with pytest.raises(redis_exceptions.LockNotOwnedError, match=r"Carts: the lock 'job' was lost .* raise timeout"):
        async with twin(Carts).lock("job"):
            at_redis.delete("carts:lock:job")
            if taken_over:
                at_redis.set("carts:lock:job", "somebody else")
    assert manager._is_healthy
    assert at_redis.exists("carts:lock:job") == taken_over


async def test_a_lost_lock_does_not_hide_the_exception_of_its_body(manager, twin, at_redis):
    with pytest.raises(KeyError, match="body") as caught:
        async with twin(Carts).lock("job"):
            at_redis.delete("carts:lock:job")
            raise KeyError("body")
    assert any("the lock 'job' was lost" in note for note in caught.value.__notes__)
    assert manager._is_healthy


async def test_an_exception_in_the_body_of_a_lock_releases_it_and_leaves_the_pool_healthy(manager, twin):
    store = twin(Carts)
    with pytest.raises(RuntimeError, match="body") as caught:
        async with store.lock("job"):
            raise RuntimeError("body")
    assert not hasattr(caught.value, "__notes__")
    assert manager._is_healthy
    assert not await store.exists("job", kind="lock")


async def test_a_cancelled_body_releases_its_lock(manager):
    store, entered = Carts(), asyncio.Event()

    async def work():
        async with store.lock("job"):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await store.exists("job", kind="lock")


async def test_a_lock_granted_to_a_caller_who_was_just_cancelled_is_given_back(manager, monkeypatch):
    store, granted = Carts(), asyncio.Event()
    acquire = redis.asyncio.lock.Lock.do_acquire

    async def acquire_and_wait(self, token):
        assert await acquire(self, token)
        granted.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(redis.asyncio.lock.Lock, "do_acquire", acquire_and_wait)
    task = asyncio.create_task(store.lock("job").__aenter__())
    await granted.wait()
    assert await store.exists("job", kind="lock")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await store.exists("job", kind="lock")


async def test_a_lock_is_released_through_the_pool_of_the_moment(manager, twin):
    store = twin(Carts)
    async with store.lock("job"):
        await manager.reset_pool()
    assert not await store.exists("job", kind="lock")


async def test_an_outage_within_a_lock_does_not_hide_the_exception_of_its_body(own_server, pool_settings, twin):
    pool_settings(own_server.url)
    with pytest.raises(KeyError) as caught:
        async with twin(Carts).lock("job"):
            own_server.kill()
            raise KeyError("body")
    assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("timeout", [None, 0, -1])
async def test_a_lock_without_an_end_is_refused(manager, twin, timeout):
    with pytest.raises(ValueError, match=r"Carts: (a lock needs a timeout|timeout must be above 0)"):
        async with twin(Carts).lock("job", timeout=timeout):
            pytest.fail("the lock was taken")


@pytest.mark.parametrize(("wait", "error"), [(-1, ValueError), (False, TypeError), ("1", TypeError)])
async def test_a_wait_for_a_lock_that_is_no_time_is_refused(manager, twin, wait, error):
    with pytest.raises(error, match=r"Carts: blocking_timeout must be"):
        async with twin(Carts).lock("job", blocking_timeout=wait):
            pytest.fail("the lock was taken")
