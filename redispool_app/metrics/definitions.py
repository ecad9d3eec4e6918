"""The table of all metrics: the name of each, its meaning, and the number of a pool that it shows.

Names, kinds and units of ``db.client.*`` are those of OpenTelemetry's database conventions
(https://opentelemetry.io/docs/specs/semconv/db/database-metrics/). Metrics outside these are called ``redispool.*``.
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
"""Attribute of every metric: ``app:host:pid:alias``. It is unique, and equals the connection's name in CLIENT LIST."""
ALIAS = "redispool.alias"
"""Attribute of every metric: the alias in ``REDIS_POOL``, the same in all processes."""
SYSTEM = "db.system.name"
"""Attribute of ``db.client.operation.duration`` that the conventions require."""
NAMESPACE = "db.namespace"
"""Attribute of ``db.client.operation.duration``: the number of the database."""

STATES = ("unknown", "healthy", "unhealthy", "closed", "misconfigured")


class Kind(StrEnum):
    """An OpenTelemetry instrument.

    A counter only grows. An updowncounter may be added up over pools, a gauge may not.
    """

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
        """The name of the metric family, without the ``_total`` of a counter's samples."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return prometheus_label(self.name) + unit

    @property
    def sample_names(self) -> list[str]:
        """The names that PromQL can query."""
        ends = {Kind.COUNTER: ["_total"], Kind.HISTOGRAM: ["_bucket", "_sum", "_count"]}
        return [self.prometheus_name + end for end in ends.get(self.kind, [""])]

    @property
    def attributes(self) -> list[str]:
        """The names of all attributes of its values."""
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
        description="Open connections. Shared and borrowed ones count as used.",
        attribute="db.client.connection.state",
        sources={"idle": "connections_idle", "used": "connections_used"},
    ),
    _now(
        "db.client.connection.idle.max", "{connection}", "connections_max",
        "Maximum idle connections: MAX_CONNECTIONS for each event loop in use, and for the threads.",
    ),
    _now(
        "db.client.connection.max", "{connection}", "connections_max",
        "Maximum open connections: MAX_CONNECTIONS for each event loop in use, and for the threads.",
    ),
    _now(
        "db.client.connection.pending_requests", "{request}", "waiting",
        "Callers that wait for a connection, or for room on the shared one.",
    ),
    _counter(
        "db.client.connection.timeouts", "{timeout}", "acquire_timeouts_total",
        "Callers that got no connection in time: PoolTimeout.",
    ),
    _times(
        "db.client.connection.create_time", "create",
        "Time to connect, with handshake and authentication.",
    ),
    _times(
        "db.client.connection.wait_time", "wait",
        "Time that callers waited for a dedicated connection, with the time to connect.",
    ),
    _times("db.client.connection.use_time", "use", "Time that callers kept a dedicated connection."),
    _times(
        "db.client.operation.duration", "operation",
        "Time that callers waited for replies on shared connections; a pipeline counts once.",
    ),
    Metric(
        name="redispool.state",
        kind=Kind.UPDOWNCOUNTER,
        unit="{pool}",
        description="1 for the pool's state, 0 for the others.",
        attribute="redispool.state",
        sources={state: f"state_{state}" for state in STATES},
    ),
    _now("redispool.paused", "{pool}", "paused", "1 while the pool is paused and its callers wait."),
    _now("redispool.in_flight", "{command}", "commands_in_flight", "Commands without a reply yet."),
    _now("redispool.shared_connections", "{connection}", "connections_shared", "Shared connections that are open."),
    _now("redispool.loops", "{loop}", "loops", "Event loops with a client of this pool."),
    _counter(
        "redispool.commands", "{command}", "commands_total",
        "Commands answered on shared connections; a pipeline counts once.",
    ),
    _counter("redispool.batches", "{batch}", "batches_total", "Batches of replies handed out."),
    _metric(
        "redispool.batch.size", Kind.GAUGE, "{command}", "batch_size_mean",
        "Commands per batch, on average since the process started.",
    ),
    _counter("redispool.sent", "By", "bytes_sent_total", "Bytes written to the shared connections."),
    _counter("redispool.received", "By", "bytes_received_total", "Bytes read from the shared connections."),
    _counter("redispool.command_timeouts", "{command}", "command_timeouts_total", "Commands not answered in time."),
    _counter("redispool.retries", "{command}", "retries_total", "Commands sent again after their connection was lost."),
    _counter(
        "redispool.outcomes_unknown", "{command}", "outcome_unknown_total",
        "Writes whose reply was lost: OutcomeUnknown.",
    ),
    _counter(
        "redispool.exhausted", "{request}", "exhausted_total",
        "Callers refused because no connection, room or place to wait was left.",
    ),
    _counter(
        "redispool.slow_commands", "{command}", "slow_commands_total",
        "Callers that waited at least SLOW_COMMAND.",
    ),
    _counter("redispool.reconnects", "{connection}", "reconnects_total", "Shared connections replaced after a loss."),
    _counter(
        "redispool.held_back_connections", "{connection}", "held_back_connections_total",
        "Shared connections made while the server held commands back on the others.",
    ),
    _counter(
        "redispool.large_reply_connections", "{connection}", "large_reply_connections_total",
        "Shared connections made while a large reply was received on the others.",
    ),
    _counter("redispool.connections_opened", "{connection}", "connections_opened_total", "Connections opened."),
    _counter("redispool.connections_closed", "{connection}", "connections_closed_total", "Connections closed."),
    _counter("redispool.errors", "{error}", "errors_total", "Failures of connections and of attempts to connect."),
    _counter(
        "redispool.timeouts", "{error}", "timeouts_total",
        "Failures of connections and of attempts to connect that were timeouts.",
    ),
    _counter("redispool.health_checks", "{check}", "health_checks_total", "Health checks made."),
    _metric(
        "redispool.health_check.latency", Kind.GAUGE, "s", "health_check_latency",
        "Round trip of the last PING.",
    ),
)  # fmt: skip
"""All metrics, in the order in which they are exported."""
