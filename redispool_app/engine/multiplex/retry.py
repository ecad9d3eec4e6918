"""What may be done about a command whose connection was lost: pure decisions, shared by async and sync code.

Not yet written: send again. Written, and it only reads: send again, within the deadline and a budget that all callers
share. Written, and it changes data: nobody can know, so the caller is told that.
"""

from __future__ import annotations

from enum import Enum
from time import monotonic

from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import LOST, ConnectionLostError, LostCommandError


class StalledError(ConnectionLostError):
    """A command that only reads waits behind a stall, and another connection is there for it."""

    def __init__(self, *, written: bool, started: float) -> None:
        super().__init__("The shared connection is stalled.", written=written, started=started, stuck=True)


FailedCommandError = LostCommandError | redis_exceptions.ReadOnlyError
FAILED = (*LOST, redis_exceptions.ReadOnlyError)
"""What an attempt ends with that may be followed by another."""


class Verdict(Enum):
    """What to do about a lost command."""

    AGAIN = "again"
    FAIL = "fail"
    UNKNOWN = "unknown"


class RetryBudget:
    """A bucket of tokens: each retry takes one, each success gives ``earn`` back, up to ``size``.

    One lost connection may send again all it carried; connections that are lost again and again end with the bucket
    instead of multiplying the load (https://sre.google/sre-book/addressing-cascading-failures/).
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


def decide(*, written: bool, reads: bool, retry_writes: bool, deadline: float, budget: RetryBudget) -> Verdict:
    """Decide about a command that was lost; ``deadline`` is in monotonic seconds."""
    if written and not reads and not retry_writes:
        return Verdict.UNKNOWN
    if monotonic() >= deadline or not budget.take():
        # A write may have been done even if it may be repeated.
        return Verdict.UNKNOWN if written and not reads else Verdict.FAIL
    return Verdict.AGAIN


def silent_since(oldest: float, last_received: float, timeout: float | None) -> float:
    """Return from when on nobody was answered, on a connection that timed out now: the server may have died then.

    Where other replies still came, that is when the caller asked who waits longest.
    """
    whole = timeout is not None and monotonic() - last_received >= timeout
    return max(oldest, last_received) if whole else oldest


def stuck_from(oldest: float, last_received: float, timeout: float) -> float:
    """Return from when a connection counts as stuck: nothing came for a whole time-out, or not what the oldest wants.

    All three times in monotonic seconds; ``oldest`` is when the caller asked that waits longest.
    """
    return max(oldest + timeout, min(last_received + timeout, oldest + 2 * timeout))
