"""What callers ask and see.

An operation is a SET of a key that nobody else writes, a GET of it, or an INCR in a ledger of the caller's own. Its
outcome is ``ok``, ``failed`` (the server cannot have carried it out) or ``unknown`` (it may have).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """What one caller asked and saw. Times are monotonic seconds; ``granted``: when it was handed a client."""

    caller: int
    kind: str
    key: str
    asked: float
    ended: float
    outcome: str
    granted: float | None = None
    value: Any = None
    """What a SET stored."""
    reply: Any = None
    error: str = ""
    """The class of the exception."""
    fault: str = ""
    """The kind of fault that the exception names."""
