"""The thread that probes a server while it is down, so that recovery needs no traffic.

It lives from the first failure to the recovery, for all event loops and threads of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from redispool_app.engine.runtime import fork, threads
from redispool_app.engine.runtime.worker import Run, Worker


class Recovery:
    """Run ``probe`` after every ``delay()`` seconds, until ``delay`` returns None."""

    def __init__(self, name: str, delay: Callable[[], float | None], probe: Callable[[], None]) -> None:
        self._delay = delay
        self._probe = probe
        self._worker = Worker(name, self._run)
        # Not an event: ``put`` is one C call, which a signal handler cannot find half done.
        self._wake: SimpleQueue[None] = SimpleQueue()
        fork.register(self.after_fork_in_child)

    def start(self) -> None:
        """Start the thread, or wake it. Where no thread can run none is started, and callers probe."""
        if not threads.run_freely():
            return
        if self._wake.empty():
            self._wake.put(None)
        self._worker.ensure()

    def stop(self) -> None:
        """Ask the thread to end, without waiting. A running probe ends by its own timeout."""
        self._worker.stop()
        self._wake.put(None)

    @property
    def is_running(self) -> bool:
        """Whether the thread exists."""
        return not self._worker.latest.is_over

    def after_fork_in_child(self) -> None:
        """In a forked child the parent's thread does not run."""
        self._wake = SimpleQueue()

    def _run(self, run: Run) -> None:
        wake = self._wake
        while not run.stopped:
            with suppress(Empty):
                while True:
                    wake.get(False)
            delay = self._delay()
            if delay is None:
                # A failure reported from here on finds no thread. One reported before is seen here.
                run.ended = True
                if self._delay() is None:
                    return
                self.start()
                return
            if delay > 0:
                with suppress(Empty):
                    wake.get(True, delay)
            else:
                self._probe()
