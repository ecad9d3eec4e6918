"""One daemon thread that closes idle connections for all pools of threads in a process.

It is started when a pool has an idle connection, sleeps until the first one is due, and ends when none is idle. A pool
is held weakly. There is no lock: a finalizer or a signal handler may give a connection back at any point.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any, Protocol

from . import fork, threads
from .wait_queue import ThreadWaiter

_SHORTEST = 0.01
"""The thread looks at most once in so many seconds."""

_THREAD = 0


class Pool(Protocol):
    """What the thread looks after."""

    def close_idle(self) -> float | None:
        """Close what is due; return the seconds until the next is, None when nothing is idle."""


_pools: dict[int, weakref.ref[Any]] = {}
_running: dict[int, ThreadWaiter] = {}
"""What wakes the thread; at most one entry, so that one call settles which thread it is."""


def watch(pool: Pool) -> None:
    """Look after a pool that has an idle connection, until it has none."""
    key = id(pool)
    known = _pools.get(key)
    if known is None or known() is not pool:
        _pools[key] = weakref.ref(pool)
        if (waiter := _running.get(_THREAD)) is not None:
            waiter.wake()
    if _THREAD not in _running:
        _start()


def forget(pool: Pool) -> None:
    """Do not look after a pool any more: it is closed."""
    _pools.pop(id(pool), None)
    if (waiter := _running.get(_THREAD)) is not None:
        waiter.wake()


def _start() -> None:
    waiter = ThreadWaiter()
    if _running.setdefault(_THREAD, waiter) is not waiter:
        return
    try:
        threads.start(_run, waiter, name="redispool-idle")
    except RuntimeError:  # no thread can be started; the next connection that is given back tries again
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
            if not _pools:  # what came since the look has found this thread, or has started another
                return
    finally:
        if _running.get(_THREAD) is waiter:
            _running.pop(_THREAD, None)


def _close_idle() -> float | None:
    """Let each pool close what is due; return the seconds until the next is, None when nothing is idle."""
    due: list[float] = []
    for key, reference in list(_pools.items()):
        # Taken out before the look, so that a connection that is given back meanwhile puts its pool in again.
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
    # The thread does not run here, and the idle connections are the parent's.
    _pools.clear()
    _running.clear()


fork.register(_after_fork_in_child)
