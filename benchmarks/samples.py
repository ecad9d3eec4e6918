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
    """All rounds of one contender in one situation."""

    contender: str
    samples: list[Sample] = field(default_factory=list)
    connections: int | None = None

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
        }


def in_turn(names: list[str], turn: int) -> list[str]:
    """Return the order of round ``turn``: each starts with the next one, every other round runs backwards."""
    start = turn % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if turn % 2 else order
