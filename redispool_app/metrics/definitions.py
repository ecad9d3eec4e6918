"""The table of all metrics: what each is called, what it means, and which number of a pool it shows.

Names, kinds and units of ``db.client.*`` are those of OpenTelemetry's database conventions
(https://opentelemetry.io/docs/specs/semconv/db/database-metrics/); what these do not know is called ``redispool.*``.
Prometheus' names follow from them by OpenTelemetry's own rules
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SCOPE = "redispool_app"

SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"

POOL_NAME = "db.client.connection.pool.name"
"""Attribute of every metric: ``app:host:pid:alias``, unique, and the connection's name in CLIENT LIST."""
ALIAS = "redispool.alias"
"""Attribute of every metric: the alias in ``REDIS_POOL``, the same in all processes."""
SYSTEM = "db.system.name"
"""Attribute of ``db.client.operation.duration``, which the conventions require."""
NAMESPACE = "db.namespace"
"""Attribute of ``db.client.operation.duration``: the number of the database."""

STATES = ("unknown", "healthy", "unhealthy", "closed", "misconfigured")


class Kind(StrEnum):
    """An OpenTelemetry instrument: a counter only grows; an updowncounter may be added up over pools, a gauge not."""

    COUNTER = "counter"
    UPDOWNCOUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. ``sources`` maps the value of ``attribute`` to a key of ``PoolReading.numbers`` or ``.times``.

    Without an ``attribute`` there is one source, under the empty string. ``unit`` is in UCUM.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    sources: Mapping[str, str]
    attribute: str | None = None

    @property
    def prometheus_name(self) -> str:
        """The name of the metric family, without the ``_total`` that a counter's samples end with."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return prometheus_label(self.name) + unit

    @property
    def sample_names(self) -> list[str]:
        """The names that PromQL can ask for."""
        ends = {Kind.COUNTER: ["_total"], Kind.HISTOGRAM: ["_bucket", "_sum", "_count"]}
        return [self.prometheus_name + end for end in ends.get(self.kind, [""])]

    @property
    def attributes(self) -> list[str]:
        """The names of all attributes that its values carry."""
        more = [self.attribute] if self.attribute else []
        return [POOL_NAME, ALIAS, *more, *([SYSTEM, NAMESPACE] if self.name == "db.client.operation.duration" else [])]


def prometheus_label(attribute: str) -> str:
    """Return an attribute's name as a label."""
    return attribute.replace(".", "_")


def _metric(name: str, kind: Kind, unit: str, source: str, description: str) -> Metric:
    return Metric(name=name, kind=kind, unit=unit, description=description, sources={"": source})


def _counter(name: str, unit: str, source: str, description: str) -> Metric:
    return _metric(name, Kind.COUNTER, unit, source, description)


def _now(name: str, unit: str, source: str, description: str) -> Metric:
    return _metric(name, Kind.UPDOWNCOUNTER, unit, source, description)


def _times(name: str, source: str, description: str) -> Metric:
    return _metric(name, Kind.HISTOGRAM, "s", source, description)


METRICS: tuple[Metric, ...] = (
    Metric(
        name="db.client.connection.count",
        kind=Kind.UPDOWNCOUNTER,
        unit="{connection}",
        description="Open connections; the shared ones, and those that somebody has borrowed, are used.",
        attribute="db.client.connection.state",
        sources={"idle": "connections_idle", "used": "connections_used"},
    ),
    _now(
        "db.client.connection.idle.max", "{connection}", "connections_max",
        "How many connections may lie idle: MAX_CONNECTIONS for each event loop in use, and for the threads.",
    ),
    _now(
        "db.client.connection.max", "{connection}", "connections_max",
        "How many connections may be open: MAX_CONNECTIONS for each event loop in use, and for the threads.",
    ),
    _now(
        "db.client.connection.pending_requests", "{request}", "waiting",
        "Callers that wait for a connection, or for room on the shared one.",
    ),
    _counter(
        "db.client.connection.timeouts", "{timeout}", "acquire_timeouts_total",
        "Callers that waited in vain: PoolTimeout.",
    ),
    _times(
        "db.client.connection.create_time", "create",
        "How long it took to connect, handshake and authentication included.",
    ),
    _times(
        "db.client.connection.wait_time", "wait",
        "How long borrowers waited for a connection of their own, connecting included.",
    ),
    _times("db.client.connection.use_time", "use", "How long borrowers kept a connection of their own."),
    _times(
        "db.client.operation.duration", "operation",
        "How long callers waited for replies on the shared connections, a pipeline's caller once.",
    ),
    Metric(
        name="redispool.state",
        kind=Kind.UPDOWNCOUNTER,
        unit="{pool}",
        description="1 for the state that the pool is in, 0 for the others.",
        attribute="redispool.state",
        sources={state: f"state_{state}" for state in STATES},
    ),
    _now("redispool.paused", "{pool}", "paused", "1 while the pool is paused and its callers wait."),
    _now("redispool.in_flight", "{command}", "commands_in_flight", "Commands whose replies are still to come."),
    _now("redispool.shared_connections", "{connection}", "connections_shared", "Shared connections that are open."),
    _now("redispool.loops", "{loop}", "loops", "Event loops with a client of this pool."),
    _counter(
        "redispool.commands", "{command}", "commands_total",
        "Commands answered on the shared connections, a pipeline counted as one.",
    ),
    _counter("redispool.batches", "{batch}", "batches_total", "Times that a batch of replies was handed out."),
    _metric(
        "redispool.batch.size", Kind.GAUGE, "{command}", "batch_size_mean",
        "Commands to a batch, on average since the process started.",
    ),
    _counter("redispool.sent", "By", "bytes_sent_total", "Bytes written to the shared connections."),
    _counter("redispool.received", "By", "bytes_received_total", "Bytes read from the shared connections."),
    _counter("redispool.command_timeouts", "{command}", "command_timeouts_total", "Commands not answered in time."),
    _counter("redispool.retries", "{command}", "retries_total", "Commands sent again after their connection was lost."),
    _counter(
        "redispool.outcomes_unknown", "{command}", "outcome_unknown_total",
        "Writes whose reply was lost: OutcomeUnknown.",
    ),
    _counter("redispool.exhausted", "{request}", "exhausted_total", "Callers refused because there was nothing left."),
    _counter("redispool.slow_commands", "{command}", "slow_commands_total", "Callers that waited SLOW_COMMAND."),
    _counter("redispool.reconnects", "{connection}", "reconnects_total", "Shared connections made anew after a loss."),
    _counter(
        "redispool.held_back_connections", "{connection}", "held_back_connections_total",
        "Shared connections made while the server held commands back on the others.",
    ),
    _counter(
        "redispool.large_reply_connections", "{connection}", "large_reply_connections_total",
        "Shared connections made while a large reply was on its way on the others.",
    ),
    _counter("redispool.connections_opened", "{connection}", "connections_opened_total", "Connections opened."),
    _counter("redispool.connections_closed", "{connection}", "connections_closed_total", "Connections closed."),
    _counter("redispool.errors", "{error}", "errors_total", "Failures of connections and of attempts to connect."),
    _counter(
        "redispool.timeouts", "{error}", "timeouts_total",
        "Failures of connections and of attempts to connect that were timeouts.",
    ),
    _counter("redispool.health_checks", "{check}", "health_checks_total", "Health checks carried out."),
    _metric(
        "redispool.health_check.latency", Kind.GAUGE, "s", "health_check_latency",
        "How long the last PING took.",
    ),
)  # fmt: skip
"""All metrics, in the order in which they are exported."""
