"""Counters of the shared connection, at the cost of a few additions per batch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from redispool_app.engine.runtime.single_flight import Flight, SingleFlight

HELD_BACK = "held_back"
"""No data comes: the server holds a command back."""

LARGE_REPLY = "large_reply"
"""Data comes, but no reply is complete."""

_BASE = 1e-5
_STEPS_PER_OCTAVE = 4
_BUCKETS = 96
"""From 10 µs to about 3 minutes, with four buckets for each doubling: a percentile is exact to about 10 %."""

_BOUNDS = [_BASE * 2 ** (index / _STEPS_PER_OCTAVE) for index in range(_BUCKETS - 1)]
"""The upper bound of each bucket, in seconds. The last bucket has none."""


_MOST_ENDED = 50
"""Maximum number of ended connections whose totals are kept separately."""


class Statistics:
    """Totals of one event loop's shared connections, and the distribution of their round trips.

    The round trip of each batch of commands is measured once, from the moment its callers asked, and counts for each of
    them. A pipeline, or MULTI to EXEC, counts as one command.
    """

    __slots__ = (
        "batches",
        "buckets",
        "bytes_received",
        "bytes_sent",
        "commands",
        "held_back",
        "large_replies",
        "reconnects",
        "refused",
        "retries",
        "seconds",
        "timeouts",
        "unknown",
    )

    def __init__(self) -> None:
        self.commands = 0
        self.batches = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.timeouts = 0
        self.retries = 0
        self.reconnects = 0
        self.held_back = 0
        """Connections made because the server held a command back on the others ..."""
        self.large_replies = 0
        """... and because a large reply was being received there."""
        self.refused = 0
        self.unknown = 0
        self.seconds = 0.0
        self.buckets = [0] * _BUCKETS

    def sample(self, seconds: float, commands: int = 1) -> None:
        """Record the round trip of this many commands."""
        self.buckets[bisect_left(_BOUNDS, seconds)] += commands
        self.seconds += seconds * commands

    def count_connection(self, reason: str | None) -> None:
        """Count a connection that was made because the others were stalled. For the reasons see ``stalls``."""
        if reason == LARGE_REPLY:
            self.large_replies += 1
        else:
            self.held_back += 1

    def add(self, other: Statistics) -> None:
        """Add the totals of another object."""
        for name in self.__slots__:
            if name == "buckets":
                self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
            else:
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def percentiles(self, wanted: Iterable[float] = (0.5, 0.95, 0.99)) -> list[float | None]:
        """Return round trips in seconds; None for each before the first sample."""
        total = sum(self.buckets)
        found: list[float | None] = []
        for part in wanted:
            rank, seen = part * total, 0
            answer = None
            for index, count in enumerate(self.buckets):
                seen += count
                if count and seen >= rank:
                    answer = _BOUNDS[min(index, _BUCKETS - 2)]
                    break
            found.append(answer)
        return found

    def histogram(self) -> tuple[list[tuple[float, int]], float]:
        """Return, for each upper bound in seconds, how many commands took up to that long, and the sum of all seconds.

        Cumulative, as Prometheus expects. The last bound is infinity, and its count includes all commands.
        """
        counts = accumulate(list(self.buckets))
        return list(zip([*_BOUNDS, math.inf], counts, strict=True)), self.seconds

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the numbers, JSON-ready: counts as ``*_total``, times in milliseconds."""
        p50, p95, p99 = (None if each is None else round(each * 1000, 3) for each in self.percentiles())
        return {
            "commands_total": self.commands,
            "batches_total": self.batches,
            "batch_size_mean": round(self.commands / self.batches, 2) if self.batches else None,
            "bytes_sent_total": self.bytes_sent,
            "bytes_received_total": self.bytes_received,
            "command_timeouts_total": self.timeouts,
            "retries_total": self.retries,
            "reconnects_total": self.reconnects,
            "held_back_connections_total": self.held_back,
            "large_reply_connections_total": self.large_replies,
            "refused_total": self.refused,
            "outcome_unknown_total": self.unknown,
            "latency_p50_ms": p50,
            "latency_p95_ms": p95,
            "latency_p99_ms": p99,
        }


class PastStatistics:
    """The totals of connections that have ended, added up from time to time. ``add`` is one step and never waits."""

    __slots__ = ("_ended", "_merging")

    def __init__(self) -> None:
        self._ended: list[Statistics] = []
        self._merging: SingleFlight[None] = SingleFlight()

    def add(self, ended: Statistics) -> None:
        """Add the totals of a connection. They must not change after this."""
        self._ended.append(ended)
        if len(self._ended) > _MOST_ENDED:
            self._merge()

    def total(self) -> Statistics:
        """Return the sum."""
        total = Statistics()
        for each in self._ended[:]:
            total.add(each)
        return total

    def _merge(self) -> None:
        own: Flight[None] = Flight()
        try:
            if self._merging.join(own) is own:
                merged = Statistics()
                for each in self._ended[:_MOST_ENDED]:
                    merged.add(each)
                # One step. Meanwhile other callers only append.
                self._ended[:_MOST_ENDED] = [merged]
        finally:
            own.ended = True
