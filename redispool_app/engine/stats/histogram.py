"""Histograms of the times to make a connection, to borrow one, and to return it.

Only borrowed and new connections are measured. Commands on the shared connection are the hot path, and ``counters``
counts those.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from itertools import accumulate

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds in seconds, inclusive. The last range has none."""

Distribution = tuple[list[tuple[float, int]], float]
"""Cumulative ``(upper bound in seconds, count)`` pairs, the last bound ``math.inf``, and the sum of seconds."""


class Durations:
    """One distribution of times. Safe for threads, and for handlers and finalizers that add to it as well."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one time, in seconds."""
        place = bisect_left(BOUNDS, seconds)
        # No lock: no call follows here, so CPython runs nothing else before the end.
        self._counts[place] += 1
        self._seconds += seconds

    def distribution(self) -> Distribution:
        """Return the counts up to now."""
        counts, seconds = self._counts[:], self._seconds
        return list(zip((*BOUNDS, math.inf), accumulate(counts), strict=True)), seconds


class ConnectionTimes:
    """The times of one pool's connections since the process started or forked."""

    def __init__(self) -> None:
        self.since = time.time()
        """Unix time at which all counts were 0."""
        self.create = Durations()
        """From the first step of connecting to the end of the handshake."""
        self.wait = Durations()
        """From asking for a connection to having it, connected if needed."""
        self.use = Durations()
        """From having it to returning it."""

    def distributions(self) -> dict[str, Distribution]:
        """Return all three, by name."""
        return {name: getattr(self, name).distribution() for name in ("create", "wait", "use")}
