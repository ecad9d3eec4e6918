"""What became of every write, counted in the same way for every client, also for one that promises less than ours.

A caller's exception settles nothing by itself here: what was denied may have been done, and what was retried may have
been done twice. Each key is set once, and each ledger is counted up by one caller alone, so the server's books tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .operations import OK, UNKNOWN, Operation


@dataclass
class Books:
    """What the operations of a run add up to."""

    wrong_replies: int = 0
    """Replies that nobody can have meant for this caller."""
    writes_lost: int = 0
    """Acknowledged and not done."""
    writes_twice: int = 0
    """Increments beyond all that were asked for; at least so many, as one that was denied and not done hides one."""
    writes_denied_yet_done: int = 0
    """Done although their callers got an exception that does not leave it open."""


@dataclass
class _Ledger:
    """What one caller counts."""

    count: int = 0
    """The last that is known for certain."""
    unknown: int = 0
    failed: int = 0
    """Increments that may still turn out to have been done."""

    def advance(self, count: int, asked: int, books: Books) -> None:
        """Take note of a count that ``asked`` more increments explain."""
        surplus = count - self.count - asked
        self.count = count
        if surplus < 0:
            books.writes_lost -= surplus
            return
        settled = min(surplus, self.unknown)
        self.unknown -= settled
        denied = min(surplus - settled, self.failed)
        self.failed -= denied
        books.writes_denied_yet_done += denied
        books.writes_twice += surplus - settled - denied


def settle(operations: Iterable[Operation], final: Mapping[str, Any]) -> Books:
    """Compare what every caller saw with what the server holds at the end."""
    books = Books()
    ledgers: dict[str, _Ledger] = {}
    stored: dict[str, Operation] = {}
    missed: set[str] = set()
    for each in sorted(operations, key=lambda each: each.ended):
        if each.kind == "set":
            stored[each.key] = each
        elif each.kind == "get" and each.outcome == OK:
            _check_read(each, stored.get(each.key), missed, books)
        elif each.kind == "incr":
            ledger = ledgers.setdefault(each.key, _Ledger())
            if each.outcome == OK:
                ledger.advance(each.reply, 1, books)
            elif each.outcome == UNKNOWN:
                ledger.unknown += 1
            else:
                ledger.failed += 1
    for key, ledger in ledgers.items():
        ledger.advance(int(final.get(key) or 0), 0, books)
    for key, write in stored.items():
        held = final.get(key)
        if write.outcome == OK and held != write.value:
            missed.add(key)
        elif write.outcome not in (OK, UNKNOWN) and held == write.value:
            books.writes_denied_yet_done += 1
    books.writes_lost += len(missed)
    return books


def _check_read(read: Operation, write: Operation | None, missed: set[str], books: Books) -> None:
    if read.reply is None:
        if write is not None and write.outcome == OK:
            missed.add(read.key)
    elif write is None or read.reply != write.value:
        books.wrong_replies += 1


def longest_wait(operations: Iterable[Operation], struck: float) -> float:
    """Return the longest anybody waited (seconds) who had no answer yet when the fault struck, or asked later."""
    return max((each.ended - each.asked for each in operations if each.ended >= struck), default=0.0)


def first_back(operations: Iterable[Operation], healed: float) -> float | None:
    """Return the seconds from the server's return to the first success of somebody who asked after it."""
    return min(
        (each.ended - healed for each in operations if each.outcome == OK and each.asked >= healed), default=None
    )


def all_back(operations: Iterable[Operation], healed: float, callers: int) -> float | None:
    """Return the seconds until the last caller has been served again; ``None`` if somebody never was."""
    back: dict[int, float] = {}
    for each in operations:
        if each.outcome == OK and each.ended >= healed:
            back[each.caller] = min(each.ended - healed, back.get(each.caller, float("inf")))
    return max(back.values(), default=0.0) if len(back) == callers else None


def opened(attempts: Sequence[float], struck: float) -> tuple[int, int]:
    """Return how many connections were tried before a fault struck, and how many since."""
    before = sum(time < struck for time in attempts)
    return before, len(attempts) - before
