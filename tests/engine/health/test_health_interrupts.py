"""Health, monitor and recovery, interrupted or re-entered at each point where CPython runs other code."""

from __future__ import annotations

import logging
import random
import sys
import threading
from functools import partial
from itertools import pairwise

import pytest

from redispool_app.engine.health.faults import Fault, FaultKind
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.state import Health, HealthState
from redispool_app.exceptions import PoolTimeout, RedisUnavailable
from tests.support.crowd import at_once, started, value_of
from tests.support.interrupts import MOST_POINTS, at_every_point
from tests.support.servers import eventually

pytestmark = pytest.mark.filterwarnings(
    # An interrupt inside ``Thread.start`` lets a thread meet the end of its own start.
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

TIMEOUT = Fault(FaultKind.TIMEOUT, "no answer")
REFUSED = Fault(FaultKind.REFUSED, "nobody there")
HANGS = 5.0

INTERVAL = 15.0


@pytest.fixture(autouse=True)
def no_log():
    """Log nothing: an interrupt inside ``logging`` itself leaves the lock of its handler held."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    # ``threading`` remembers a thread whose start was interrupted as one that is about to begin.
    threading._limbo.clear()


class SoftTimeLimitError(Exception):
    """What a worker raises in a task that takes too long; ``except Exception`` catches it."""


KINDS = (KeyboardInterrupt, RecursionError, MemoryError, SoftTimeLimitError)


def raiser(kind):
    def act():
        raise kind

    return act


class Connection:
    _counted = False


def small_ones(monitor):
    connection = Connection()
    for _ in range(3):
        monitor.opened(connection)
        monitor.reply()
        monitor.health.retry_after(), monitor.health.check_due(), monitor.is_refusing
        monitor.disconnected(connection)


EVENTS = {
    "passed": lambda monitor: monitor.passed(0.001),
    "failed": lambda monitor: monitor.failed(ConnectionRefusedError(111, "refused")),
    "failure": lambda monitor: monitor.failure(ConnectionRefusedError(111, "refused"), float("inf")),
    "mark_suspect": lambda monitor: monitor.mark_suspect(TIMEOUT),
    "held": lambda monitor: (monitor.health.hold(True), monitor.health.hold(False)),
    "closed": lambda monitor: (monitor.health.forget(closed=True), monitor.tell_changes(), monitor.open()),
    "exhausted": lambda monitor: monitor.exhausted(PoolTimeout("no room")),
    "small ones": lambda monitor: small_ones(monitor),
}


def a_monitor(probe=lambda: 0.001):
    health = Health(interval=INTERVAL, backoff_base=0.01, backoff_cap=0.02)
    return Monitor("default", "here:1", health, probe)


def is_sound(monitor):
    """Whether what is known fits together, and a healthy server is found healthy again."""
    health = monitor.health
    now = health.newest()
    assert health.now is now
    assert now.blocked == (now.confirmed or now.held)
    assert now.state is HealthState.HEALTHY or (now.fresh_until < 0 and not health.is_healthy)
    assert not now.confirmed or now.state is HealthState.UNHEALTHY
    assert monitor.counters.opened - monitor.counters.closed in (0, 1)
    monitor.open()
    if health.confirmed:
        with pytest.raises(RedisUnavailable):
            monitor.ensure_available()
        eventually(lambda: health.is_healthy, timeout=HANGS)
    else:
        assert health.is_healthy or health.check_due()
    eventually(lambda: monitor.checks.latest.is_over, timeout=HANGS)
    monitor.passed(0.001)
    assert health.is_healthy
    # The recovery's thread may be telling at the moment, and looks again before it ends.
    eventually(lambda: monitor._told is health.newest(), timeout=HANGS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("most", [10, pytest.param(MOST_POINTS, marks=pytest.mark.lab)], ids=["sample", "every point"])
def test_an_event_may_be_interrupted_anywhere(event, kind, most):
    monitor = a_monitor()

    def prepare():
        nonlocal monitor
        monitor = a_monitor()
        monitor.passed(0.001)

    for running in at_every_point(lambda: EVENTS[event](monitor), prepare, most, raiser(kind)):
        (outcome,) = at_once([running], within=HANGS)
        assert outcome is None or isinstance(outcome, (tuple, kind)), running.where
        is_sound(monitor)


@pytest.mark.parametrize("nested", EVENTS)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("most", [5, pytest.param(MOST_POINTS, marks=pytest.mark.lab)], ids=["sample", "every point"])
def test_an_event_may_meet_another_of_its_own_thread_anywhere(event, nested, most):
    monitor = a_monitor()

    def prepare():
        nonlocal monitor
        monitor = a_monitor()
        monitor.passed(0.001)

    for running in at_every_point(lambda: EVENTS[event](monitor), prepare, most, lambda: EVENTS[nested](monitor)):
        value_of(at_once([running], within=HANGS)[0])
        is_sound(monitor)


def test_events_of_many_threads_are_all_counted(monkeypatch):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        monitor = a_monitor()
        monitor._recovery._worker.ensure = lambda: True  # its checks would count too
        connections = [[Connection() for _ in range(2000)] for _ in range(4)]

        def use(mine):
            for connection in mine:
                monitor.opened(connection)
                monitor.opened(connection)
                monitor.disconnected(connection)
                monitor.failure(OSError("x"), float("-inf"))
                monitor.health.passed(0.001)

        at_once([partial(use, mine) for mine in connections], within=30)
    finally:
        sys.setswitchinterval(interval)
    counters = monitor.counters
    assert (counters.opened, counters.closed, counters.errors) == (8000, 8000, 8000)
    assert monitor.health.checks == 8000


def test_of_threads_that_tell_opposite_things_each_change_is_told_in_order():
    told = []
    monitor = a_monitor()
    monitor._recovery._worker.ensure = lambda: True

    class Listener:
        def health_changed(self, change):
            told.append(change)

    monitor._listener = Listener()

    def tell(number):
        choose = random.Random(number)
        for _ in range(200):
            choose.choice([partial(monitor.mark_suspect, REFUSED), partial(monitor.passed, 0.001)])()

    at_once([partial(tell, number) for number in range(4)], within=30)
    monitor.tell_changes()
    assert len(told) > 10
    assert tuple(told[-200:]) == monitor.health.history
    assert all(before.state != after.state for before, after in pairwise(told))


def test_a_listener_that_blocks_delays_no_other_caller():
    monitor, inside, go_on = a_monitor(), threading.Event(), threading.Event()
    told = []

    class Listener:
        def health_changed(self, change):
            told.append(change.state)
            inside.set()
            go_on.wait(HANGS)

    monitor._listener = Listener()
    first = started([partial(monitor.passed, 0.001)])
    assert inside.wait(HANGS)
    assert at_once([partial(monitor.mark_suspect, TIMEOUT), monitor.ensure_available], within=2) == [None, None]
    go_on.set()
    first[0].ended(HANGS)
    eventually(lambda: told[:2] == ["healthy", "unhealthy"])
    monitor.close()
