"""What the call stack tells: whether a call is nested in another one of ours, and whether there is room to end it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_inside: set[CodeType] = set()
_entries: set[CodeType] = set()

_ROOM = 8
"""Calls below the one that asks: more than giving a connection back needs."""


def entry(function: F) -> F:
    """Mark a function that a caller enters once per call and that borrows a connection (a decorator)."""
    _entries.add(function.__code__)
    return function


def inside(*classes: type[Any]) -> None:
    """Mark all functions of these classes: none of them stands below a call that is not nested in it."""
    for each in classes:
        for found in vars(each).values():
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if (code := getattr(function, "__code__", None)) is not None:
                _inside.add(code)


def is_nested(*, is_call: bool = True) -> bool:
    """Whether the function that asks was called from within another call of ours on the same thread.

    A signal handler, a finalizer or a hook has made its call then, and the one below cannot go on before it returns.
    ``is_call``: the function is itself part of a call that may have entered by a marked function.
    """
    entries, below = 0 if is_call else 1, sys._getframe(1).f_back
    while below is not None:
        code = below.f_code
        if code in _inside:
            return True
        if code in _entries:
            entries += 1
            if entries > 1:
                return True
        below = below.f_back
    return False


def ensure_room(depth: int = _ROOM) -> None:
    """Raise ``RecursionError`` now, while nothing has begun, if the stack has no room for what ends it."""
    if depth:
        ensure_room(depth - 1)
