"""Which threads are inside the engine: a call that begins there is nested in another call of its own thread.

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
"""

from __future__ import annotations

from threading import get_ident
from typing import Any

from . import fork

inside: dict[int, Any] = {}
"""By thread, what its outermost call is busy with."""


def is_nested() -> bool:
    """Whether this thread is inside a call of the engine."""
    return get_ident() in inside


def _after_fork_in_child() -> None:
    # Only this thread runs here; it may itself be inside a call, which ends later.
    own = get_ident()
    for thread in list(inside):
        if thread != own:
            inside.pop(thread, None)


fork.register(_after_fork_in_child, first=True)
