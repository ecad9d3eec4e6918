"""Both pools and the pause, struck at every point: no slot is lost, no caller waits, the same pool serves again.

Each kind of exception, and nested calls as a signal handler or a finalizer makes them. A sample runs always, all points
in the failure laboratory.
"""

from __future__ import annotations

import gc
import threading
import time
from functools import partial

import pytest

from redispool_app.exceptions import PoolTimeout
from tests.support.crowd import Caller, at_once, joined
from tests.support.interrupts import borrow_nested, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.servers import eventually
from tests.support.strikes import KINDS, at_depth, at_every_point, raising, struck

pytestmark = [socket_left_behind, pytest.mark.own_thread]

PATIENT = 30.0
"""The time-outs of these pools; a run that takes ``SOON`` has not waited for one. In seconds."""

SOON = 6.0

LIMIT = 3

POOL = ("PoolState", "SyncPool", "WaitQueue", "Pause")

SAMPLE = pytest.param(4, id="sample")
ALL = pytest.param(10_000, id="all", marks=pytest.mark.lab)

sampled = pytest.mark.parametrize("most", [SAMPLE, ALL])


@pytest.fixture
def pool(server, pool_settings):
    """A pool for threads with ``LIMIT`` connections beside the shared one."""
    manager = pool_settings(
        server.url, MAX_CONNECTIONS=LIMIT + 1, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, CLOSE_TIMEOUT=1
    )
    pool = manager.get_sync_client().connection_pool
    pool.manager = manager
    pool.callers = []
    return pool


def use(pool):
    """Borrow a connection, PING on it and give it back."""
    connection = pool.get_connection()
    try:
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"
    finally:
        pool.release(connection)


def all_at_once(pool):
    """Let as many threads as there are slots hold a connection at the same time."""
    barrier = threading.Barrier(LIMIT)

    def hold():
        connection = pool.get_connection()
        try:
            barrier.wait(SOON)
            connection.send_command("PING")
            return connection.read_response()
        finally:
            pool.release(connection)

    assert at_once([hold] * LIMIT, within=SOON) == [b"PONG"] * LIMIT


def others_end(pool, where=""):
    """Let the threads that took part end, and give back what was kept for them."""
    while pool.callers:
        caller = pool.callers.pop()
        joined([caller], within=SOON, after=where)
        assert caller.outcome is None, where
        while caller.kept:
            pool.release(caller.kept.pop())


def serves_again(pool, where):
    """Assert that nothing is lost, nothing is left and nothing waits; what was in use may be found out just now."""
    state, counters = pool.state, pool.monitor.counters
    others_end(pool, where)
    for connection in state.reclaim():
        connection.disconnect()
    assert (state.in_use, list(state.waiters), list(state.drainers)) == ([], [], []), where
    assert len(state.free) == LIMIT, where
    all_at_once(pool)
    assert (state.in_use, len(state.free), len(state.waiters)) == ([], LIMIT, 0), where
    # A nested call that gives one back between the last look and the step may leave a second one there.
    assert len(state.reserve) <= 2, where
    if state.in_use or counters.opened - counters.closed != pool.manager.get_pool_info()["connections_open"]:
        gc.collect()
    info = pool.manager.get_pool_info()
    assert counters.opened - counters.closed == info["connections_open"], where


def wait_for_one(pool):
    """Wait while all connections are lent, until another thread gives one back."""
    held = [pool.get_connection() for _ in range(LIMIT)]

    def give_back():
        eventually(lambda: len(pool.state.waiters) > 0 or waited.is_set(), timeout=SOON)
        while held:
            pool.release(held.pop())

    waited = threading.Event()
    giver = Caller(give_back)
    giver.start()
    try:
        use(pool)
    finally:
        waited.set()
        joined([giver])


def give_one_to_a_waiter(pool):
    """Give a connection back for which another thread waits."""
    held = [pool.get_connection() for _ in range(LIMIT)]
    waiter = Caller(partial(use, pool))
    waiter.kept = []
    try:
        waiter.start()
        pool.callers.append(waiter)
        eventually(lambda: len(pool.state.waiters) > 0)
        pool.release(held.pop())
    finally:
        # One that was lost in the interrupt is found out once the exception, and with it the frames, is gone.
        waiter.kept = [held.pop() for _ in range(len(held))]


def wait_in_vain(pool):
    held = [pool.get_connection() for _ in range(LIMIT)]
    pool.timeout = 0.01
    try:
        with pytest.raises(PoolTimeout):
            pool.get_connection()
    finally:
        pool.timeout = PATIENT
        while held:
            pool.release(held.pop())


def use_the_reserve(pool):
    connections = []
    try:
        for _ in range(LIMIT + 1):
            connections.append(borrow_nested(pool))  # noqa: PERF401
    finally:
        while connections:
            pool.release(connections.pop())


def close_what_is_idle(pool):
    use(pool)
    usual, pool._max_idle_time = pool._max_idle_time, 0.0
    try:
        pool.close_idle()
    finally:
        pool._max_idle_time = usual


def pause_and_resume(pool):
    """Pause; another thread waits until this one resumes."""
    pause = pool.monitor.pause
    waiter = Caller(partial(use, pool))
    try:
        pause.begin(PATIENT)
        waiter.start()
        eventually(lambda: pause.waiting > 0 or not waiter.is_alive())
        pause.begin(PATIENT - 1)
    finally:
        pause.end()
        if waiter.ident is not None:
            joined([waiter], within=SOON)


def wait_for_the_end_of_a_pause(pool):
    pause = pool.monitor.pause
    pause.begin(PATIENT)

    def resume():
        eventually(lambda: pause.waiting > 0 or done.is_set())
        pause.end()

    done = threading.Event()
    resumer = Caller(resume)
    resumer.start()
    try:
        use(pool)
    finally:
        done.set()
        joined([resumer])


def pause_briefly(pool):
    pool.monitor.pause.begin(PATIENT)
    pool.monitor.pause.end()


def look(pool):
    """Read all that there is to be read."""
    assert pool.state.in_use == []
    assert len(pool.state.idle) >= 0
    assert pool.state.has_idle in (True, False)
    pool.state.reclaim()
    pool.manager.get_pool_info()


def nested_use(pool):
    use(pool)
    assert len(pool.state.in_use) <= LIMIT + 1  # one in reserve


def nested_pause(pool):
    """What a handler may do to a pause: ask, resume, pause for a moment."""
    pause = pool.monitor.pause
    pause.left()
    pause.begin(0.01)
    assert pause.is_on in (True, False)
    pause.end()


WAYS = [
    use,
    wait_for_one,
    give_one_to_a_waiter,
    wait_in_vain,
    use_the_reserve,
    close_what_is_idle,
    pause_and_resume,
    wait_for_the_end_of_a_pause,
    look,
]


PAUSES = (pause_and_resume, wait_for_the_end_of_a_pause)


def is_resumed(pool, where):
    """A pause whose end was struck may be ended by the next; a beginning that was struck may stand."""
    pool.monitor.pause.end()
    assert not pool.monitor.health.held, where
    assert not pool.monitor.health.blocked, where


@sampled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_an_exception_at_any_point_of_the_pool_for_threads(pool, way, kind, most):
    for running in at_every_point(
        partial(way, pool), raising(kind), *POOL, prepare=partial(others_end, pool), most=most
    ):
        started = time.monotonic()
        struck(running)
        is_resumed(pool, running.where)
        serves_again(pool, running.where)
        assert time.monotonic() - started < SOON, running.where


@sampled
@pytest.mark.parametrize(
    ("way", "act"),
    [(way, nested_use) for way in WAYS if way not in PAUSES] + [(way, nested_pause) for way in (use, *PAUSES)],
)
def test_a_nested_call_at_any_point_of_the_pool_for_threads(pool, way, act, most):
    prepare = partial(others_end, pool)
    for running in at_every_point(
        partial(way, pool), partial(act, pool), *POOL, prepare=prepare, most=most, nested=True
    ):
        started = time.monotonic()
        assert struck(running) is None, running.where
        is_resumed(pool, running.where)
        serves_again(pool, running.where)
        assert time.monotonic() - started < SOON, running.where


@sampled
@pytest.mark.parametrize("way", [use, wait_in_vain, use_the_reserve, close_what_is_idle, pause_briefly, look])
def test_a_recursion_too_deep_anywhere_in_the_pool_for_threads(pool, way, most):
    """Here each further call fails, too, until the stack has been left."""

    def run():
        for room in range(1, 120, 1 if most > 100 else 20):
            started = time.monotonic()
            outcome = None
            try:
                at_depth(partial(way, pool), room)
            except RecursionError:
                outcome = RecursionError
            is_resumed(pool, room)
            serves_again(pool, f"with room for {room} calls")
            assert time.monotonic() - started < SOON, room
        return outcome

    assert at_once([run], within=240) in ([None], [RecursionError])
