"""What may be sent again, and what nobody can know."""

from __future__ import annotations

import math
import time

import pytest

from redispool_app.engine.multiplex.retry import RetryBudget, RetryDecision, decide

LATER = math.inf


def verdict(*, written, reads, retry_writes=False, deadline=LATER, tokens=10.0):
    return decide(
        written=written, reads=reads, retry_writes=retry_writes, deadline=deadline, budget=RetryBudget(tokens)
    )


@pytest.mark.parametrize("reads", [True, False])
def test_what_was_not_written_is_sent_again(reads):
    assert verdict(written=False, reads=reads) is RetryDecision.AGAIN


def test_what_only_reads_is_sent_again():
    assert verdict(written=True, reads=True) is RetryDecision.AGAIN


def test_a_written_write_is_unknown_unless_the_project_asked_for_more():
    assert verdict(written=True, reads=False) is RetryDecision.UNKNOWN
    assert verdict(written=True, reads=False, retry_writes=True) is RetryDecision.AGAIN


@pytest.mark.parametrize("limit", [{"deadline": 0.0}, {"tokens": 0.0}])
def test_nothing_is_sent_again_after_its_deadline_or_without_budget(limit):
    limit = {key: time.monotonic() - 1 if key == "deadline" else value for key, value in limit.items()}
    assert verdict(written=False, reads=False, **limit) is RetryDecision.FAIL
    assert verdict(written=True, reads=True, **limit) is RetryDecision.FAIL
    assert verdict(written=True, reads=False, retry_writes=True, **limit) is RetryDecision.UNKNOWN


def test_the_budget_is_spent_by_retries_and_earned_by_successes():
    budget = RetryBudget(2, earn=0.5)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.succeeded()
    assert budget.take() is False
    budget.succeeded()
    assert budget.take() is True
    budget.succeeded(1000)
    assert budget.tokens == 2
