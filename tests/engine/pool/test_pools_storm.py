"""Thousands of finalizers and signal handlers that use the pools: none waits, none fails."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from tests.support.crowd import Caller
from tests.support.interrupts import handled

from .test_pools_nested import PATIENT, SOON, left_as_it_was

DEEPEST = 4
"""Handlers that interrupt each other, at most."""


class Finalized:
    """In a cycle, so that only the garbage collector finds it; then it uses the pool."""

    def __init__(self, act):
        self.act, self.me = act, self

    def __del__(self):
        self.act()


@pytest.fixture
def often_collected():
    threshold = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    yield
    gc.set_threshold(*threshold)


def use(pool):
    connection = pool.get_connection()
    try:
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"
    finally:
        pool.release(connection)


def counted(pool, seconds, act):
    """Return an act that notes how often it ran, what it raised and when it took too long."""

    class Tally:
        runs = 0
        depth = 0
        failures = []

        def __call__(self, *args):
            if self.depth >= DEEPEST:
                return  # signals come faster than they can be handled
            self.depth += 1
            self.runs += 1
            started = time.monotonic()
            try:
                act()
            except Exception as error:
                self.failures.append(repr(error))
            if time.monotonic() - started > seconds:
                self.failures.append("waited")
            self.depth -= 1  # the last step: a signal that is pending is handled after this call

    return Tally()


@pytest.mark.parametrize("limit", [2, 10])
def test_a_storm_of_finalizers_and_signals_in_threads(server, pool_settings, often_collected, limit):
    """Handlers and finalizers borrow, give back, pause and resume; with two connections nearly always beyond them."""
    pool = (
        pool_settings(server.url, MAX_CONNECTIONS=limit, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT)
        .get_sync_client()
        .connection_pool
    )
    finalizer, handler = counted(pool, SOON, lambda: use(pool)), counted(pool, SOON, lambda: use(pool))
    ended = time.monotonic() + 3

    def work():
        while time.monotonic() < ended:
            Finalized(finalizer)
            use(pool)

    with handled(handler, every=0.005):
        others = [Caller(work) for _ in range(4)]
        for other in others:
            other.start()
        work()
        outcomes = [other.ended() for other in others]
    assert outcomes == [None] * 4
    assert (finalizer.failures, handler.failures) == ([], [])
    assert finalizer.runs > 500
    assert handler.runs > 30
    left_as_it_was(pool)


async def test_a_storm_of_finalizers_and_signals_in_a_loop(server, pool_settings, often_collected):
    manager = pool_settings(server.url, MAX_CONNECTIONS=4, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT)
    blocking = manager.get_sync_client().connection_pool
    client = await manager.get_client()
    pause = manager._built().monitor.pause

    def nested():
        use(blocking)
        pause.begin(0.001)
        pause.end()
        manager.get_pool_info()

    finalizer, handler = counted(blocking, SOON, nested), counted(blocking, SOON, nested)
    ended = time.monotonic() + 3

    async def work():
        while time.monotonic() < ended:
            Finalized(finalizer)
            assert await client.client_id() > 0

    with handled(handler, every=0.005):
        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(8))), PATIENT)
    assert (finalizer.failures, handler.failures) == ([], [])
    assert finalizer.runs > 200
    assert handler.runs > 30
    left_as_it_was(blocking)
    left_as_it_was(client.connection_pool)
