"""A daemon thread that exists only while it is needed: at most one, started by the first caller that needs it.

Starting it takes no lock, so a signal handler or finalizer that interrupts the start may ask for the thread, too. If
the start itself is interrupted, the thread and the next caller settle in one step which of them goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from . import threads
from .single_flight import Flight, SingleFlight

_THREAD, _NEITHER = "thread", "neither"


class Run(Flight[None]):
    """One life of the thread; ``is_over`` when it has ended or never began. ``stopped``: it is asked to end."""

    __slots__ = ("_owner", "abandoned", "stopped")

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = False
        self.stopped = False
        self._owner: dict[int, str] = {}

    @property
    def is_over(self) -> bool:
        # If its start was interrupted, the first to look settles whether the thread may still begin.
        return super().is_over or (self.abandoned and self._owner.setdefault(0, _NEITHER) is _NEITHER)

    def may_begin(self) -> bool:
        """Whether the thread, which has just begun, may go on; settled for good."""
        return self._owner.setdefault(0, _THREAD) is _THREAD


class Worker:
    """Runs ``work`` in a daemon thread when asked to, unless that thread is there already."""

    def __init__(self, name: str, work: Callable[[Run], None]) -> None:
        self._name = name
        self._work = work
        self._runs: SingleFlight[None] = SingleFlight()

    @property
    def latest(self) -> Flight[None]:
        """The last run, under way or over."""
        return self._runs.latest

    def ensure(self) -> bool:
        """Start the thread unless it runs; return False where no thread can be started."""
        if not self._runs.latest.is_over:
            return True
        own = Run()
        try:
            if self._runs.join(own) is own:
                threads.start(self._run, own, name=self._name)
        except BaseException as error:
            own.abandoned = True
            if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
                return False  # the interpreter is shutting down, or has no more threads, or uWSGI's master has none
            raise
        return True

    def stop(self) -> None:
        """Ask the thread to end. It is not awaited, and a new one may be started at once."""
        run = self._runs.latest
        if isinstance(run, Run):
            run.stopped = run.ended = True

    def _run(self, run: Run) -> None:
        try:
            if run.may_begin():
                self._work(run)
        finally:
            run.ended = True
