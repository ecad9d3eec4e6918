"""One daemon thread that closes idle connections for all thread pools of a process.

It is started when a pool has an idle connection, sleeps until the first one is due, and ends when none is idle. Pools
are referenced weakly. There is no lock: a finalizer or a signal handler may return a connection at any point.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any, Protocol

from . import fork, threads
from .wait_queue import ThreadWaiter

_SHORTEST = 0.01
"""Minimum seconds between two checks of the thread."""

_THREAD = 0


class Pool(Protocol):
    """A pool that the thread watches."""

    def close_idle(self) -> float | None:
        """Close what is due. Return the seconds until the next one is due; None if none is idle."""


_pools: dict[int, weakref.ref[Any]] = {}
_running: dict[int, ThreadWaiter] = {}
"""Wakes the thread. At most one entry, so that one call decides which thread it is."""


def watch(pool: Pool) -> None:
    """Watch a pool that has an idle connection, until it has none."""
    key = id(pool)
    known = _pools.get(key)
    if known is None or known() is not pool:
        _pools[key] = weakref.ref(pool)
        if (waiter := _running.get(_THREAD)) is not None:
            waiter.wake()
    if _THREAD not in _running:
        _start()


def forget(pool: Pool) -> None:
    """Stop watching a pool: it is closed."""
    _pools.pop(id(pool), None)
    if (waiter := _running.get(_THREAD)) is not None:
        waiter.wake()


def _start() -> None:
    waiter = ThreadWaiter()
    if _running.setdefault(_THREAD, waiter) is not waiter:
        return
    try:
        threads.start(_run, waiter, name="redispool-idle")
    except RuntimeError:  # no thread can be started; the next returned connection tries again
        _running.pop(_THREAD, None)
    except BaseException:
        _running.pop(_THREAD, None)
        raise


def _run(waiter: ThreadWaiter) -> None:
    try:
        while _running.setdefault(_THREAD, waiter) is waiter:
            seconds = _close_idle()
            if seconds is not None:
                waiter.wait(max(_SHORTEST, seconds))
                continue
            _running.pop(_THREAD, None)
            if not _pools:  # a pool added since the check has found this thread, or has started another
                return
    finally:
        if _running.get(_THREAD) is waiter:
            _running.pop(_THREAD, None)


def _close_idle() -> float | None:
    """Let each pool close what is due. Return the seconds until the next one is due; None if none is idle."""
    due: list[float] = []
    for key, reference in list(_pools.items()):
        # Removed before the check, so that a connection returned meanwhile adds its pool again.
        _pools.pop(key, None)
        pool = reference()
        seconds = None
        if pool is not None:
            with suppress(Exception):
                seconds = pool.close_idle()
        if seconds is not None:
            _pools[key] = reference
            due.append(seconds)
    return min(due, default=None)


def _after_fork_in_child() -> None:
    # The thread does not run here, and the idle connections belong to the parent.
    _pools.clear()
    _running.clear()


fork.register(_after_fork_in_child)
