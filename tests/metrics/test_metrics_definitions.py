"""The table of metrics against the published conventions and against what a pool can tell."""

from __future__ import annotations

import re

import pytest
from opentelemetry.semconv._incubating.attributes import db_attributes as attributes
from opentelemetry.semconv._incubating.metrics import db_metrics as conventions
from opentelemetry.semconv.attributes.db_attributes import DB_NAMESPACE, DB_SYSTEM_NAME
from opentelemetry.semconv.metrics.db_metrics import DB_CLIENT_OPERATION_DURATION
from prometheus_client import CollectorRegistry

from redispool_app.metrics.collect import read
from redispool_app.metrics.definitions import ALIAS, METRICS, NAMESPACE, POOL_NAME, SYSTEM, Kind, prometheus_label
from redispool_app.metrics.prometheus import register

BY_NAME = {metric.name: metric for metric in METRICS}


class Created:
    """A meter that only tells what a convention's own function asks it to create."""

    def __getattr__(self, kind):
        return lambda name, description, unit: (kind, name, unit)


KINDS = {
    "create_counter": Kind.COUNTER,
    "create_up_down_counter": Kind.UPDOWNCOUNTER,
    "create_histogram": Kind.HISTOGRAM,
    "create_gauge": Kind.GAUGE,
}


@pytest.mark.parametrize(
    "convention",
    ["count", "idle_max", "max", "pending_requests", "timeouts", "create_time", "wait_time", "use_time"],
)
def test_connection_metrics_are_what_the_conventions_say(convention):
    kind, name, unit = getattr(conventions, f"create_db_client_connection_{convention}")(Created())
    metric = BY_NAME[name]
    assert (metric.kind, metric.unit) == (KINDS[kind], unit)


def test_the_duration_of_operations_is_what_the_conventions_say():
    metric = BY_NAME[DB_CLIENT_OPERATION_DURATION]
    assert (metric.kind, metric.unit) == (Kind.HISTOGRAM, "s")
    assert SYSTEM == DB_SYSTEM_NAME
    assert SYSTEM in metric.attributes
    assert NAMESPACE == DB_NAMESPACE
    assert NAMESPACE in metric.attributes


def test_attributes_have_the_conventions_names():
    assert POOL_NAME == attributes.DB_CLIENT_CONNECTION_POOL_NAME
    count = BY_NAME["db.client.connection.count"]
    assert count.attribute == attributes.DB_CLIENT_CONNECTION_STATE
    states = {member.value for member in attributes.DbClientConnectionStateValues}
    assert set(count.sources) == states


def test_every_metric_is_described_and_belongs_to_the_conventions_or_to_us():
    for metric in METRICS:
        assert metric.description.endswith("."), metric.name
        assert re.fullmatch(r"s|By|\{[a-z_]+\}", metric.unit), metric.name
        assert metric.name.startswith(("db.client.", "redispool.")), metric.name
        assert metric.attributes[:2] == [POOL_NAME, ALIAS]


def test_no_two_metrics_share_a_name_in_either_world():
    assert len(BY_NAME) == len(METRICS)
    samples = [name for metric in METRICS for name in metric.sample_names]
    assert len(set(samples)) == len(samples)


def test_names_for_prometheus_are_valid_and_have_their_unit():
    for metric in METRICS:
        names = [metric.prometheus_name, *map(prometheus_label, metric.attributes)]
        assert all(re.fullmatch("[a-z_][a-z0-9_]*", name) for name in names)
    assert BY_NAME["db.client.operation.duration"].prometheus_name == "db_client_operation_duration_seconds"
    assert BY_NAME["redispool.sent"].sample_names == ["redispool_sent_bytes_total"]
    assert BY_NAME["db.client.connection.count"].sample_names == ["db_client_connection_count"]


def test_a_pool_in_use_has_a_number_for_every_metric(manager):
    client = manager.get_sync_client()
    client.ping()
    client.connection_pool.release(client.connection_pool.get_connection())
    reading = read(manager)
    empty = [
        metric.name
        for metric in METRICS
        if not list((reading.distributions if metric.kind is Kind.HISTOGRAM else reading.values)(metric))
    ]
    assert empty == []


def test_registering_twice_is_registering_once():
    registry = CollectorRegistry(auto_describe=True)
    register(registry)
    register(registry)
    assert len(list(registry.collect())) == len(METRICS)
