"""The numbers of every pool of this process at one moment, taken when somebody collects them. No I/O.

Each is a total or a state as the pool itself holds it, never a difference, so that nothing drifts when a collection
is missed or there are several collectors.
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
"""Operations are counted in four ranges to each doubling; one to each, from 20 µs to 10 s, is exported."""


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
        """Return what a metric says of this pool: attributes and number. Nothing where there is no number yet."""
        for value, source in metric.sources.items():
            number = self.numbers.get(source)
            if number is not None:
                yield {**self.attributes, **({metric.attribute: value} if metric.attribute else {})}, number

    def distributions(self, metric: Metric) -> Iterator[tuple[dict[str, str], Distribution]]:
        """The same of a histogram."""
        for source in metric.sources.values():
            if source in self.times:
                where = {SYSTEM: "redis", NAMESPACE: self.namespace} if SYSTEM in metric.attributes else {}
                yield {**self.attributes, **where}, self.times[source]

    def as_dict(self) -> dict[str, Any]:
        """Return the reading JSON-ready; the last bound of every distribution, infinity, is left out."""
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
        """Read what ``as_dict`` returned, in another process and perhaps in another version.

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
    """Return a reading of every configured pool. Settings that name no pool at all give one that is misconfigured."""
    try:
        managers = get_managers()
    except ImproperlyConfigured:
        managers = [RedisConnectionManager(DEFAULT_ALIAS)]
    return [read(manager) for manager in managers]


def read(manager: RedisConnectionManager) -> PoolReading:
    """Return a reading of one pool. Never raises for an outage or wrong settings."""
    info = manager.get_pool_info()
    # Settings that are wrong name no app.
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
    """Keep one bound to each doubling, and infinity: fewer numbers, every one of them exact."""
    pairs, total = distribution
    kept: list[tuple[float, int]] = []
    for bound, count in pairs:
        far_enough = bound >= _FINEST and (not kept or bound >= kept[-1][0] * 1.999)
        if bound == math.inf or (far_enough and bound <= _COARSEST):
            kept.append((bound, count))
    return kept, total


_WANTED = {source for metric in METRICS if metric.kind is not Kind.HISTOGRAM for source in metric.sources.values()}
