"""No deadline, back-off or interval follows the wall clock, which may jump: only what is shown to people does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import redispool_app

ROOT = Path(redispool_app.__file__).parent
SHOWN = {
    "engine/stats/histogram.py",
    "engine/health/history.py",
    "engine/stats/slow_log.py",
    "engine/runtime/process.py",
}
"""What people are told of the past: when it began, when it happened."""
_OF_TIME = {"time", "time_ns", "localtime", "gmtime", "ctime"}
_DATETIME = {"date", "datetime", "timezone"}
_OF_DATETIME = {"now", "utcnow", "today"}


def wall_clocks(source):
    """Return the lines that read the wall clock."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            lines |= {node.lineno} if {name.name for name in node.names} & _OF_TIME else set()
        elif isinstance(node, ast.Attribute):
            of_time = isinstance(node.value, ast.Name) and node.value.id == "time" and node.attr in _OF_TIME
            owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
            of_datetime = owner in _DATETIME and node.attr in _OF_DATETIME
            lines |= {node.lineno} if of_time or of_datetime else set()
    return sorted(lines)


@pytest.mark.parametrize("package", ["engine", "cache"])
def test_what_waits_reads_no_clock_that_may_jump(package):
    paths = sorted((ROOT / package).rglob("*.py"))
    found = {str(path.relative_to(ROOT)) for path in paths if wall_clocks(path.read_text())}
    assert paths
    assert found <= SHOWN


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from time import monotonic\nmonotonic()", []),
        ("import time\ntime.sleep(1)", []),
        ("from time import time\ntime()", [1]),
        ("import time\nuntil = time.time() + 1", [2]),
        ("def f(clock=time.time): ...", [1]),
        ("from datetime import datetime\n\ndatetime.now()", [3]),
        ("timezone.now()", [1]),
        ("import datetime\ndatetime.date.today()", [2]),
        ("self._health.now.blocked", []),
    ],
)
def test_every_way_to_read_it_is_found(source, found):
    assert wall_clocks(source) == found
