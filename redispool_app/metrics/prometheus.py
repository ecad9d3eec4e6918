"""The metrics for Prometheus: a collector for any registry of prometheus_client, and the text of a scrape.

Needs the extra ``prometheus``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from . import multiprocess
from .collect import PoolReading
from .definitions import METRICS, Kind, Metric, prometheus_label


class PoolCollector(Collector):
    """Collects from all pools of this process, or of all processes if ``PROMETHEUS_MULTIPROC_DIR`` is set.

    For a registry of your own: ``registry.register(PoolCollector())``. Reads the pools' counts, without Redis I/O.
    """

    def describe(self) -> Iterator[Family]:
        """Yield the families without their samples, so that registering collects nothing."""
        for metric in METRICS:
            yield _family(metric, ())

    def collect(self) -> Iterator[Family]:
        readings = multiprocess.gather()
        for metric in METRICS:
            yield _family(metric, readings)


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Let a registry collect from the pools, once. ``AppConfig.ready`` does this for the default registry."""
    if getattr(registry, _MARK, None) is None:
        collector = PoolCollector()
        registry.register(collector)
        setattr(registry, _MARK, collector)


def scrape(accept: str = "") -> tuple[bytes, str]:
    """Return only the pools' metrics, as text and its content type. ``accept`` chooses the format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PoolCollector())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


_MARK = "_redispool_collector"


def _family(metric: Metric, readings: Iterable[PoolReading]) -> Family:
    name, text = metric.prometheus_name, metric.description
    labels = [prometheus_label(attribute) for attribute in metric.attributes]
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for reading in readings:
            for attributes, (pairs, total) in reading.distributions(metric):
                buckets = [("+Inf" if bound == math.inf else repr(bound), count) for bound, count in pairs]
                histogram.add_metric(_in_order(metric, attributes), buckets, total)
        return histogram
    family = (CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily)(name, text, labels=labels)
    for reading in readings:
        for attributes, number in reading.values(metric):
            family.add_metric(_in_order(metric, attributes), number)
    return family


def _in_order(metric: Metric, attributes: dict[str, str]) -> list[str]:
    return [attributes[attribute] for attribute in metric.attributes]
