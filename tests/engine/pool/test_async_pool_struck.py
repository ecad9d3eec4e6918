"""The pool of an event loop and the pause, struck at every point: the same loop and the same pool serve again.

Under asyncio and uvloop, and with eager tasks where Python has them. A sample runs always, all points in the failure
laboratory.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from functools import partial

import pytest
import uvloop

from redispool_app.exceptions import PoolTimeout
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.interrupts import socket_left_behind
from tests.support.strikes import KINDS, at_every_point, deepest, raising, struck

pytestmark = [
    socket_left_behind,
    # Struck between making a coroutine and awaiting it.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

PATIENT = 30.0
SOON = 6.0
LIMIT = 3

POOL = ("PoolState", "AsyncPool", "WaitQueue", "Pause")

SAMPLE = pytest.param(3, id="sample")
ALL = pytest.param(10_000, id="all", marks=pytest.mark.lab)

sampled = pytest.mark.parametrize("most", [SAMPLE, ALL])


def eager_loop():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
if sys.version_info >= (3, 12):
    LOOPS.append(eager_loop)


class Bench:
    """A pool with ``LIMIT`` connections beside the shared one, on a loop that is run again and again."""

    def __init__(self, manager, loop):
        self.manager = manager
        self.loop = loop
        self.others = []
        self.kept = []
        self.pool = self.run(self._made())
        self.pause = self.pool.monitor.pause

    async def _made(self):
        return (await self.manager.get_client()).connection_pool

    def run(self, coroutine):
        task = self.loop.create_task(coroutine)
        while True:
            try:
                return self.loop.run_until_complete(task)
            except RuntimeError as error:
                # A stop that an interrupt has left behind ends the next run of an event loop of uvloop.
                if task.done() or "Event loop stopped" not in str(error):
                    raise

    def start(self, coroutine):
        """Start a task that takes part; it is awaited in the end."""
        task = self.loop.create_task(coroutine)
        self.others.append(task)
        return task

    async def use(self):
        """Borrow a connection, PING on it and give it back."""
        connection = await self.pool.get_connection()
        try:
            await connection.send_command("PING")
            assert await connection.read_response() == b"PONG"
        finally:
            await self.pool.release(connection)

    async def until(self, condition):
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never came")

    async def hold_all(self):
        for _ in range(LIMIT):
            self.kept.append(await self.pool.get_connection())

    async def give_back_all(self):
        while self.kept:
            await self.pool.release(self.kept.pop())

    # What is struck.

    async def one_use(self):
        await self.use()

    async def wait_for_one(self):
        await self.hold_all()
        waiter = self.start(self.use())
        try:
            await self.until(lambda: len(self.pool.state.waiters) or waiter.done())
            await self.give_back_all()
            await waiter
        finally:
            await self.give_back_all()

    async def wait_in_vain(self):
        await self.hold_all()
        self.pool.timeout = 0.01
        try:
            await self.pool.get_connection()
        except PoolTimeout:
            pass
        finally:
            self.pool.timeout = PATIENT
            await self.give_back_all()

    async def cancel_waiters(self):
        await self.hold_all()
        waiters = [self.start(self.use()) for _ in range(3)]
        await asyncio.sleep(0)
        await self.pool.release(self.kept.pop())
        waiters[0].cancel()
        waiters[2].cancel()
        await asyncio.wait(waiters[1:2])
        await self.give_back_all()

    async def close_what_is_idle(self):
        await self.use()
        usual, self.pool._max_idle_time = self.pool._max_idle_time, 0.001
        try:
            await asyncio.sleep(0.002)
            self.pool._shrink()
        finally:
            self.pool._max_idle_time = usual

    async def pause_and_resume(self):
        waiter = None
        try:
            self.pause.begin(PATIENT)
            waiter = self.start(self.use())
            await self.until(lambda: self.pause.waiting or waiter.done())
        finally:
            self.pause.end()
        await waiter

    async def settled(self):
        """Let the tasks that are left end, each by itself; fail where one hangs."""
        self.pause.end()
        await self.give_back_all()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        others = [task for task in others if task in self.others or task.get_coro().__name__ in WAYS]
        if others:
            _, pending = await asyncio.wait(others, timeout=SOON)
            assert not pending, pending
        self.others.clear()
        await self.give_back_all()

    async def all_at_once(self):
        barrier = asyncio.Event()
        held = []

        async def hold():
            connection = await self.pool.get_connection()
            held.append(connection)
            try:
                if len(held) == LIMIT:
                    barrier.set()
                await barrier.wait()
                await connection.send_command("PING")
                return await connection.read_response()
            finally:
                await self.pool.release(connection)

        async with asyncio.timeout(SOON):
            assert await asyncio.gather(*(hold() for _ in range(LIMIT))) == [b"PONG"] * LIMIT

    def serves_again(self, where):
        """Assert that nothing is lost, nothing is left and nothing waits."""
        # An event loop raises an interrupt, or stops, once more for each task that awaits the one that was struck.
        calm = 0
        for _ in range(10):
            calm = calm + 1 if struck(partial(self.run, self.settled())) is None else 0
            if calm == 2:
                break
        assert calm == 2, where
        state, counters = self.pool.state, self.pool.monitor.counters
        if state.in_use:
            gc.collect()
        for lost in state.reclaim():
            self.run(lost.disconnect(nowait=True))
        assert not self.pool.monitor.health.blocked, where
        assert (state.in_use, list(state.waiters), list(state.drainers)) == ([], [], []), where
        assert len(state.free) == LIMIT, where
        self.run(self.all_at_once())
        assert (state.in_use, len(state.free), len(state.waiters)) == ([], LIMIT, 0), where
        if counters.opened - counters.closed != self.manager.get_pool_info()["connections_open"]:
            gc.collect()
        assert counters.opened - counters.closed == self.manager.get_pool_info()["connections_open"], where

    def nested_look(self):
        """What a signal handler may do on the loop's thread."""
        self.manager.get_pool_info()
        assert len(self.pool.state.in_use) <= LIMIT
        self.pause.begin(0.01)
        assert self.pause.is_on in (True, False)
        self.pause.end()


WAYS = ["one_use", "wait_for_one", "wait_in_vain", "cancel_waiters", "close_what_is_idle", "pause_and_resume"]


@pytest.fixture(params=LOOPS, ids=lambda make: f"{make.__module__.split('.')[0]}-{make.__name__}")
def bench(request, server, pool_settings):
    manager = pool_settings(
        server.url, MAX_CONNECTIONS=LIMIT + 1, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, CLOSE_TIMEOUT=1
    )
    loop = request.param()
    # What a struck task raises, and no caller awaits, is only logged.
    loop.set_exception_handler(lambda loop, context: None)
    bench = Bench(manager, loop)
    yield bench
    bench.run(manager.close())
    bench.run(loop.shutdown_asyncgens())
    loop.close()


@sampled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_an_exception_at_any_point_of_the_pool_of_a_loop(bench, way, kind, most):
    def run():
        bench.run(getattr(bench, way)())

    def prepare():
        bench.run(bench.settled())

    for running in at_every_point(run, raising(kind), *POOL, prepare=prepare, most=most):
        started = time.monotonic()
        struck(running)
        bench.serves_again(running.where)
        assert time.monotonic() - started < SOON, running.where


@sampled
@pytest.mark.parametrize("way", WAYS)
def test_a_nested_call_at_any_point_of_the_pool_of_a_loop(bench, way, most):
    def run():
        bench.run(getattr(bench, way)())

    def prepare():
        bench.run(bench.settled())

    for running in at_every_point(run, bench.nested_look, *POOL, prepare=prepare, most=most, nested=True):
        started = time.monotonic()
        assert struck(running) is None, running.where
        bench.serves_again(running.where)
        assert time.monotonic() - started < SOON, running.where


@sampled
@pytest.mark.parametrize("way", ["one_use", "wait_in_vain", "close_what_is_idle"])
def test_a_recursion_too_deep_anywhere_in_the_pool_of_a_loop(bench, way, most):
    def run(room):
        async def main():
            await _at_depth(getattr(bench, way)(), room)

        bench.run(main())

    for room in range(1, 120, 1 if most > 100 else 20):
        started = time.monotonic()
        with contextlib.suppress(RecursionError):
            run(room)
        bench.serves_again(f"with room for {room} calls")
        assert time.monotonic() - started < SOON, room


async def _at_depth(coroutine, room):
    """Await a coroutine below as many others as leave room for so many more calls."""

    async def down(depth):
        return await coroutine if depth <= 0 else await down(depth - 1)

    try:
        return await down(deepest() - room)
    finally:
        coroutine.close()
