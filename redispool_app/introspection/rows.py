"""A bounded list for the status page, and what reads the fields of a reply."""

from __future__ import annotations

import re
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


def text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def lines(reply: Any) -> list[str]:
    """Return the lines of a reply that is one text, as those of INFO and CLIENT LIST are; none if it is not."""
    # RESP3 puts the format in front.
    return text(reply).removeprefix("txt:").splitlines() if isinstance(reply, bytes | str) else []


def pairs(line: str, separator: str) -> dict[str, str]:
    """Read ``name=value`` words."""
    return dict(word.partition("=")[::2] for word in line.split(separator))


def whole(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,20}", value) else None
