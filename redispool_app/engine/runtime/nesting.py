"""Whether a call is nested in another call of its own thread.

Signal handlers, finalizers, logging filters and other user code can run between any two lines of the engine, on the
same thread. What they ask of Redis must not wait for anything that their own thread holds or has yet to do. A call of
the engine that waits for others is marked like this, in which nothing can interrupt the store, ``try`` and ``del``::

    thread = get_ident()
    if thread in inside:
        ...  # nested: wait for no other call
    inside[thread] = self
    try:
        ...
    finally:
        del inside[thread]

That is cheap enough for each command on a shared connection. A dedicated connection is held by redis-py's code and by
users', which set no mark, and a handler can run at the very first step of a method that would set one. So a caller that
finds no connection free looks at the stack before it waits: ``waits_for_itself``.
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
"""By thread, what its outermost call on a shared connection is busy with."""

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
    """Mark all functions of these classes: none of them stands below a call that is not nested in it."""
    for each in classes:
        for found in vars(each).values():
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if (code := getattr(function, "__code__", None)) is not None:
                _inner.add(code)


def waits_for_itself(*, is_call: bool = True) -> bool:
    """Whether the function that asks serves a nested call: the call below cannot go on, and give back, before its end.

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
    # Only this thread runs here; it may itself be inside a call, which ends later.
    own = get_ident()
    for thread in list(inside):
        if thread != own:
            inside.pop(thread, None)


fork.register(_after_fork_in_child, first=True)
