"""The metrics for OpenTelemetry: observable instruments, and histograms, for which no observable instrument exists.

Needs the extra ``opentelemetry``. Nothing is registered unless ``instrument()`` is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

from redispool_app import __version__
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .collect import PoolReading, take
from .definitions import METRICS, SCHEMA_URL, SCOPE, Kind, Metric

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter


_AGE = 0.2
"""Seconds for which one reading of the pools serves all instruments, so that one collection reads once."""


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Register the metrics with ``meter_provider``, or with the global one. Call it once for each provider.

    Every number is observed when the provider collects, without Redis I/O. ``with_histograms()`` adds the histograms. A
    provider without it gets all other metrics.
    """
    meter = get_meter(SCOPE, __version__, meter_provider, SCHEMA_URL)
    readings = _Recent()
    for metric in METRICS:
        if metric.kind is not Kind.HISTOGRAM:
            _create(meter, metric)(
                metric.name, callbacks=[_observer(metric, readings)], unit=metric.unit, description=metric.description
            )


def with_histograms(exporter: MetricExporter) -> MetricExporter:
    """Return an exporter that adds the pools' histograms to what it passes on to ``exporter``::

        PeriodicExportingMetricReader(with_histograms(OTLPMetricExporter()))

    They are cumulative since the process started. Needs opentelemetry-sdk.
    """
    from .opentelemetry_histograms import HistogramExporter

    return HistogramExporter(exporter)


class _Recent:
    """The last reading, renewed when it is too old."""

    _lock: threading.Lock

    def __init__(self) -> None:
        fork.renew_lock(self)
        self._taken_at = -_AGE
        self._readings: list[PoolReading] = []

    def __call__(self) -> list[PoolReading]:
        if not mark[0]:
            fork.renew()
        with self._lock:
            if time.monotonic() - self._taken_at >= _AGE:
                self._readings = take()
                self._taken_at = time.monotonic()
            return self._readings


def _create(meter: Meter, metric: Metric) -> Callable[..., Any]:
    return {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.UPDOWNCOUNTER: meter.create_observable_up_down_counter,
        Kind.GAUGE: meter.create_observable_gauge,
    }[metric.kind]


def _observer(
    metric: Metric, readings: Callable[[], list[PoolReading]]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(number, attributes) for reading in readings() for attributes, number in reading.values(metric)
        ]

    return observe
