"""The thread that probes a server while it is down, so that recovery needs no traffic.

It lives from the first failure to the recovery, serves every event loop and thread of the process alike, and
is not there otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Recovery:
    """Run ``probe`` after each ``delay()`` seconds until ``delay`` returns None."""

    def __init__(self, name: str, delay: Callable[[], float | None], probe: Callable[[], None]) -> None:
        self._name = name
        self._delay = delay
        self._probe = probe
        self.forget_inherited()

    def start(self) -> None:
        """Start the thread unless it runs. An interpreter that is shutting down has nothing to recover for."""
        with self._lock:
            if self._thread is not None:
                return
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None

    def stop(self) -> None:
        """Ask the thread to end. It is not awaited: a probe under way ends by its own timeout."""
        with self._lock:
            self._stop.set()
            self._thread = None

    def forget_inherited(self) -> None:
        """In a forked child the parent's thread does not run and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _run(self, stop: threading.Event) -> None:
        while True:
            delay = self._delay()
            if delay is None:
                # Leaving is decided under the lock, so a failure reported now finds either
                # a thread that will look again or none.
                with self._lock:
                    delay = self._delay()
                    if delay is None:
                        if self._stop is stop:
                            self._thread = None
                        return
            if stop.wait(delay):
                return
            self._probe()
