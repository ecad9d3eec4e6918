"""Exceptions of this package for callers.

Each is also the redis-py exception that code written for redis-py already catches, so an existing ``except`` clause
keeps working.
"""

from __future__ import annotations

from redis import exceptions as redis_exceptions

__all__ = ["CommandRefused", "OutcomeUnknown", "PoolClosed", "PoolQueueFull", "PoolTimeout", "RedisUnavailable"]


class RedisUnavailable(redis_exceptions.ConnectionError):
    """Redis cannot serve this caller now. The message is one line that names the cure.

    ``retry_after`` is the time in seconds until the next health check is due (None if unknown). ``kind`` is the fault's
    stable name, for instance ``"refused"`` or ``"timeout"`` (see ``redispool_app.engine.health.faults``).
    """

    def __init__(self, message: str, *, kind: str = "unknown", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class PoolTimeout(redis_exceptions.ConnectionError, redis_exceptions.TimeoutError):
    """No connection became free within ``TIMEOUT`` seconds."""


class PoolQueueFull(redis_exceptions.MaxConnectionsError):
    """``MAX_WAITING`` callers already wait for a connection. This one is refused at once."""


class PoolClosed(redis_exceptions.ConnectionError):
    """The manager was closed (``initialize()`` opens it again), or the client was created before a reset."""

    def __init__(
        self, message: str = "This connection pool was closed or reset: ask its manager for a client."
    ) -> None:
        super().__init__(message)


class OutcomeUnknown(redis_exceptions.ConnectionError, redis_exceptions.TimeoutError):
    """A command that changes data was written and its reply was lost. The server may or may not have run it.

    It was not sent again, so that an INCR never counts twice. ``RETRY_WRITES`` allows sending it again.
    """


class CommandRefused(redis_exceptions.ResponseError):
    """A command was not sent: on a shared client it would return a wrong answer or change what other callers see.

    The message is one line that names the cure.
    """
