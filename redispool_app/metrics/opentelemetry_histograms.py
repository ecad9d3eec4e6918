"""Histograms for OpenTelemetry as the pools have counted them, added to the data of an SDK exporter.

The API has no observable histogram: an instrument would have to record every single command. So the finished counts are
added to the SDK's own just before the export.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from redispool_app import __version__
from redispool_app.engine.stats.histogram import Distribution

from . import definitions
from .collect import PoolReading, take
from .definitions import SCHEMA_URL, SCOPE


class HistogramExporter(MetricExporter):
    """Passes all data on to another exporter, and adds the pools' histograms."""

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter = exporter

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        return self._exporter.export(_with_histograms(metrics_data), timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._exporter.shutdown(timeout_millis, **kwargs)


def histograms(readings: Sequence[PoolReading]) -> list[Metric]:
    """Return every histogram of the table, with one cumulative point for each pool."""
    now = time.time_ns()
    found = []
    for metric in definitions.METRICS:
        points = [
            _point(attributes, distribution, int(reading.since * 1e9), now)
            for reading in readings
            for attributes, distribution in reading.distributions(metric)
            if metric.kind is definitions.Kind.HISTOGRAM
        ]
        if points:
            data = Histogram(points, AggregationTemporality.CUMULATIVE)
            found.append(Metric(metric.name, metric.description, metric.unit, data))
    return found


def _point(attributes: dict[str, str], distribution: Distribution, since: int, now: int) -> HistogramDataPoint:
    pairs, total = distribution
    cumulative = [count for _, count in pairs]
    counts = [count - before for before, count in zip([0, *cumulative], cumulative, strict=False)]
    unknown: Any = None  # the longest and the shortest time are not kept
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=since,
        time_unix_nano=now,
        count=cumulative[-1],
        sum=total,
        bucket_counts=counts,
        explicit_bounds=[bound for bound, _ in pairs[:-1]],
        min=unknown,
        max=unknown,
    )


def _with_histograms(metrics_data: MetricsData) -> MetricsData:
    added = ScopeMetrics(InstrumentationScope(SCOPE, __version__, SCHEMA_URL), histograms(take()), SCHEMA_URL)
    if not metrics_data.resource_metrics:
        return metrics_data
    first, *others = metrics_data.resource_metrics
    whole = ResourceMetrics(first.resource, [*first.scope_metrics, added], first.schema_url)
    return MetricsData([whole, *others])
