"""Starts background threads, and knows where none may be started or relied on: under uWSGI.

uWSGI loads the application in its master, which then forks the workers in C. If another thread of the parent waits for
the GIL, a child of such a fork can hang in the interpreter: only Python's own fork hands the GIL on. So a module that
uses Redis while it loads starts no thread there.

In the workers, mules and spoolers threads start as usual. But without uWSGI's ``--enable-threads`` they run only during
a request: uWSGI keeps the GIL between requests. In general, a process cannot find out whether C code is going to fork
it. Under uWSGI it can.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["NoThreadHereError", "may_start", "run_freely", "start"]


_OFF = (b"false", b"off", b"no", b"0")
"""How an option of uWSGI is switched off."""


class NoThreadHereError(RuntimeError):
    """No thread may be started: this process is uWSGI's master. A ``RuntimeError``, as ``Thread.start`` raises."""


def may_start() -> bool:
    """Whether this process may start background threads: no C code is known that is going to fork it."""
    uwsgi = sys.modules.get("uwsgi")  # added by uWSGI before the application loads; not importable elsewhere
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return True
    if uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler():
        return True
    # A single process without a master serves where it has loaded. With a master there is a fork.
    return bool(uwsgi.masterpid() == 0 and uwsgi.numproc == 1)


def run_freely() -> bool:
    """Whether a background thread may be started, and also runs while this process waits for its next request."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return True
    given = uwsgi.opt  # True without a value, else bytes; strings as in the configuration file
    has_threads = given.get("enable-threads", b"no") not in _OFF or given.get("threads", b"1") not in (*_OFF, b"1")
    return has_threads and may_start()


LONGEST_START = 1.0
"""Seconds within which a thread must have begun. It may fail to begin: no memory, or an exception thrown into it."""


class _Begun(threading.Event):
    """The event that ``Thread.start`` waits for, here with a timeout.

    The standard one waits for ever if the thread fails.
    """

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(LONGEST_START if timeout is None else timeout) and timeout is None:
            raise RuntimeError("A thread has not begun in time: this process has too little memory, or is overloaded.")
        return True


class Thread(threading.Thread):
    """A thread whose start has a time limit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._started = _Begun()


def start(target: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Run ``target(*args)`` in a daemon thread. Return the thread.

    Raises ``NoThreadHereError`` in uWSGI's master. Raises ``RuntimeError`` at interpreter shutdown, if the system has
    no more threads, or if the thread has not begun within ``LONGEST_START``. In the last case it may still begin.
    """
    if not may_start():
        raise NoThreadHereError("No thread can be started in uWSGI's master, which forks its workers in C.")
    thread = Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
