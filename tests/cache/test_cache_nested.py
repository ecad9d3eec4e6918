"""``get_or_set`` and the manager, met again and again by handlers, finalizers and hooks of their own thread."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from functools import partial

import pytest

from redispool_app.cache.get_or_set import under_way
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.cache_faces import new_cache
from tests.support.crowd import at_once, value_of, working
from tests.support.interrupts import MOST_POINTS, at_every_point, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.servers import eventually

pytestmark = socket_left_behind

PATIENT = 30.0
"""A time-out that no test reaches, in seconds."""

SOON = 5.0
"""No call may take this long, in seconds."""


MOST = [pytest.param(12, id="sample"), pytest.param(MOST_POINTS, id="every point", marks=pytest.mark.lab)]


@pytest.fixture
def manager(own_server, pool_settings):
    # The server's own lock of a computation, which an interrupt may leave behind, ends soon.
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, CLOSE_TIMEOUT=0.1)
    manager.get_sync_client().ping()
    return manager


@pytest.fixture
def cache(manager):
    return new_cache(STAMPEDE_WAIT=PATIENT, STAMPEDE_LOCK_TIMEOUT=0.05)


def is_sound(manager, cache, after):
    """Assert that manager, threads and a loop go on, and that nothing is left over."""

    async def in_loop():
        assert await cache.aget_or_set("afterwards", lambda: "w") == "w", after
        return await (await manager.get_client()).ping()

    cache.delete("afterwards")
    assert once(cache) == "v", after
    began = time.monotonic()
    ask = partial(cache.get_or_set, "afterwards", lambda: "w")
    assert at_once([ask, ask, partial(asyncio.run, in_loop())], within=SOON) == ["w", "w", True], after
    eventually(lambda: manager.get_pool_info()["commands_in_flight"] == 0)
    assert manager.get_pool_info()["state"] == "healthy", after
    assert len(under_way) == 0, after
    assert time.monotonic() - began < SOON, after


def once(cache):
    cache.delete("k")
    return cache.get_or_set("k", lambda: "v")


async def once_in_a_loop(cache):
    await cache.adelete("k")
    return await cache.aget_or_set("k", lambda: "v")


def nested(manager, cache):
    """What a handler, a finalizer or a logging filter may do."""
    number = time.monotonic_ns()
    assert cache.get_or_set(f"nested-{number}", lambda: number, timeout=1) == number
    assert cache.add("added", 1) in (True, False)
    assert manager.get_pool_info()["state"] == "healthy"
    assert manager.get_sync_client().ping()
    RedisConnectionManager()._is_healthy  # noqa: B018
    manager.health_history(), manager.slow_commands(), manager.latency_histogram()


@pytest.mark.parametrize("most", MOST)
def test_get_or_set_may_meet_redis_in_its_own_thread_anywhere(manager, cache, most):
    act = partial(nested, manager, cache)
    for running in at_every_point(partial(once, cache), most=most, act=act):
        assert value_of(at_once([running], within=SOON)[0]) == "v", running.where
        is_sound(manager, cache, running.where)


@pytest.mark.parametrize("most", MOST)
def test_get_or_set_may_meet_its_own_key_anywhere(manager, cache, most):
    def act():
        assert cache.get_or_set("k", lambda: "v") == "v"

    for running in at_every_point(partial(once, cache), most=most, act=act):
        assert value_of(at_once([running], within=SOON)[0]) == "v", running.where
        is_sound(manager, cache, running.where)


@pytest.mark.parametrize("most", MOST)
def test_a_loop_may_meet_redis_in_its_own_thread_anywhere(manager, cache, most):
    act = partial(nested, manager, cache)
    for running in at_every_point(lambda: asyncio.run(once_in_a_loop(cache)), most=most, act=act):
        assert value_of(at_once([running], within=SOON)[0]) == "v", running.where
        is_sound(manager, cache, running.where)


def calls_of(manager, cache):
    def use(number):
        cache.set(f"mine-{number}", number)
        assert cache.get(f"mine-{number}") == number
        assert once(cache) == "v"
        manager.get_pool_info()

    return use


@pytest.mark.parametrize(("rounds", "every"), [(300, 0.002), pytest.param(3000, 0.004, marks=pytest.mark.lab)])
def test_handlers_that_use_cache_and_manager_wait_for_nothing(manager, cache, rounds, every):
    met, slowest, inside = [0], [0.0], [False]

    def handler(number, frame):
        if inside[0]:
            return
        inside[0] = True
        began = time.monotonic()
        try:
            nested(manager, cache)
            met[0] += 1
        finally:
            slowest[0] = max(slowest[0], time.monotonic() - began)
            inside[0] = False

    use = calls_of(manager, cache)
    former = signal.signal(signal.SIGALRM, handler)
    try:
        with working([partial(use, number) for number in (1, 2)]):
            signal.setitimer(signal.ITIMER_REAL, every, every)
            for _ in range(rounds):
                use(0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert met[0] >= rounds / 10
    assert slowest[0] < SOON
    is_sound(manager, cache, "handlers")


class Cycle:
    """Collected by the garbage collector only, wherever that runs."""

    alive: set[int] = set()

    def __init__(self, act):
        self.itself = self
        self.act = act
        self.alive.add(id(self))

    def __del__(self):
        self.alive.discard(id(self))
        self.act()


@pytest.mark.parametrize("rounds", [300, pytest.param(5000, marks=pytest.mark.lab)])
def test_finalizers_that_use_cache_and_manager_wait_for_nothing(manager, cache, rounds):
    met, slowest, errors = [0], [0.0], []
    inside = threading.local()

    def act():
        if getattr(inside, "now", False):
            return
        inside.now = True
        began = time.monotonic()
        try:
            nested(manager, cache)
            met[0] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            slowest[0] = max(slowest[0], time.monotonic() - began)
            inside.now = False

    use = calls_of(manager, cache)

    def make_and_use(number):
        if len(Cycle.alive) < 30:  # else one collection would find more and more of them
            Cycle(act)
        use(number)

    threshold = gc.get_threshold()
    gc.set_threshold(20, 1, 1)
    try:
        with working([partial(make_and_use, number) for number in (1, 2)]):
            for _ in range(rounds):
                make_and_use(0)
    finally:
        gc.set_threshold(*threshold)
    assert errors == []
    assert met[0] >= rounds / 10
    assert slowest[0] < SOON
    is_sound(manager, cache, "finalizers")


async def test_finalizers_in_a_loop_wait_for_nothing(manager, cache):
    met, errors = [0], []

    def act():
        try:
            nested(manager, cache)
            met[0] += 1
        except BaseException as error:
            errors.append(error)

    threshold = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    began = time.monotonic()
    try:
        for _ in range(100):
            Cycle(act)
            assert await asyncio.gather(*(once_in_a_loop(cache) for _ in range(5))) == ["v"] * 5
    finally:
        gc.set_threshold(*threshold)
    assert errors == []
    assert met[0] > 10
    assert time.monotonic() - began < PATIENT
