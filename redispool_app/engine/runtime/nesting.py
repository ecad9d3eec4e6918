"""Whether a call is nested in another call of the same thread.

Signal handlers, finalizers, logging filters and other user code can run between any two lines of the engine, on the
same thread. A Redis call in such code must not wait for anything that its own thread holds or has yet to do. A call of
the engine that waits for other callers is marked as follows. Nothing can interrupt the store, ``try`` and ``del``::

    thread = get_ident()
    if thread in inside:
        ...  # nested: wait for no other call
    inside[thread] = self
    try:
        ...
    finally:
        del inside[thread]

This is fast enough for each command on a shared connection. Code of redis-py and of users holds dedicated connections,
and sets no mark. A handler can also run at the very first step of a method that would set one. So a caller that finds
no free connection checks the stack before it waits: ``waits_for_itself``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from types import CodeType
from typing import Any, TypeVar

from . import fork

F = TypeVar("F", bound=Callable[..., Any])

inside: dict[int, Any] = {}
"""By thread, the connection of its outermost call on a shared connection."""

_entries: set[CodeType] = set()
_inner: set[CodeType] = set()


def is_nested() -> bool:
    """Whether this thread is inside a call on a shared connection."""
    return get_ident() in inside


def entry(function: F) -> F:
    """Mark a function that a caller enters once per call and that borrows a connection (a decorator)."""
    _entries.add(function.__code__)
    return function


def serve_calls(*classes: type[Any]) -> None:
    """Mark all functions of these classes: none of them is on the stack below a call that is not nested in it."""
    for each in classes:
        for found in vars(each).values():
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if (code := getattr(function, "__code__", None)) is not None:
                _inner.add(code)


def waits_for_itself(*, is_call: bool = True) -> bool:
    """Whether the calling function serves a nested call. The call below it cannot go on, and return its connection.

    ``is_call``: the function is itself part of a call that may have entered by a marked function.
    """
    if get_ident() in inside:
        return True
    entries, below = 0 if is_call else 1, sys._getframe(1).f_back
    while below is not None:
        code = below.f_code
        if code in _inner:
            return True
        if code in _entries:
            entries += 1
            if entries > 1:
                return True
        below = below.f_back
    return False


def _after_fork_in_child() -> None:
    # Only this thread runs here. It may itself be inside a call, which ends later.
    own = get_ident()
    for thread in list(inside):
        if thread != own:
            inside.pop(thread, None)


fork.register(_after_fork_in_child, first=True)
