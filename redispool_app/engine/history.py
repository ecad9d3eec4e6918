"""What has become of one server's health, change by change, for the timeline of whoever is on call. No I/O."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .faults import Fault
from .runtime import fork

LONGEST = 200
"""So many changes are remembered; the oldest makes way."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``at`` in Unix seconds, the state since then, its cause (None when nothing is wrong)."""

    at: float
    state: str
    fault: str | None
    fault_kind: str | None

    def as_dict(self) -> dict[str, Any]:
        return {"at": self.at, "state": self.state, "fault": self.fault, "fault_kind": self.fault_kind}


class History:
    """The last changes, oldest first. Safe for threads; ``add`` never waits for anything but another ``add``."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._start_anew()
        fork.register(self.after_fork_in_child)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=LONGEST)

    def add(self, state: str, fault: Fault | None) -> Change:
        """Remember a change that happens now, and return it."""
        with self._lock:
            change = Change(
                round(self._clock(), 3), state, fault.message if fault else None, str(fault.kind) if fault else None
            )
            self._changes.append(change)
            return change

    def as_list(self) -> list[dict[str, Any]]:
        """Return the changes, oldest first, JSON-ready."""
        with self._lock:
            changes = list(self._changes)
        return [change.as_dict() for change in changes]

    def after_fork_in_child(self) -> None:
        """In a forked child: what the parent saw is the parent's, and its lock may be held for ever."""
        self._start_anew()
