"""The numbers of the comparison with peers: one row for each client under each fault, as a table and for the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from .tables import aligned

rows: list[dict[str, Any]] = []

_KEPT = (
    "callers", "operations", "failed", "unknown", "wrong_replies", "writes_lost", "writes_twice",
    "writes_denied_yet_done", "worst_wait_ms", "worst_lag_ms", "cut_after_s", "fail_fast_p99_us", "first_back_ms",
    "all_back_ms", "connections_before", "connections_since", "attempts_per_second", "named",
)  # fmt: skip

COLUMNS = {
    "worst_wait_ms": "worst wait s",
    "failed": "failed",
    "unknown": "unknown",
    "wrong_replies": "wrong",
    "writes_lost": "lost",
    "writes_twice": "twice",
    "writes_denied_yet_done": "denied yet done",
    "first_back_ms": "first back s",
    "all_back_ms": "all back s",
    "connections_before": "connections",
    "connections_since": "then opened",
}


def record(fault: str, hold: float, subject: str, numbers: dict[str, Any]) -> None:
    """Keep what one client went through while a fault lasted for ``hold`` seconds."""
    kept = {name: numbers[name] for name in _KEPT if name in numbers}
    rows.append({"fault": fault, "hold_s": hold, "subject": subject, **kept})


def cells(row: dict[str, Any]) -> list[str]:
    """Return what a row says under each of ``COLUMNS``."""
    shown = {name: _cell(name, row.get(name)) for name in COLUMNS}
    if "cut_after_s" in row:
        shown["worst_wait_ms"] = f"> {row['cut_after_s']:.0f}"
    if row["all_back_ms"] is None:
        shown["all_back_ms"] = "not all"
    return list(shown.values())


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.2f}" if name.endswith("_ms") else str(value)


def table() -> Iterator[str]:
    """Yield the lines of the table; none when nothing was compared."""
    if rows:
        lines = [[f"{row['fault']} ({row['hold_s']:g} s)", row["subject"], *cells(row)] for row in rows]
        yield from aligned([["fault", "client", *COLUMNS.values()], *lines], left=2)


def section() -> dict[str, Any] | None:
    """Return what the JSON says, if anything was compared."""
    if not rows:
        return None
    return {"versions": {name: version(name) for name in ("redis", "django", "django-redis")}, "rows": rows}
