"""Counts one caller's commands and the time it waited for them, for example during one request."""

from __future__ import annotations

from contextvars import ContextVar


class RequestTiming:
    """``commands`` sent and ``seconds`` waited for them.

    Commands awaited at the same time each add their own wait. So ``seconds`` can exceed the elapsed time.
    """

    __slots__ = ("commands", "seconds")

    def __init__(self) -> None:
        self.commands = 0
        self.seconds = 0.0

    def add(self, commands: int, seconds: float) -> None:
        # One request may use several threads. No lock: without a call CPython runs nothing else here.
        self.commands += commands
        self.seconds += seconds


current_timing: ContextVar[RequestTiming | None] = ContextVar("redispool_tally", default=None)
"""The timing of the current context; None (the default) costs one look-up per command and counts nothing."""
