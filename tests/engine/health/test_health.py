"""The health state machine, with a clock of the test's own."""

from __future__ import annotations

import pytest

from redispool_app.engine.health.faults import Fault, FaultKind
from redispool_app.engine.health.state import Health, HealthState, full_jitter

TIMEOUT = Fault(FaultKind.TIMEOUT, "no answer")
REFUSED = Fault(FaultKind.REFUSED, "nobody there")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(interval=15, backoff_base=0.05, backoff_cap=1, clock=clock, uniform=lambda low, high: high)


def test_nothing_is_known_at_first_so_a_check_is_due(health):
    assert health.state is HealthState.UNKNOWN
    assert health.check_due()
    assert not health.is_healthy


def test_a_ping_proves_health_for_one_interval(health, clock):
    assert health.passed(0.001) is True
    assert health.is_healthy
    clock.now += 14.9
    assert not health.check_due()
    clock.now += 0.1
    assert health.check_due()
    assert health.is_healthy, "stale is not unhealthy"


def test_a_doubt_that_comes_after_the_end_changes_nothing(health):
    health.passed(0.001)
    health.forget(closed=True)
    state = health.state
    assert health.mark_suspect(TIMEOUT) is False
    assert health.state is state


def test_any_reply_proves_health_for_one_more_interval(health, clock):
    health.passed(0.001)
    clock.now += 14
    health.saw_reply()
    clock.now += 14
    assert not health.check_due()


def test_a_reply_does_not_make_an_unhealthy_server_healthy(health):
    health.failed(TIMEOUT)
    health.saw_reply()
    assert health.state is HealthState.UNHEALTHY
    assert health.fresh_until < health._clock()


def test_doubt_makes_the_next_caller_check_and_fails_nobody_by_itself(health):
    health.passed(0.001)
    assert health.mark_suspect(TIMEOUT) is True
    assert health.state is HealthState.UNHEALTHY
    assert health.check_due()
    assert not health.confirmed
    assert health.mark_suspect(TIMEOUT) is False
    assert health.passed(0.001) is True
    assert health.fault is None


def test_a_confirmed_outage_is_probed_by_the_recovery_and_by_no_caller(health, clock):
    health.passed(0.001)
    assert health.failed(TIMEOUT) is True
    assert health.confirmed
    assert not health.check_due()
    clock.now += 3600
    assert not health.check_due()


def test_doubt_does_not_soften_a_confirmed_outage(health):
    health.failed(REFUSED)
    health.mark_suspect(TIMEOUT)
    assert health.confirmed
    assert health.fault is REFUSED


def test_failing_on_is_no_news_until_its_kind_changes(health):
    assert health.failed(TIMEOUT) is True
    assert health.failed(TIMEOUT) is False
    assert health.failed(REFUSED) is True


def test_the_backoff_doubles_up_to_its_cap_and_starts_over_after_recovery(health, clock):
    delays = []
    for _ in range(7):
        health.failed(TIMEOUT)
        delays.append(round(health.retry_after(), 3))
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    health.passed(0.001)
    assert health.retry_after() == 0
    health.failed(TIMEOUT)
    assert round(health.retry_after(), 3) == 0.05


def test_jitter_is_full_and_survives_any_number_of_failures():
    seen = []
    full_jitter(10_000, 0.05, 1.0, lambda low, high: seen.append((low, high)) or 0.0)
    assert seen == [(0.0, 1.0)]


def test_a_failure_counts_only_when_no_reply_has_come_since_it_began_to_wait(health, clock):
    health.passed(0.001)
    started = clock.now
    clock.now += 1
    health.saw_reply()
    clock.now += 1
    assert health.failed_since(TIMEOUT, started) is None
    assert health.is_healthy
    assert health.failed_since(TIMEOUT, clock.now) is True
    assert health.confirmed


def test_the_reply_before_a_silence_is_no_proof_against_it(health, clock):
    health.passed(0.001)
    received = clock.now + 1
    clock.now += 3  # seen late
    health.saw_reply(received)
    assert health.failed_since(TIMEOUT, received) is True


def test_an_earlier_reply_takes_nothing_back(health, clock):
    health.passed(0.001)
    clock.now += 5
    health.saw_reply()
    health.saw_reply(clock.now - 3)
    assert health.last_reply == clock.now


def test_a_failed_command_is_no_check_and_does_not_lengthen_the_backoff(health):
    health.failed_since(TIMEOUT, 1000.0)
    assert health.confirmed
    assert (health.checks, health.last_check) == (0, None)
    for _ in range(5):
        assert health.failed_since(REFUSED, 1000.0) is False
    assert health.fault is TIMEOUT
    assert round(health.retry_after(), 3) == 0.05
    health.failed(TIMEOUT)
    assert round(health.retry_after(), 3) == 0.05


def test_since_is_when_the_state_began(health, clock):
    health.passed(0.001)
    clock.now += 5
    health.passed(0.001)
    assert health.since == 1000.0
    health.mark_suspect(TIMEOUT)
    clock.now += 5
    health.failed(TIMEOUT)
    assert health.since == 1005.0, "the outage began with the first doubt"


def test_expiring_makes_a_healthy_server_stale(health, clock):
    health.passed(0.001)
    health.expire(0.0)
    assert health.check_due()
    assert health.is_healthy


def test_forgetting_returns_to_unknown(health):
    health.failed(TIMEOUT)
    health.forget()
    assert health.state is HealthState.UNKNOWN
    assert health.check_due()
    assert health.fault is None
