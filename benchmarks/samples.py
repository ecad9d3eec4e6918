"""Samples of one contender: what a round showed, and the median of several rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One timed round. ``cpu_seconds`` is what the client process used, all its threads included."""

    operations: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.operations / self.cpu_seconds


@dataclass
class Series:
    """All rounds of one contender in one situation.

    ``connections``: to the server, the most in use at once while it warmed up; ``opened``: how many were opened then.
    ``absent``: why there are no rounds, when there are none.
    """

    contender: str
    samples: list[Sample] = field(default_factory=list)
    connections: int | None = None
    opened: int | None = None
    absent: str = ""

    @property
    def per_second(self) -> float:
        return statistics.median(sample.per_second for sample in self.samples)

    @property
    def per_cpu_second(self) -> float:
        return statistics.median(sample.per_cpu_second for sample in self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles((sample.per_second for sample in self.samples), n=4, method="inclusive")
        return (high - low) / 2 / self.per_second

    def as_json(self) -> dict[str, Any]:
        rates = [round(sample.per_second) for sample in self.samples]
        return {
            "contender": self.contender,
            "per_second": round(self.per_second),
            "per_second_min": min(rates),
            "per_second_max": max(rates),
            "spread": round(self.spread, 3),
            "per_cpu_second": round(self.per_cpu_second),
            "rounds": len(rates),
            "connections": self.connections,
            "connections_opened": self.opened,
        }


@dataclass(frozen=True)
class Work:
    """What contenders do: ``key`` names it in results.json, ``caller`` who does it, ``unit`` what is counted.

    ``ours`` is the contender that the goals are about, ``reference`` the one that the table's ratios are against.
    """

    key: str
    title: str
    caller: str
    unit: str
    ours: str
    reference: str


@dataclass(frozen=True)
class Situation:
    """One block of the table: the same work, done by all contenders. ``size``: of the values, in bytes."""

    work: Work
    callers: int
    series: list[Series]
    size: int = 100

    @property
    def title(self) -> str:
        return f"{self.work.title.format(size=self.size)}, {self.callers} {self.work.caller}{'s' * (self.callers > 1)}"

    def as_json(self) -> dict[str, Any]:
        results = [one.as_json() for one in self.series if one.samples]
        return {"bytes": self.size, "callers": self.callers, "results": results}
