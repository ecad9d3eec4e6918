"""The table of all workers that ``redis_health --all`` prints: once, repeatedly, or redrawn in place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redispool_app.workers.roster import Roster

__all__ = ["HEADINGS", "Screen", "fitted", "lines"]

HEADINGS = (
    "HOST", "PID", "ROLE", "VERSION", "STATE", "LOOPS", "CONNS", "IN FLIGHT", "OPS/S", "P50", "P99", "TIMEOUTS",
    "RECONNECTS", "SEEN", "LAST ERROR",
)  # fmt: skip
_STATE = HEADINGS.index("STATE")
_TO_THE_RIGHT = frozenset(range(HEADINGS.index("LOOPS"), HEADINGS.index("SEEN") + 1)) | {HEADINGS.index("PID")}
_NOTHING = "-"
_LONGEST_CELL = 60
_COLOUR = re.compile(r"\x1b\[[\d;]*m")

Paint = Callable[[str], str]


def _plain(text: str) -> str:
    return text


def lines(
    rosters: Iterable[tuple[str, Roster]],
    *,
    heading: Paint = _plain,
    good: Paint = _plain,
    bad: Paint = _plain,
) -> list[str]:
    """Return the lines of the table. For each alias: its workers, faults of the worker list, and differences.

    The other arguments colour a heading, a healthy state, and a fault.
    """
    pools = [(alias, roster, [_cells(worker) for worker in roster.workers]) for alias, roster in rosters]
    rows = [HEADINGS, *(row for _, _, cells in pools for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    found: list[str] = []
    for alias, roster, cells in pools:
        found.append(heading(f"{alias}: {_counted(len(cells))}"))
        found.append(heading(_joined(HEADINGS, widths)))
        for worker, row in zip(roster.workers, cells, strict=True):
            paint = good if worker["state"] == "healthy" and not worker["paused"] else bad
            found.append(_painted(_joined(row, widths), widths, paint))
        if roster.problem is not None:
            found.append(bad(f"  {roster.problem}"))
        found += [bad(f"  {text}") for text in roster.differences]
    return found


def _cells(worker: dict[str, Any]) -> tuple[str, ...]:
    in_use = worker["connections_in_use"]
    state = f"{worker['state']}, paused" if worker["paused"] else worker["state"]
    ops, error = worker["ops_per_second"], worker["last_error"]
    cells = (
        worker["host"],
        str(worker["pid"]),
        worker["role"],
        worker["version"],
        state,
        str(worker["loops"]),
        f"{worker['connections_open']}" + (f" ({in_use} lent)" if in_use else ""),
        str(worker["commands_in_flight"]),
        _NOTHING if ops is None else f"{ops:,.0f}" if ops >= 10 else f"{ops:.1f}",
        _milliseconds(worker["latency_p50_ms"]),
        _milliseconds(worker["latency_p99_ms"]),
        str(worker["timeouts_total"]),
        str(worker["reconnects_total"]),
        f"{worker['seen_seconds']:.1f} s ago",
        error or _NOTHING,
    )
    # Only the terminal's width cuts the last column.
    return (*(fitted(cell, _LONGEST_CELL) for cell in cells[:-1]), cells[-1])


def _milliseconds(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f} ms"


def _counted(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.rjust(width) if column in _TO_THE_RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _painted(line: str, widths: Sequence[int], paint: Paint) -> str:
    """Colour the state."""
    start = sum(widths[:_STATE]) + 2 * _STATE
    end = start + widths[_STATE]
    return line[:start] + paint(line[start:end]) + line[end:]


def fitted(line: str, width: int) -> str:
    """Cut a line to this many characters. Colour codes do not count."""
    if len(_COLOUR.sub("", line)) <= width:
        return line
    kept, left = "", max(0, width - 1)
    for piece in re.split(f"({_COLOUR.pattern})", line):
        if _COLOUR.fullmatch(piece):
            kept += piece
        else:
            kept, left = kept + piece[:left], max(0, left - len(piece))
    return f"{kept}…"


class Screen:
    """A terminal that is redrawn in place, line by line, without flicker. ``write`` takes raw text."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._begun = False

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the former ones, cut to the terminal's width and height."""
        size = shutil.get_terminal_size()
        room = max(1, size.lines - 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more lines"]
        # Cursor home. Then each line and the erasure of its old rest, then the erasure below. The first time all is
        # erased.
        start = "\x1b[H" if self._begun else "\x1b[2J\x1b[H"
        self._begun = True
        self._write(start + "".join(f"{fitted(line, size.columns)}\x1b[K\n" for line in lines) + "\x1b[J")
