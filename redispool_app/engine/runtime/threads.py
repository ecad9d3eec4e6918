"""The one place that starts background threads, and knows where none may be started or relied on: under uWSGI.

uWSGI loads the application in its master, which then forks the workers in C. A child of such a fork can hang in the
interpreter if another thread of the parent waited for the GIL: only a fork that Python makes hands the GIL on. So a
module that uses Redis while it loads starts no thread there. In the workers, mules and spoolers threads start as usual;
but without uWSGI's ``--enable-threads`` they run only while a request does: uWSGI keeps the GIL between requests.

A process cannot be asked in general whether C code is going to fork it; uWSGI's can.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["NoThreadHereError", "may_start", "run_freely", "start"]


_OFF = (b"false", b"off", b"no", b"0")
"""How an option of uWSGI's is switched off."""


class NoThreadHereError(RuntimeError):
    """No thread may be started: this process is uWSGI's master. A ``RuntimeError``, as ``Thread.start`` raises."""


def may_start() -> bool:
    """Whether this process may start background threads: no C code is known that is going to fork it."""
    uwsgi = sys.modules.get("uwsgi")  # put there by uWSGI before the application loads; not to be imported elsewhere
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return True
    if uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler():
        return True
    # One process without a master serves where it has loaded. Where there is a master, there is a fork.
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
"""Seconds within which a thread must have begun: one without memory, or into which an exception is thrown, may not."""


class _Begun(threading.Event):
    """What ``Thread.start`` waits for, for ever where the thread ends in its first steps: here with a time-out."""

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(LONGEST_START if timeout is None else timeout) and timeout is None:
            raise RuntimeError("A thread has not begun in time: this process has too little memory, or is overloaded.")
        return True


class Thread(threading.Thread):
    """A thread whose starter does not wait for it for ever."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._started = _Begun()


def start(target: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Run ``target(*args)`` in a daemon thread; return the thread.

    Raises ``NoThreadHereError`` in uWSGI's master, and ``RuntimeError`` where the interpreter shuts down, the system
    has no more threads, or the thread has not begun within ``LONGEST_START``. In the last case it may still begin.
    """
    if not may_start():
        raise NoThreadHereError("No thread can be started in uWSGI's master, which forks its workers in C.")
    thread = Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
