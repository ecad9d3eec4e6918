"""Writes what ``make faults`` measured into docs/faults.md, between its markers: ``python -m tests.lab.document``."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import comparison, stalled
from .tables import markdown

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "faults.md"
RESULTS = ROOT / "tests" / "faults" / "results.json"

Results = dict[str, Any]

_VARIANT = re.compile(r" \((?:redis|tls|unix|RESP3)(?:, (?:redis|tls|unix|RESP3))*\)$")
"""What a fault's name says of where it was played."""

_MEASURED = {
    "worst_wait_ms": "longest wait, ms",
    "fail_fast_p99_us": "then fails within, µs",
    "recovered_ms": "back after, ms",
    "attempts_per_second": "connects/s",
    "failed": "failed",
    "unknown": "unknown",
}
_BROKEN = {"wrong_replies": "wrong", "writes_lost": "lost", "writes_twice": "twice"}
_TOLD = {
    "wrong_replies": "Wrong replies",
    "writes_lost": "Acknowledged writes lost",
    "writes_twice": "Increments executed twice",
    "writes_denied_yet_done": "Writes denied yet done",
    "unknown": "Calls with an outcome reported as unknown",
}
_SUMMED = {"failed", "unknown", *_BROKEN}


def render(page: str, results: Results) -> str:
    """Return the page with what the results say between its markers."""
    for name, block in _BLOCKS.items():
        start, end = f"<!-- {name}: from results.json -->", f"<!-- {name}: end -->"
        head, _, rest = page.partition(start)
        _, found, tail = rest.partition(end)
        assert found, f"the page has no place for {name}"
        page = f"{head}{start}\n{chr(10).join(block(results))}\n{end}{tail}"
    return page


def _totals(results: Results) -> Iterator[str]:
    rows, machine, versions = results["rows"], results["machine"], results["versions"]
    faults = {_VARIANT.sub("", row["fault"]) for row in rows}
    sums = {name: f"{sum(row.get(name) or 0 for row in rows):,}" for name in ("operations", *sorted(_SUMMED))}
    yield (
        f"{len(rows)} scenarios of {len(faults)} faults, {sums['operations']} operations: {sums['wrong_replies']} wrong"
        f" replies, {sums['writes_lost']} acknowledged writes lost, {sums['writes_twice']} executed twice."
    )
    yield (
        f"{sums['failed']} failed, and {sums['unknown']} had an unknown outcome."
        f" Scenarios that violated a guarantee: {_broken(rows)}."
    )
    yield (
        f"Measured on {machine['system']}, {machine['cores']} cores, Python {machine['python']},"
        f" Django {versions['django']}, redis-py {versions['redis']}."
    )


def _faults(results: Results) -> Iterator[str]:
    played: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results["rows"]:
        played[_VARIANT.sub("", row["fault"])].append(row)
    columns = {**_MEASURED, **_BROKEN}
    lines = [
        [name, str(len(rows)), str(_broken(rows)), *(_over(rows, column) for column in columns)]
        for name, rows in played.items()
    ]
    yield from markdown([["fault", "scenarios", "broken", *columns.values()], *lines], left=1)


def _broken(rows: list[dict[str, Any]]) -> int:
    """Return how many scenarios violated a guarantee."""
    return sum(row["verdict"] != "survived" for row in rows)


def _over(rows: list[dict[str, Any]], column: str) -> str:
    """Return the worst of a column, or its sum."""
    values = [row[column] for row in rows if row.get(column) is not None]
    if not values:
        return "-"
    return f"{sum(values) if column in _SUMMED else max(values):,.0f}"


def _compared(results: Results) -> Iterator[str]:
    compared = results["comparison"]
    lines, before = [], ""
    for row in compared["rows"]:
        fault = f"{row['fault']} ({row['hold_s']:g} s)"
        lines.append(["" if fault == before else fault, row["subject"], *comparison.cells(row)])
        before = fault
    yield from markdown([["fault", "client", *comparison.COLUMNS.values()], *lines], left=2)
    yield ""
    for name, told in _TOLD.items():
        clients = dict.fromkeys(row["subject"] for row in compared["rows"] if row[name])
        yield f"* {told}: {', '.join(clients) or 'none'}."
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in compared["versions"].items()) + "."


def _stalled(results: Results) -> Iterator[str]:
    measured = results["stalled"]
    lines, before = [], ""
    for row in measured["rows"]:
        lines.append(["" if row["stall"] == before else row["stall"], row["subject"], *stalled.cells(row)])
        before = row["stall"]
    yield from markdown([["stalled by", "client", *stalled.COLUMNS.values()], *lines], left=2)
    yield ""
    yield f"Versions: redis {measured['versions']['redis']}."


_BLOCKS = {"totals": _totals, "faults": _faults, "comparison": _compared, "stalled": _stalled}


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(), json.loads(RESULTS.read_text())))
