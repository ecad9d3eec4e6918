"""The registry of fork hooks: all state that a forked child must renew registers its hook here.

Python runs ``os.register_at_fork`` hooks only if Python itself forks. uWSGI, C extensions and ``ctypes`` fork without
it. So each process also has a mark that a fork clears: a page of memory that the kernel wipes in the child
(``MADV_WIPEONFORK``, Linux 4.14 and later). Code that is about to use inherited state checks the mark first, once per
batch or exchange::

    if not mark[0]:
        renew()

A process id would not be enough: it can be reused, and reading it takes six times as long. Where the kernel has no such
page, the mark compares process ids.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from types import MethodType
from typing import Any

__all__ = ["generation", "mark", "register", "renew", "renew_lock", "use_running_loop"]

_WIPE_ON_FORK = 18
"""``MADV_WIPEONFORK``, which the ``mmap`` module does not define."""

_STALE_LOOP = (
    "This event loop was made before the process was forked and cannot go on in the child: "
    "create a new one there, as asyncio.run() does."
)

Hook = Callable[[], None]


class _ProcessIdMark:
    """The mark where no page can be wiped: true in the process that set it, by its process id."""

    def __init__(self) -> None:
        self._pid: int | None = None

    def __getitem__(self, index: int) -> bool:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid() if value else None


def _make_mark() -> mmap.mmap | _ProcessIdMark:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (AttributeError, OSError, ValueError):
        return _ProcessIdMark()
    return page


mark = _make_mark()
"""``mark[0]`` is false in a forked child whose hooks have not all run yet. One check takes 20 ns."""

mark[0] = 1

generation = 0
"""Number of renewals between this process and the one that first imported this module."""

_renewed_in: int | None = None
"""The process id of the last renewal."""

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
"""The event loops that have used connections of this process."""


def _no_loop() -> None:
    return None


_latest: Callable[[], asyncio.AbstractEventLoop | None] = _no_loop
"""Returns the loop that was added to these last."""

_stale_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
"""Event loops of a process that forked without Python's knowledge: they share one epoll with the parent's."""

_first: dict[int, Callable[[], Hook | None]] = {}
_others: dict[int, Callable[[], Hook | None]] = {}
"""The hooks, in the order of registration. Each value returns its hook, or None once the hook's owner is gone."""

_numbers = count()
_renewals: dict[int, Any] = {}
"""The lock of the renewal in progress, by process id. A thread that does not run here could hold an inherited lock."""


def register(hook: Hook, *, first: bool = False) -> None:
    """Run ``hook`` in each forked child, before any inherited state is used there.

    Hooks run in the order of registration; those with ``first`` run before all others. A bound method does not keep its
    object alive. A hook must not log, wait or do I/O on a socket. It may run twice, because it runs again after an
    interrupted renewal.
    """
    hooks, number = _first if first else _others, next(_numbers)
    if isinstance(hook, MethodType):
        # ``dict.pop(number, reference)``: a call from C, which nothing can interrupt.
        hooks[number] = weakref.WeakMethod(hook, partial(hooks.pop, number))
    else:
        hooks[number] = lambda: hook


def renew_lock(owner: Any, name: str = "_lock") -> None:
    """Give ``owner`` a new lock as its attribute ``name``, now and in each forked child.

    A thread that does not run in the child may hold an inherited lock.
    """
    reference = weakref.ref(owner, partial(_others.pop, number := next(_numbers)))

    def hook() -> None:
        if (found := reference()) is not None:
            setattr(found, name, threading.Lock())

    hook()
    _others[number] = lambda: hook


def renew(*, heard: bool = False) -> None:
    """Run all hooks, unless that has been done in this process. Other threads wait for the end.

    ``heard``: Python made the fork, and has informed asyncio. Raises what a hook raises; the next check begins again.
    If a signal handler or finalizer interrupts the renewal and checks the mark, it completes the renewal. The
    interrupted one then stops.
    """
    global generation, _renewed_in
    with _renewals.setdefault(os.getpid(), threading.RLock()):
        for hooks in (_first, _others):
            for find in list(hooks.values()):
                if mark[0]:
                    return
                if (hook := find()) is not None:
                    hook()
        if not heard:
            _refuse_inherited_loops()
        generation, _renewed_in = generation + 1, os.getpid()
        mark[0] = 1
        # No other lock is needed from here on, and a later process may have this one's number.
        _renewals.clear()


def use_running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, which is going to use connections of this process.

    Raises ``RuntimeError`` if none runs, and for one that existed before a fork that Python did not make.
    """
    global _latest
    if not mark[0]:
        renew()
    loop = asyncio._get_running_loop()
    if loop is None:
        # Python 3.11 detects by the process id that the running loop belongs to the parent.
        raise RuntimeError(_STALE_LOOP if len(_stale_loops) else "no running event loop")
    if loop is _latest():
        return loop
    if loop in _stale_loops:
        raise RuntimeError(_STALE_LOOP)
    _loops.add(loop)
    _latest = weakref.ref(loop)
    return loop


def _refuse_inherited_loops() -> None:
    global _latest
    _latest = _no_loop
    _stale_loops.update(_loops)
    _loops.clear()
    if asyncio._get_running_loop() in _stale_loops:
        asyncio._set_running_loop(None)  # as Python does after its own forks


def _after_fork_in_child() -> None:
    if _renewed_in != os.getpid():
        # Independent of the page: an emulator may accept the advice and ignore it.
        mark[0] = 0
    renew(heard=True)


os.register_at_fork(after_in_child=_after_fork_in_child)
