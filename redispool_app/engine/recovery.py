"""The thread that probes a server while it is down, so that recovery needs no traffic.

It lives from the first failure to the recovery, serves every event loop and thread of the process alike, and
is not there otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from .runtime import fork


class Recovery:
    """Run ``probe`` whenever ``delay()`` seconds have passed, until ``delay`` returns None."""

    def __init__(self, name: str, delay: Callable[[], float | None], probe: Callable[[], None]) -> None:
        self._name = name
        self._delay = delay
        self._probe = probe
        self._lock = threading.Lock()
        self._wake: threading.Event | None = None
        fork.register(self.after_fork_in_child)

    def start(self) -> None:
        """Start the thread, or let it look again. A shutting-down interpreter has nothing to recover for."""
        with self._lock:
            if self._wake is not None:
                self._wake.set()
                return
            wake = threading.Event()
            thread = threading.Thread(target=self._run, args=(wake,), name=self._name, daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._wake = wake

    def stop(self) -> None:
        """Ask the thread to end. It is not awaited: a probe under way ends by its own timeout."""
        with self._lock:
            wake, self._wake = self._wake, None
        if wake is not None:
            wake.set()

    def after_fork_in_child(self) -> None:
        """In a forked child the parent's thread does not run and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._wake = None

    def _run(self, wake: threading.Event) -> None:
        while True:
            wake.clear()
            # Leaving is decided under the lock, so a failure reported now finds either
            # a thread that will look again or none.
            with self._lock:
                delay = self._delay() if self._wake is wake else None
                if delay is None:
                    if self._wake is wake:
                        self._wake = None
                    return
            if delay > 0:
                wake.wait(delay)
            else:
                self._probe()
