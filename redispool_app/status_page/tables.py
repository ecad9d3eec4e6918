"""The tables and figures of the live page: their columns, how each is shown, and their rows as text for the first view.

The page's script renders the same columns from the same documents, by the ``key`` and ``kind`` in each heading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

# A sign and a word for each state, so that colour is not the only difference.
STATES: dict[str, tuple[str, Promise]] = {
    "healthy": ("✓", gettext_lazy("Healthy")),
    "unhealthy": ("✕", gettext_lazy("Unhealthy")),
    "unknown": ("?", gettext_lazy("Not checked yet")),
    "closed": ("■", gettext_lazy("Closed")),
    "misconfigured": ("!", gettext_lazy("Misconfigured")),
    "paused": ("❚❚", gettext_lazy("Paused")),
}

NOTHING = "–"  # noqa: RUF001 (a dash, as typographers set it)


@dataclass(frozen=True, slots=True)
class Column:
    """``kind``: text, code, number, rate, ms, age, time, bytes or state."""

    key: str
    label: Promise
    kind: str = "text"
    detail: str = ""
    """A second key, whose text stands in small print below."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as text."""

    column: Column
    value: Any
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Table:
    """A list of the document under ``source`` (a dotted path)."""

    name: str
    source: str
    caption: Promise
    empty: Promise
    columns: tuple[Column, ...]

    def rows(self, document: Mapping[str, Any]) -> list[list[Cell]]:
        """Return the cells of all rows."""
        found: Any = document
        for part in self.source.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return [self._cells(row) for row in (found or [])]

    def _cells(self, row: Mapping[str, Any]) -> list[Cell]:
        cells = []
        for column in self.columns:
            value = "paused" if column.kind == "state" and row.get("paused") else row.get(column.key)
            cells.append(Cell(column, value, shown(value, column.kind), str(row.get(column.detail) or "")))
        return cells


WORKERS = Table(
    "workers",
    "workers",
    gettext_lazy("Workers"),
    gettext_lazy("No worker has reported yet."),
    (
        Column("id", gettext_lazy("Worker"), "text", "role"),
        Column("state", gettext_lazy("State, last error"), "state", "last_error"),
        Column("seen_seconds", pgettext_lazy("how long ago a worker reported", "Seen"), "age"),
        Column("ops_per_second", gettext_lazy("Ops/s"), "rate"),
        Column("latency_p50_ms", gettext_lazy("p50"), "ms"),
        Column("latency_p99_ms", gettext_lazy("p99"), "ms"),
        Column("commands_in_flight", gettext_lazy("In flight"), "number"),
        Column("connections_in_use", gettext_lazy("In use"), "number"),
        Column("connections_open", gettext_lazy("Open"), "number"),
        Column("waiting", gettext_lazy("Waiting"), "number"),
        Column("loops", gettext_lazy("Loops"), "number"),
        Column("timeouts_total", gettext_lazy("Timeouts"), "number"),
        Column("reconnects_total", gettext_lazy("Reconnects"), "number"),
        Column("errors_total", gettext_lazy("Errors"), "number"),
        Column("version", gettext_lazy("Version")),
    ),
)
TIMELINE = Table(
    "timeline",
    "health_history",
    gettext_lazy("Health changes of this worker"),
    gettext_lazy("Nothing has changed since this worker started."),
    (
        Column("at", gettext_lazy("Time"), "time"),
        Column("state", gettext_lazy("State"), "state"),
        Column("fault", gettext_lazy("Cause")),
    ),
)
SLOW_OURS = Table(
    "slow-ours",
    "slow_commands",
    gettext_lazy("Slowest callers of this worker"),
    gettext_lazy("No caller has waited long enough to be remembered."),
    (
        Column("at", gettext_lazy("Time"), "time"),
        Column("command", gettext_lazy("Command"), "code"),
        Column("duration_ms", gettext_lazy("Waited"), "ms"),
    ),
)
SLOW_SERVER = Table(
    "slow-server",
    "slowlog.rows",
    gettext_lazy("The server's slow log"),
    gettext_lazy("The server's slow log is empty."),
    (
        Column("at", gettext_lazy("Time"), "time"),
        Column("command", gettext_lazy("Command"), "code"),
        Column("arguments", gettext_lazy("Arguments"), "number"),
        Column("duration_ms", gettext_lazy("Took"), "ms"),
        Column("client", gettext_lazy("Client"), "code"),
    ),
)
CLIENTS = Table(
    "clients",
    "clients.rows",
    gettext_lazy("The server's clients"),
    gettext_lazy("No client is listed."),
    (
        Column("name", gettext_lazy("Name"), "code"),
        Column("addr", gettext_lazy("Address"), "code"),
        Column("user", gettext_lazy("User")),
        Column("db", gettext_lazy("Database"), "number"),
        Column("cmd", gettext_lazy("Last command"), "code"),
        Column("age", gettext_lazy("Connected for"), "age"),
        Column("idle", gettext_lazy("Idle for"), "age"),
        Column("memory", gettext_lazy("Memory"), "bytes"),
        Column("flags", gettext_lazy("Flags"), "code"),
    ),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number over all workers that are chosen: the ``sum``, ``max`` or weighed ``mean`` of their ``key``."""

    key: str
    label: Promise
    kind: str
    rule: str = "sum"


FIGURES = (
    Figure("ops_per_second", gettext_lazy("Ops/s"), "rate"),
    Figure("latency_p50_ms", gettext_lazy("Latency p50"), "ms", "mean"),
    Figure("latency_p99_ms", gettext_lazy("Latency p99"), "ms", "max"),
    Figure("commands_in_flight", gettext_lazy("In flight"), "number"),
    Figure("waiting", gettext_lazy("Waiting"), "number"),
    Figure("connections_in_use", gettext_lazy("Connections in use"), "number"),
    Figure("connections_open", gettext_lazy("Connections open"), "number"),
    Figure("timeouts_total", gettext_lazy("Timeouts"), "number"),
    Figure("errors_total", gettext_lazy("Errors"), "number"),
    Figure("reconnects_total", gettext_lazy("Reconnects"), "number"),
)


def figures(workers: Iterable[Mapping[str, Any]]) -> list[tuple[Figure, str]]:
    """Return every figure over ``workers``, as text."""
    found = list(workers)
    return [(each, shown(_figure(each, found), each.kind)) for each in FIGURES]


def _figure(figure: Figure, workers: list[Mapping[str, Any]]) -> float | None:
    known = [each for each in workers if each.get(figure.key) is not None]
    values: list[float] = [each[figure.key] for each in known]
    if not values:
        return None
    if figure.rule == "max":
        return max(values)
    if figure.rule == "sum":
        return sum(values)
    # A median of medians, each counting as often as its worker is asked.
    weights: list[float] = [each.get("ops_per_second") or 0 for each in known]
    if not any(weights):
        return sum(values) / len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def shown(value: Any, kind: str) -> str:
    """Return a value of a document as text of the current language."""
    if value is None or value == "":
        return NOTHING
    if kind in ("text", "code"):
        return str(value)
    if kind == "state":
        sign, label = STATES.get(str(value), ("", str(value)))
        return f"{sign} {label}"
    if not isinstance(value, int | float):
        return NOTHING
    if kind == "number":
        return number_format(value, force_grouping=True)
    if kind == "rate":
        return number_format(value, 0 if value >= 10 else 1, force_grouping=True)
    if kind == "ms":
        return f"{number_format(value, 0 if value >= 100 else 2, force_grouping=True)} ms"
    if kind == "bytes":
        return str(filesizeformat(value))
    if kind == "age":
        return age(value)
    found = moment(value)
    return date_format(timezone.localtime(found) if settings.USE_TZ else found, "H:i:s") if found else NOTHING


def age(seconds: float) -> str:
    """Return a duration in its largest sensible unit."""
    if seconds < 120:
        return _("%(n)s s") % {"n": round(seconds)}
    if seconds < 7200:
        return _("%(n)s min") % {"n": round(seconds / 60)}
    if seconds < 172800:
        return _("%(n)s h") % {"n": round(seconds / 3600)}
    return _("%(n)s d") % {"n": round(seconds / 86400)}


def moment(timestamp: float | None) -> datetime | None:
    """Return a Unix time as the datetime that templates expect; None for what no calendar has."""
    if timestamp is None:
        return None
    try:
        return datetime.fromtimestamp(timestamp, UTC if settings.USE_TZ else None)
    except (OSError, OverflowError, ValueError):
        return None  # a server's own idea of its age


def server_rows(server: Mapping[str, Any] | None) -> list[tuple[str, Promise, str]]:
    """Return the facts about a server: the document's field, its label, and its text; dashes without a server."""
    found = server or {}
    role = ", ".join(str(each) for each in (found.get("role"), found.get("mode")) if each)
    version = " ".join(str(each) for each in (found.get("product"), found.get("version")) if each)
    rate = found.get("hit_rate")
    return [
        ("version", gettext_lazy("Version"), version or NOTHING),
        ("role", gettext_lazy("Role"), role or NOTHING),
        ("uptime", gettext_lazy("Uptime"), shown(found.get("uptime"), "age")),
        ("clients", gettext_lazy("Clients"), _limited(found.get("clients"), found.get("clients_max"), "number")),
        ("memory", gettext_lazy("Memory"), _limited(found.get("memory_used"), found.get("memory_max"), "bytes")),
        ("ops_per_second", gettext_lazy("Commands per second"), shown(found.get("ops_per_second"), "number")),
        ("hit_rate", gettext_lazy("Hit rate"), NOTHING if rate is None else f"{number_format(rate * 100, 1)} %"),
        ("keys", gettext_lazy("Keys in this database"), shown(found.get("keys"), "number")),
        ("process_id", gettext_lazy("Process id"), shown(found.get("process_id"), "text")),
    ]


def _limited(value: float | None, limit: float | None, kind: str) -> str:
    text = shown(value, kind)
    if limit:
        return f"{text} {_('of %(max)s') % {'max': shown(limit, kind)}}"
    return f"{text} {_('no limit')}" if limit == 0 and value is not None else text
