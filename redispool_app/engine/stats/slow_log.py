"""The callers of this process that waited longest, by the name of their command, never by keys or values. No I/O.

Nothing is measured for this. A batch of replies knows when its callers asked. Only a batch that waited at least
``threshold`` seconds is examined. The name is read from the bytes that were sent.
"""

from __future__ import annotations

import heapq
import logging
import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from time import monotonic
from typing import Any, NamedTuple

from redispool_app.engine.protocol.commands import may_block
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.hooks import Untold, tell_all

from .log_throttle import LogThrottle

logger = logging.getLogger("redispool_app.commands")

MOST = 32
"""Number of the slowest commands that are kept ..."""

HORIZON = 3600.0
"""... from the last this many seconds, so that a slow start does not hide today's problems."""

_AT = attrgetter("at")
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,40}")
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"


class _Slow(NamedTuple):
    seconds: float
    at: float
    command: str
    callers: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": round(self.at, 3),
            "command": self.command,
            "duration_ms": round(self.seconds * 1000, 3),
            "callers": self.callers,
        }


class SlowLog:
    """The slowest callers of one pool in this process. Safe for threads.

    ``note`` only records. It may be called while a role or a place in a queue is held. So it leaves the log message in
    ``untold``, for ``hooks.tell_all`` to deliver when nothing is held.
    """

    def __init__(
        self,
        alias: str = "",
        threshold: float = math.inf,
        clock: Callable[[], float] = time.time,
        untold: Untold | None = None,
    ) -> None:
        self.alias = alias
        self.threshold = threshold
        """Minimum wait in seconds that is recorded."""
        self.untold: Untold = deque() if untold is None else untold
        self._clock = clock
        self._limit = LogThrottle()
        self.after_fork_in_child()
        fork.register(self.after_fork_in_child)

    def after_fork_in_child(self) -> None:
        """In a forked child: the recorded callers belong to the parent."""
        self._kept: list[_Slow] = []
        self.total = 0

    def note(self, command: str, seconds: float, callers: int = 1) -> None:
        """Record that this many ``callers`` have just waited ``seconds`` for ``command``."""
        if seconds < self.threshold:
            return
        now = self._clock()
        self.total += callers
        slow = _Slow(seconds, now, command, callers)
        while True:
            before = self._kept
            is_full = len(before) == MOST and min(map(_AT, before)) >= now - HORIZON
            if is_full and slow <= before[-1]:
                break
            kept = heapq.nlargest(MOST, [slow, *(each for each in before if each.at >= now - HORIZON)])
            # In one step, without a call. Repeat if another caller was faster.
            if self._kept is before:
                self._kept = kept
                break
        self.untold.append(partial(self._log, slow))

    def note_all(self, packed: Iterable[tuple[bytes, int]], seconds: float) -> None:
        """Record callers that waited together.

        For each: the packed bytes it sent, and the number of commands in them.
        """
        for command, callers in Counter(name_of(sent, commands) for sent, commands in packed).items():
            self.note(command, seconds, callers)

    def as_list(self) -> list[dict[str, Any]]:
        """Return the slowest commands, slowest first, JSON-ready.

        ``at`` is in Unix seconds, ``callers`` waited together.
        """
        horizon = self._clock() - HORIZON
        return [each.as_dict() for each in self._kept if each.at >= horizon]

    def _log(self, slow: _Slow) -> None:
        extra = {
            "pool": self.alias,
            "command": slow.command,
            "duration_ms": round(slow.seconds * 1000, 3),
            "callers": slow.callers,
        }
        text = "Redis pool %r: %s took %.3f s"
        self._limit.log(logger, logging.INFO, text, self.alias, slow.command, slow.seconds, extra=extra)


def note_dedicated(pool: Any, stack: Sequence[Sequence[Any]], started: float) -> None:
    """Record a caller that used a dedicated connection of ``pool`` since ``started``, for one command or several.

    A command that may wait for another client, or that waited for the end of a pause, is not slow.
    """
    monitor = getattr(pool, "monitor", None)
    if monitor is None or not stack:
        return
    waited = monotonic() - started
    if waited < monitor.slow_commands.threshold or started < monitor.pause.ended_at or monitor.pause.is_on:
        return
    if not any(may_block(args) for args in stack):
        monitor.slow_commands.note(name_of_args(stack[0], len(stack)), waited)
        tell_all(monitor.untold)


def name_of(packed: bytes, commands: int = 1) -> str:
    """Return the name of a packed command. For a pipeline: the first one's, and how many follow, as in ``"GET +9"``."""
    transaction = packed.startswith(_MULTI)
    start = len(_MULTI) if transaction else 0
    # *2 $3 GET: the third of these lines.
    name = _shown(packed[start : start + 80].split(b"\r\n", 3)[2:3])
    if transaction:
        return _with_count(f"MULTI {name}", commands - 2)
    return _with_count(name, commands)


def name_of_args(args: Iterable[Any], commands: int = 1) -> str:
    """The same for a command that is not packed yet, name first."""
    name = next(iter(args), b"")
    encoded = name.encode(errors="replace") if isinstance(name, str) else bytes(name)
    return _with_count(_shown(encoded.split()[:1]), commands)


def _shown(found: list[bytes]) -> str:
    # A value that is not a name could be anything, even text that a user typed.
    return found[0].decode().upper() if found and _NAME.fullmatch(found[0]) else "?"


def _with_count(name: str, commands: int) -> str:
    return f"{name} +{commands - 1}" if commands > 1 else name
