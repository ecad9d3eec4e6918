"""redis-py's own OpenTelemetry metrics count what travels on the shared connection, as they count everything else."""

from __future__ import annotations

import gc

import pytest
import redis
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis import exceptions as redis_exceptions
from redis.observability import recorder
from redis.observability.config import MetricGroup, OTelConfig
from redis.observability.providers import get_observability_instance

from redispool_app.engine import AsyncRedis, SyncRedis


@pytest.fixture
def reader(monkeypatch):
    """Metrics of redis-py, on for one test."""
    # redis-py's pools report as they are finalised, which in the middle of a report waits for that one's lock for ever.
    gc.collect()
    gc.disable()
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    observability = get_observability_instance()
    observability.init(OTelConfig(metric_groups=[MetricGroup.COMMAND, MetricGroup.RESILIENCY]))
    recorder.reset_collector()
    try:
        yield reader
    finally:
        observability.shutdown()
        recorder.reset_collector()
        provider.shutdown()
        gc.enable()


def recorded(reader, metric, attribute):
    """Return how many measurements of a metric there are for each value of an attribute."""
    counts = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else []:
        for scope in resource.scope_metrics:
            for found in scope.metrics:
                if found.name == metric:
                    for point in found.data.data_points:
                        count = getattr(point, "count", None) or getattr(point, "value", 0)
                        key = point.attributes.get(attribute)
                        counts[key] = counts.get(key, 0) + count
    return counts


def spent(client):
    client.set("k", "v")
    client.get("k")
    client.get(b"k")
    client.pipeline(transaction=True).get("k").execute()
    client.pipeline(transaction=False).get("k").get("k").execute()
    with pytest.raises(redis_exceptions.ResponseError):
        client.incr("k")


def test_blocking_commands_are_recorded_as_redis_py_records_its_own(server, reader):
    with SyncRedis.from_url(server.url) as ours:
        spent(ours)
    counts = recorded(reader, "db.client.operation.duration", "db.operation.name")
    assert counts["GET"] == 2
    assert counts["SET"] == counts["MULTI"] == counts["PIPELINE"] == 1
    assert sum(recorded(reader, "redis.client.errors", "error.type").values()) == 1


def test_the_same_commands_give_the_same_counts_as_with_redis_py(server, reader):
    with redis.Redis.from_url(server.url) as theirs:
        spent(theirs)
    before = recorded(reader, "db.client.operation.duration", "db.operation.name")
    with SyncRedis.from_url(server.url) as ours:
        spent(ours)
    after = recorded(reader, "db.client.operation.duration", "db.operation.name")
    assert {name: after[name] - before[name] for name in before} == before


async def test_asyncio_commands_are_recorded_too(server, reader):
    async with AsyncRedis.from_url(server.url) as client:
        await client.set("k", "v")
        await client.get("k")
        await client.pipeline(transaction=True).get("k").execute()
        await client.pipeline(transaction=False).get("k").execute()
        with pytest.raises(redis_exceptions.ResponseError):
            await client.incr("k")
    counts = recorded(reader, "db.client.operation.duration", "db.operation.name")
    assert counts["GET"] == counts["SET"] == counts["MULTI"] == counts["PIPELINE"] == 1
    assert sum(recorded(reader, "redis.client.errors", "error.type").values()) == 1


async def test_nothing_is_recorded_unless_asked_for(server):
    async with AsyncRedis.from_url(server.url) as client:
        await client.ping()
        assert client.sharing.telemetry is None
