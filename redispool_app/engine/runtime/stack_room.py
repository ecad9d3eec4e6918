"""Whether the stack has room to end what a caller is going to begin."""

from __future__ import annotations

_ROOM = 8
"""Calls below the one that asks: more than giving a connection back needs."""


def ensure_room(depth: int = _ROOM) -> None:
    """Raise ``RecursionError`` now, while nothing has begun, if the stack has no room for what ends it."""
    if depth:
        ensure_room(depth - 1)
