"""What hiredis gives back, and how a caller that wants text gets it."""

from __future__ import annotations

from typing import Any

import hiredis

INCOMPLETE = object()
"""Stands for a reply that has not come in full."""

UNDECODED = frozenset((type(INCOMPLETE), hiredis.PushNotification, int, float, bool, type(None)))
"""Classes of what holds no text: ``INCOMPLETE``, pushes, numbers."""


def decoded(reply: Any, encoding: str, errors: str) -> Any:
    """Decode a reply as hiredis does: every string in it, however deep."""
    if isinstance(reply, bytes):
        return reply.decode(encoding, errors)
    if isinstance(reply, list):
        return [decoded(each, encoding, errors) for each in reply]
    if isinstance(reply, dict):
        return {decoded(key, encoding, errors): decoded(value, encoding, errors) for key, value in reply.items()}
    if isinstance(reply, set | frozenset | tuple):
        return type(reply)(decoded(each, encoding, errors) for each in reply)
    return reply
