"""The metrics for OpenTelemetry, read with the SDK's own readers and exporters."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)

from redispool_app.metrics.definitions import ALIAS, METRICS, POOL_NAME, Kind
from redispool_app.metrics.opentelemetry import instrument, with_histograms

BY_NAME = {metric.name: metric for metric in METRICS}


def metrics_of(data):
    """Return the metrics of one collection by name."""
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        if scope.scope.name == "redispool_app"
        for metric in scope.metrics
    }


class Collected:
    """What a provider's reader finds."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])
        instrument(self.provider)

    def metrics(self):
        return metrics_of(self.reader.get_metrics_data())

    def value(self, name, **attributes):
        points = [
            point
            for point in self.metrics()[name].data.data_points
            if attributes.items() <= {key.replace(".", "_"): each for key, each in point.attributes.items()}.items()
        ]
        assert len(points) == 1
        return points[0].value


@pytest.fixture
def collected():
    collected = Collected()
    yield collected
    collected.provider.shutdown()


@pytest.fixture(autouse=True)
def read_each_time(monkeypatch):
    """One collection follows the other at once here."""
    monkeypatch.setattr("redispool_app.metrics.opentelemetry._AGE", 0.0)


def test_every_number_is_observed_under_its_name_unit_and_kind(manager, collected):
    manager.get_sync_client().ping()
    found = collected.metrics()
    expected = {metric.name for metric in METRICS if metric.kind is not Kind.HISTOGRAM}
    assert found.keys() == expected
    for name, metric in found.items():
        assert (metric.unit, metric.description) == (BY_NAME[name].unit, BY_NAME[name].description)
        sums = BY_NAME[name].kind is not Kind.GAUGE
        assert hasattr(metric.data, "is_monotonic") == sums
        if sums:
            assert metric.data.is_monotonic == (BY_NAME[name].kind is Kind.COUNTER)
            assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
        for point in metric.data.data_points:
            assert {POOL_NAME, ALIAS} <= point.attributes.keys()


def test_values_are_those_of_the_pool_however_often_they_are_collected(manager, collected):
    client = manager.get_sync_client()
    for _ in range(3):
        client.get("k")
        assert collected.value("redispool.commands") == manager.get_pool_info()["commands_total"]
    assert collected.value("redispool.commands") == manager.get_pool_info()["commands_total"]
    assert collected.value("db.client.connection.count", db_client_connection_state="used") == 1
    assert collected.value("redispool.state", redispool_state="healthy") == 1


def test_two_readers_each_see_everything(manager):
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider(metric_readers=readers)
    instrument(provider)
    manager.get_sync_client().get("k")
    counts = [
        metrics_of(reader.get_metrics_data())["redispool.commands"].data.data_points[0].value for reader in readers
    ]
    assert counts[0] == counts[1] >= 1
    provider.shutdown()


def test_each_alias_is_a_pool_of_its_own(server, pools, collected):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    points = collected.metrics()["redispool.commands"].data.data_points
    assert [point.attributes[ALIAS] for point in points] == ["default", "sessions"]
    assert len({point.attributes[POOL_NAME] for point in points}) == 2


def test_an_outage_is_observed_without_waiting_for_it(own_server, pool_settings, collected):
    manager = pool_settings(own_server.url)
    own_server.kill()
    manager._health_check_sync()
    began = time.monotonic()
    assert collected.value("redispool.state", redispool_state="unhealthy") == 1
    assert time.monotonic() - began < 1


def test_one_collection_reads_the_pools_once(manager, monkeypatch):
    monkeypatch.setattr("redispool_app.metrics.opentelemetry._AGE", 60.0)
    calls = []
    monkeypatch.setattr(
        "redispool_app.metrics.opentelemetry.take",
        lambda: calls.append(1) or [],
    )
    collected = Collected()
    collected.reader.get_metrics_data()
    assert len(calls) == 1
    collected.provider.shutdown()


# Histograms.


class KeepingExporter(MetricExporter):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.exported = []

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        self.exported.append(None)


@pytest.fixture
def exported():
    """Flush a provider with histograms; return the metrics that left."""
    kept = KeepingExporter()
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(with_histograms(kept), export_interval_millis=3_600_000)]
    )
    instrument(provider)

    def flush():
        provider.force_flush()
        return metrics_of_all(kept.exported[-1])

    yield flush
    provider.shutdown()
    assert kept.exported[-1] is None, "shut down with it"


def metrics_of_all(data):
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_with_histograms_every_metric_of_the_table_leaves(manager, exported):
    client = manager.get_sync_client()
    client.connection_pool.release(client.connection_pool.get_connection())
    client.ping()
    assert exported().keys() == BY_NAME.keys()


def test_a_histogram_has_every_single_command(manager, exported):
    client = manager.get_sync_client()
    for _ in range(20):
        client.get("k")
    for _ in range(2):
        metric = exported()["db.client.operation.duration"]
        assert metric.unit == "s"
        assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
        (point,) = metric.data.data_points
        assert (point.attributes["db.system.name"], point.attributes["db.namespace"]) == ("redis", "0")
        assert point.count == sum(point.bucket_counts) == manager.get_pool_info()["commands_total"] >= 20
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        assert list(point.explicit_bounds) == sorted(point.explicit_bounds)
        assert 0 < point.sum < 20
        assert point.start_time_unix_nano < point.time_unix_nano


def test_times_of_connections_are_histograms_too(manager, exported):
    client = manager.get_sync_client()
    pool = client.connection_pool
    connection = pool.get_connection()
    time.sleep(0.02)
    pool.release(connection)
    (point,) = exported()["db.client.connection.use_time"].data.data_points
    assert point.count == 1
    assert 0.02 <= point.sum < 2


def test_another_exporter_can_write_them(manager, tmp_path):
    manager.get_sync_client().ping()
    out = (tmp_path / "metrics.json").open("w+")
    reader = PeriodicExportingMetricReader(
        with_histograms(ConsoleMetricExporter(out)), export_interval_millis=3_600_000
    )
    provider = MeterProvider(metric_readers=[reader])
    instrument(provider)
    provider.shutdown()
    out.seek(0)
    document = json.JSONDecoder().raw_decode(out.read())[0]
    names = {
        metric["name"] for scope in document["resource_metrics"][0]["scope_metrics"] for metric in scope["metrics"]
    }
    assert "db.client.connection.create_time" in names
    out.close()


def test_nothing_is_registered_unless_asked_for():
    source = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
assert "redispool_app.metrics.opentelemetry" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_extra_alone_is_enough_without_the_sdk(server):
    source = f"""
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
sys.modules["opentelemetry.sdk"] = None
import django
from django.conf import settings
settings.REDIS_POOL = {{"CONNECTION_URL": {server.url!r}}}
django.setup()
from redispool_app.metrics.opentelemetry import instrument
instrument()
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
