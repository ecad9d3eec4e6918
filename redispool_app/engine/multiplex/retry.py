"""Decides what to do about a command whose connection was lost. Pure functions, shared by async and sync code.

If the command was not written, send it again. If it was written and only reads, send it again, within the deadline and
a retry budget that all callers share. If it was written and changes data, its outcome is unknown, and the caller gets
``OutcomeUnknown``.
"""

from __future__ import annotations

from enum import Enum
from time import monotonic

from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import LOST, ConnectionLostError, LostCommandError


class StalledError(ConnectionLostError):
    """A read-only command waits behind a stall, and another connection can take it."""

    def __init__(self, *, written: bool, started: float) -> None:
        super().__init__("The shared connection is stalled.", written=written, started=started, stuck=True)


FailedCommandError = LostCommandError | redis_exceptions.ReadOnlyError
FAILED = (*LOST, redis_exceptions.ReadOnlyError)
"""Errors of an attempt that another attempt may follow."""


class RetryDecision(Enum):
    """What to do about a lost command."""

    AGAIN = "again"
    FAIL = "fail"
    UNKNOWN = "unknown"


class RetryBudget:
    """A bucket of tokens. Each retry takes one, each success gives ``earn`` back, up to ``size``.

    After one lost connection all its commands may be sent again. If connections are lost again and again, the retries
    end with the bucket and do not multiply the load (https://sre.google/sre-book/addressing-cascading-failures/).
    """

    __slots__ = ("earn", "size", "tokens")

    def __init__(self, size: float, earn: float = 0.1) -> None:
        self.size = size
        self.earn = earn
        self.tokens = size

    def succeeded(self, count: int = 1) -> None:
        tokens = self.tokens + self.earn * count
        self.tokens = tokens if tokens < self.size else self.size

    def take(self) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def decide(*, written: bool, reads: bool, retry_writes: bool, deadline: float, budget: RetryBudget) -> RetryDecision:
    """Decide about a lost command. ``deadline`` is in monotonic seconds."""
    if written and not reads and not retry_writes:
        return RetryDecision.UNKNOWN
    if monotonic() >= deadline or not budget.take():
        # Even a repeatable write may have been executed.
        return RetryDecision.UNKNOWN if written and not reads else RetryDecision.FAIL
    return RetryDecision.AGAIN


def unanswered_since(oldest: float, last_received: float, timeout: float | None) -> float:
    """Return since when the server has answered no caller, for a connection that timed out now. It may have died then.

    If other replies still arrived, that is when the longest waiting caller asked.
    """
    whole = timeout is not None and monotonic() - last_received >= timeout
    return max(oldest, last_received) if whole else oldest


def stuck_deadline(oldest: float, last_received: float, timeout: float) -> float:
    """Return the time at which a connection counts as stuck.

    That is a whole timeout without data, or without a reply to the oldest caller. All times are in monotonic seconds.
    ``oldest`` is when the longest waiting caller asked.
    """
    return max(oldest + timeout, min(last_received + timeout, oldest + 2 * timeout))
