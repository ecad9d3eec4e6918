"""A bounded list for the status page, and helpers that read fields of replies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Rows:
    """A bounded list, how many there are in all, and one line that says why there is none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "total": self.total, "problem": self.problem}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
