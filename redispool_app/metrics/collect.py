"""The numbers of every pool of this process at one moment, read for each collection. No I/O.

Each number is a total or a state that the pool itself keeps, never a difference. So missed collections and several
collectors do no harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from django.core.exceptions import ImproperlyConfigured

from redispool_app.conf.config import DEFAULT_ALIAS
from redispool_app.engine.runtime.client_name import client_name
from redispool_app.engine.stats.histogram import Distribution
from redispool_app.redis_pool import RedisConnectionManager, get_managers

from .definitions import ALIAS, METRICS, NAMESPACE, POOL_NAME, STATES, SYSTEM, Kind, Metric

_FINEST, _COARSEST = 1.9e-5, 11.0
"""Operations are counted in four ranges for each doubling.

One range for each doubling is exported, from 20 µs to 10 s.
"""


@dataclass(frozen=True, kw_only=True)
class PoolReading:
    """One pool of one process: numbers by key, times by name in seconds, counted since a Unix time.

    ``namespace`` is the number of its database.
    """

    name: str
    alias: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    times: Mapping[str, Distribution] = field(default_factory=dict)
    since: float = 0.0
    namespace: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        return {POOL_NAME: self.name, ALIAS: self.alias}

    def values(self, metric: Metric) -> Iterator[tuple[dict[str, str], float]]:
        """Return the values of a metric for this pool: attributes and number. Empty while there is no number."""
        for value, source in metric.sources.items():
            number = self.numbers.get(source)
            if number is not None:
                yield {**self.attributes, **({metric.attribute: value} if metric.attribute else {})}, number

    def distributions(self, metric: Metric) -> Iterator[tuple[dict[str, str], Distribution]]:
        """The same for a histogram."""
        for source in metric.sources.values():
            if source in self.times:
                where = {SYSTEM: "redis", NAMESPACE: self.namespace} if SYSTEM in metric.attributes else {}
                yield {**self.attributes, **where}, self.times[source]

    def as_dict(self) -> dict[str, Any]:
        """Return the reading JSON-ready. The last bound of every distribution, infinity, is left out."""
        times = {
            name: {"bounds": [bound for bound, _ in pairs[:-1]], "counts": [count for _, count in pairs], "sum": total}
            for name, (pairs, total) in self.times.items()
        }
        return {
            "name": self.name,
            "alias": self.alias,
            "numbers": self.numbers,
            "times": times,
            "since": self.since,
            "namespace": self.namespace,
        }

    @classmethod
    def from_dict(cls, document: Any) -> Self:
        """Read the result of ``as_dict`` of another process, perhaps of another version.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else.
        """
        times = {
            str(name): (
                list(zip([*map(float, each["bounds"]), math.inf], map(int, each["counts"]), strict=True)),
                float(each["sum"]),
            )
            for name, each in dict(document["times"]).items()
        }
        return cls(
            name=str(document["name"]),
            alias=str(document["alias"]),
            numbers={str(key): float(number) for key, number in dict(document["numbers"]).items()},
            times=times,
            since=float(document["since"]),
            namespace=str(document.get("namespace", "")),
        )


def take() -> list[PoolReading]:
    """Return a reading of every configured pool. If the settings name no pool, return one that is misconfigured."""
    try:
        managers = get_managers()
    except ImproperlyConfigured:
        managers = [RedisConnectionManager(DEFAULT_ALIAS)]
    return [read(manager) for manager in managers]


def read(manager: RedisConnectionManager) -> PoolReading:
    """Return a reading of one pool. Never raises for an outage or wrong settings."""
    info = manager.get_pool_info()
    # Wrong settings name no app.
    name = info.get("client_name") or client_name("", manager.alias)
    numbers: dict[str, float] = {f"state_{state}": int(info["state"] == state) for state in STATES}
    if info["state"] == "misconfigured":
        return PoolReading(name=name, alias=manager.alias, numbers=numbers)
    for key in _WANTED & info.keys():
        if isinstance(info[key], int | float):
            numbers[key] = info[key]
    numbers["connections_used"] = info["connections_open"] - info["connections_idle"]
    numbers["paused"] = int(bool(info.get("paused")))
    if info["latency_ms"] is not None:
        numbers["health_check_latency"] = info["latency_ms"] / 1000
    times = manager.build().monitor.times
    distributions = times.distributions()
    distributions["operation"] = coarsened(manager.latency_histogram())
    return PoolReading(
        name=name,
        alias=manager.alias,
        numbers=numbers,
        times=distributions,
        since=times.since,
        namespace=str(manager.config.database),
    )


def coarsened(distribution: Distribution) -> Distribution:
    """Keep one bound for each doubling, and infinity: fewer numbers, all of them exact."""
    pairs, total = distribution
    kept: list[tuple[float, int]] = []
    for bound, count in pairs:
        far_enough = bound >= _FINEST and (not kept or bound >= kept[-1][0] * 1.999)
        if bound == math.inf or (far_enough and bound <= _COARSEST):
            kept.append((bound, count))
    return kept, total


_WANTED = {source for metric in METRICS if metric.kind is not Kind.HISTOGRAM for source in metric.sources.values()}
