"""Whether the stack has room to finish what a caller is about to begin."""

from __future__ import annotations

_ROOM = 8
"""Number of nested calls that must fit: more than returning a connection needs."""


def ensure_room(depth: int = _ROOM) -> None:
    """Raise ``RecursionError`` now, before anything begins, if the stack has too little room to finish it."""
    if depth:
        ensure_room(depth - 1)
