"""The one queue of waiters: the order, the turn that passes on, wake-ups from any thread, and a loop that has ended."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import threading
import time

import pytest

from redispool_app.engine import AsyncRedis
from redispool_app.engine.runtime import wait_queue
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, LoopWaiter, ThreadWaiter, WaitQueue
from tests.support.crowd import HANGS, Caller, at_once, started
from tests.support.interrupts import handled
from tests.support.servers import eventually


class Permits:
    """The simplest use of a queue: callers wait for one of a few permits."""

    def __init__(self, count):
        self.free = list(range(count))
        self.queue = WaitQueue()
        self.order = []

    def take(self, leaves=lambda: False):
        waiter = ThreadWaiter()
        self.queue.append(waiter)
        try:
            self.queue.wake_first(len(self.free))
            while waiter.wait(HANGS):
                if leaves():
                    return None
                taken = []
                with contextlib.suppress(IndexError):
                    taken.extend(map(self.free.pop, (-1,)))
                if taken:
                    return taken[0]
            raise AssertionError("never woken")
        finally:
            self.queue.remove(waiter)
            self.queue.wake_first(len(self.free))

    def give(self, permit):
        self.free.append(permit)
        self.queue.wake_first(len(self.free))


def test_callers_are_woken_in_the_order_in_which_they_came():
    permits, order = Permits(0), []
    callers = []
    for number in range(5):
        callers.append(Caller(lambda number=number: (permits.take(), order.append(number))))
        callers[-1].start()
        eventually(lambda number=number: len(permits.queue) == number + 1)
    for number in range(5):
        permits.give(number)
        eventually(lambda number=number: len(order) == number + 1)
    assert order == [0, 1, 2, 3, 4]
    assert len(permits.queue) == 0


def test_the_turn_of_a_caller_that_leaves_as_it_is_woken_goes_to_the_next():
    permits = Permits(0)
    leaving = Caller(lambda: permits.take(leaves=lambda: True))
    leaving.start()
    eventually(lambda: len(permits.queue) == 1)
    patient = Caller(permits.take)
    patient.start()
    eventually(lambda: len(permits.queue) == 2)
    permits.give("permit")
    assert leaving.ended() is None
    assert patient.ended() == "permit"


def test_a_wake_up_before_the_wait_counts_and_so_does_one_of_several():
    waiter = ThreadWaiter()
    for _ in range(3):
        waiter.wake()
    assert waiter.wait(0)
    assert not waiter.wait(0)


def test_many_threads_share_few_permits_and_none_is_lost():
    permits, most = Permits(3), []

    def use():
        for _ in range(200):
            permit = permits.take()
            most.append(3 - len(permits.free))
            permits.give(permit)

    assert at_once([use] * 12) == [None] * 12
    assert sorted(permits.free) == [0, 1, 2]
    assert max(most) <= 3
    assert len(permits.queue) == 0


def test_only_those_who_wait_for_an_owner_are_woken_for_it():
    queue, owner = WaitQueue(), object()
    queue.extend([ThreadWaiter(owner), ThreadWaiter(), ThreadWaiter(owner)])
    queue.wake_all(owner)
    assert [waiter.wait(0) for waiter in queue] == [True, False, True]


async def test_a_task_is_woken_from_its_own_loop_and_from_another_thread():
    queue, waiter = WaitQueue(), LoopWaiter()
    queue.append(waiter)
    queue.wake_first_here(5)
    assert await waiter.wait(HANGS)
    assert not await waiter.wait(0.01)
    waker = threading.Timer(0.02, queue.wake_first, (1,))
    waker.start()
    started_at = time.monotonic()
    assert await waiter.wait(HANGS)
    assert time.monotonic() - started_at < HANGS / 3
    waker.join()


async def test_a_task_is_woken_by_a_signal_handler_while_its_loop_waits():
    queue, waiter = WaitQueue([LoopWaiter()]), None
    waiter = queue[0]
    with handled(lambda number, frame: queue.wake_first(1)):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started_at = time.monotonic()
        assert await waiter.wait(HANGS)
    assert time.monotonic() - started_at < HANGS / 3


async def test_a_cancelled_wait_leaves_its_wake_up_to_be_seen():
    waiter = LoopWaiter()
    task = asyncio.create_task(waiter.wait(HANGS))
    await asyncio.sleep(0)
    waiter.wake_here()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await waiter.wait(0)


def test_waking_a_task_of_a_loop_that_has_ended_is_no_error():
    async def waiter():
        return LoopWaiter()

    queue = WaitQueue([asyncio.run(waiter()), ThreadWaiter()])
    queue.wake_first(2)
    assert queue[1].wait(0)


def test_a_queue_can_be_left_while_others_wake_it():
    queue = WaitQueue()

    def come_and_go():
        for _ in range(500):
            waiter = ThreadWaiter()
            queue.append(waiter)
            queue.remove(waiter)

    def wake():
        for _ in range(500):
            queue.wake_first(10)
            queue.wake_all()

    callers = started([come_and_go, come_and_go, wake, wake])
    assert [caller.ended() for caller in callers] == [None] * 4
    assert not queue


@pytest.mark.parametrize("timeout", [0.01, wait_queue.LOOK_AGAIN])
@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
def test_a_wait_ends_although_an_exception_meets_its_end(loop_module, timeout, monkeypatch):
    """As a soft time limit does that a signal handler raises within the callback of the timer."""
    end, struck = wait_queue._end, []

    def struck_once(future):
        if not struck:
            struck.append(future)
            raise RecursionError
        end(future)

    async def wait():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await asyncio.wait_for(LoopWaiter().wait(timeout), HANGS)

    monkeypatch.setattr(wait_queue, "_end", struck_once)
    assert pytest.importorskip(loop_module).run(wait()) is False
    assert struck


@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
def test_waits_end_although_an_exception_meets_the_look_that_ends_them(loop_module, monkeypatch):
    look, struck = wait_queue._Looks._look, []

    def struck_once(looks):
        if not struck:
            struck.append(looks)
            raise RecursionError
        look(looks)

    async def wait():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        waits = [LoopWaiter().wait(wait_queue.LOOK_AGAIN) for _ in range(3)]
        return await asyncio.wait_for(asyncio.gather(*waits), HANGS)

    monkeypatch.setattr(wait_queue._Looks, "_look", struck_once)
    assert pytest.importorskip(loop_module).run(wait()) == [False] * 3
    assert struck


async def test_waits_leave_nothing_behind():
    waiters = [LoopWaiter() for _ in range(3)]
    waits = [asyncio.create_task(waiter.wait(HANGS)) for waiter in waiters]
    await asyncio.sleep(0)
    waiters[0].wake_here()
    waits[1].cancel()
    looks = wait_queue._looks[id(asyncio.get_running_loop())]
    await asyncio.wait(waits[:2])
    assert len(looks.ends) == 1
    waiters[2].wake()
    assert await waits[2]
    assert not looks.ends


def test_an_event_loop_that_is_dropped_leaves_nothing_behind():
    loop = asyncio.new_event_loop()

    async def wait():
        await LoopWaiter().wait(0.01)

    loop.run_until_complete(wait())
    key = id(loop)
    assert key in wait_queue._looks
    loop.close()
    del loop
    gc.collect()
    assert key not in wait_queue._looks


# A task whose step was lost as it was woken.


def lost_waiter():
    waiter = LoopWaiter()
    waiter.wake_here()
    waiter.woken_at -= 2 * LOOK_AGAIN
    assert waiter.is_lost
    return waiter


@pytest.mark.parametrize("wake", [WaitQueue.wake_first, WaitQueue.wake_first_here])
async def test_the_turn_of_a_task_that_does_not_go_on_goes_to_the_next(wake):
    queue, in_time, next_one, last = WaitQueue(), LoopWaiter(), LoopWaiter(), LoopWaiter()
    queue.extend([lost_waiter(), lost_waiter(), in_time, next_one, last])
    for _ in range(2):
        wake(queue, 1)
        await asyncio.sleep(0)
        assert (in_time.woken, next_one.woken) == (True, False), "it has not left yet"
    in_time.woken_at -= 2 * LOOK_AGAIN
    wake(queue, 1)
    await asyncio.sleep(0)
    assert (next_one.woken, last.woken) == (True, False)


async def test_callers_that_wait_for_room_pass_one_that_does_not_go_on(server):
    client = AsyncRedis.from_url(server.url, socket_timeout=30.0)
    await client.ping()
    client.sharing.limits = dataclasses.replace(client.sharing.limits, max_in_flight=1)
    client.sharing._waiting.append(lost_waiter())
    replies = await asyncio.wait_for(asyncio.gather(*[client.echo(b"%d" % number) for number in range(5)]), 5.0)
    assert replies == [b"%d" % number for number in range(5)]
    client.sharing._waiting.clear()
    await client.aclose()


async def test_callers_that_wait_for_a_connection_pass_one_that_does_not_go_on(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2, TIMEOUT=30.0)
    pool = (await manager.get_client()).connection_pool
    pool.state.waiters.append(lost_waiter())

    async def borrow():
        connection = await pool.get_connection()
        await asyncio.sleep(0.01)
        await pool.release(connection)

    await asyncio.wait_for(asyncio.gather(*[borrow() for _ in range(5)]), 10.0)
    pool.state.waiters.clear()
