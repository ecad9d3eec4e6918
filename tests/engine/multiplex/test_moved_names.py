"""A managed failover: the old primary refuses writes at once, its name moves later: no caller loses a write then."""

# ruff: noqa: F811 (a fixture and its parameter have one name)

from __future__ import annotations

import socket
import threading
import time

import pytest
from django.core.cache import caches
from redis import exceptions as redis_exceptions

from tests.engine.health.test_demoted_primary import LARGE, PATIENT, Caller, failover, loop  # noqa: F401 (fixtures)
from tests.support.failovers import NAME, OLD

CALLERS = 5
AFTER = 0.6
"""Seconds for which callers go on once the name has moved."""

LONG = pytest.param(3, marks=pytest.mark.lab)
AT_ONCE = pytest.param(0, marks=pytest.mark.lab)

REFUSED = (redis_exceptions.ReadOnlyError, redis_exceptions.ExecAbortError)


class CacheCaller:
    """Writes through Django's cache, which leads to the same pool."""

    def __init__(self, loop, side):
        self._loop, self._side = loop, side
        self._cache = caches["default"]

    def call(self, name, key, value):
        if self._side == "cache":
            return self._cache.set(key, value)
        return self._loop.run(self._cache.aset(key, value))


def single(caller, number):
    return caller.call("SET", f"key{number}", 1)


def large(caller, number):
    return caller.call("SET", f"key{number}", LARGE)


def transaction(caller, number):
    return caller.pipeline(("SET", f"key{number}", 1), ("INCR", f"n{number}"), transaction=True)


def pipeline(caller, number):
    return caller.pipeline(("SET", f"key{number}", 1), ("GET", f"key{number}"), transaction=False)


def watching(caller, number):
    """A transaction with WATCH is not sent again, but its refusal replaces connections for the next one."""

    def with_watch(pipe):
        pipe.multi()
        pipe.set(f"key{number}", 1)

    return caller.client.transaction(with_watch, f"key{number}")


@pytest.fixture
def lookups(failover, monkeypatch):
    """The moments at which the name was looked up (monotonic seconds)."""
    real, moments = socket.getaddrinfo, []

    def getaddrinfo(host, *args, **kwargs):
        if host == NAME:
            moments.append(time.monotonic())
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return moments


def refusals_of(callers, write, failover, delay):
    """Let callers write one after another while the server is demoted and its name moves ``delay`` seconds later.

    Return for each caller how many writes were refused that began after the move, and how many were accepted.
    """
    moved, until, counts = [], [], [[0, 0] for _ in callers]

    def run(number):
        # On a busy machine a large write takes its time.
        while not until or time.monotonic() < until[0] + (0 if counts[number][True] else 20):
            began = time.monotonic()
            try:
                write(callers[number], number)
                accepted = True
            except REFUSED:
                accepted = False
            if moved and began > moved[0]:
                counts[number][accepted] += 1
            time.sleep(0.02)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(callers))]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    failover.demote()
    time.sleep(delay)
    failover.move_name()
    moved.append(time.monotonic())
    until.append(moved[0] + AFTER)
    for thread in threads:
        thread.join(60)
    return counts


@pytest.mark.parametrize("delay", [AT_ONCE, 0.5, LONG])
@pytest.mark.parametrize("write", [single, large, transaction, pipeline])
@pytest.mark.parametrize("side", ["async", "sync"])
def test_once_the_name_has_moved_no_caller_loses_more_than_one_write(
    side,
    write,
    delay,
    failover,
    loop,
    pool_settings,
):
    manager = pool_settings(failover.url, **PATIENT)
    make = manager.get_client if side == "async" else manager.get_sync_client
    callers = [Caller(side, loop, make) for _ in range(CALLERS)]
    before = failover.connections(OLD)
    counts = refusals_of(callers, write, failover, delay)
    assert all(refused <= 1 for refused, _ in counts), counts
    assert all(accepted for _, accepted in counts), counts
    assert failover.connections(OLD) - before <= 4 * CALLERS + 10 * delay
    loop.run(manager.close())


@pytest.mark.parametrize("delay", [0.5, LONG])
@pytest.mark.parametrize("side", ["cache", "cache async"])
def test_once_the_name_has_moved_the_cache_loses_no_more_than_one_write(
    side,
    delay,
    failover,
    loop,
    pool_settings,
    settings,
):
    manager = pool_settings(failover.url, **PATIENT)
    settings.CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}
    callers = [CacheCaller(loop, side) for _ in range(CALLERS)]
    counts = refusals_of(callers, single, failover, delay)
    assert all(refused <= 1 for refused, _ in counts), counts
    assert all(accepted for _, accepted in counts), counts
    loop.run(manager.close())


async def watching_async(pipe):
    pipe.multi()
    pipe.set("key0", 1)


@pytest.mark.parametrize("delay", [0, 0.5])
@pytest.mark.parametrize("side", ["async", "sync"])
def test_a_caller_that_only_writes_in_transactions_with_watch_finds_the_new_primary(
    side,
    delay,
    failover,
    loop,
    pool_settings,
):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)

    def write(caller, number):
        if side == "sync":
            return watching(caller, number)
        return loop.run(caller.client.transaction(watching_async, "key0"))

    [(refused, accepted)] = refusals_of([caller], write, failover, delay)
    assert refused <= 1
    assert accepted
    loop.run(manager.close())


@pytest.mark.parametrize("side", ["async", "sync"])
def test_refused_writes_look_the_name_up_ten_times_a_second_at_most(
    side,
    failover,
    loop,
    lookups,
    pool_settings,
):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    failover.demote()
    with pytest.raises(REFUSED):
        caller.call("SET", "key", 2)
    lookups.clear()
    before, began = failover.connections(OLD), time.monotonic()
    while time.monotonic() - began < 1.0:
        refusals = caller.together(*[("SET", f"key{number}", 2) for number in range(20)])
        assert all(isinstance(each, REFUSED) for each in refusals), refusals
    took = time.monotonic() - began
    made = failover.connections(OLD) - before
    assert made <= 6 * max(1, took), "connections are rarer and rarer"
    assert len(lookups) <= 12 * max(1, took) + made
    loop.run(manager.close())


@pytest.mark.parametrize("side", ["async", "sync"])
def test_a_name_server_that_does_not_answer_delays_a_refusal_for_a_second(
    side,
    failover,
    loop,
    monkeypatch,
    pool_settings,
):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    failover.demote()
    with pytest.raises(REFUSED):
        caller.call("SET", "key", 2)
    real, answers = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host, *args, **kwargs):
        if host == NAME:
            answers.wait(20)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    try:
        with pytest.raises(REFUSED):
            caller.call("SET", "key", 3)
        assert time.monotonic() - began < 10
    finally:
        answers.set()
    loop.run(manager.close())
