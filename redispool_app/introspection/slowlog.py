"""Reads a SLOWLOG GET reply. Keys and values are left out."""

from __future__ import annotations

from typing import Any

from .rows import Rows, text

SLOWLOG_ROWS = 25


# The command and its subcommand are names; everything else of a SLOWLOG entry is keys and values.
_CONTAINERS = frozenset(
    "ACL CLIENT CLUSTER COMMAND CONFIG DEBUG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG "
    "XGROUP XINFO".split()
)


def slowlog_rows(entries: Any) -> Rows:
    """Read a SLOWLOG GET reply: when, how long, which command, how many arguments, who; never the arguments."""
    rows = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, list) or len(entry) < 4 or not isinstance(entry[3], list) or not entry[3]:
            continue
        words = [text(word) for word in entry[3][:2]]
        name = words[0].upper()
        if name in _CONTAINERS and len(words) > 1:
            name = f"{name} {words[1].upper()}"
        rows.append(
            {
                "at": entry[1],
                "duration_ms": entry[2] / 1000,
                "command": name[:64],
                "arguments": len(entry[3]) - 1,
                "client": text(entry[5] or entry[4]) if len(entry) > 5 else "",
            }
        )
    rows.sort(key=lambda row: row["duration_ms"], reverse=True)
    return Rows(rows=rows[:SLOWLOG_ROWS], total=len(rows))
