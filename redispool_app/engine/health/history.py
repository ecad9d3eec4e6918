"""The changes of one server's health, for the timeline on the status page. No I/O.

A timeline is an immutable tuple, so a caller that reads one needs no lock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .faults import Fault

LONGEST = 200
"""Maximum number of changes that are kept. The oldest one is dropped."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``at`` in Unix seconds, the state since then, and its cause (None if nothing is wrong)."""

    at: float
    state: str
    fault: str | None
    fault_kind: str | None

    def as_dict(self) -> dict[str, Any]:
        return {"at": self.at, "state": self.state, "fault": self.fault, "fault_kind": self.fault_kind}


History = tuple[Change, ...]
"""The last changes, oldest first."""


def with_change(history: History, state: str, fault: Fault | None) -> History:
    """Return the timeline with one more change, which happens now."""
    change = Change(round(time.time(), 3), state, fault.message if fault else None, str(fault.kind) if fault else None)
    return (*history[1 - LONGEST :], change)
