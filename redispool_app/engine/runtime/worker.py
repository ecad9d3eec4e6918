"""A daemon thread that exists only while it is needed: at most one, started by the first caller that needs it.

Starting it takes no lock. A signal handler or finalizer that interrupts the start may also ask for the thread. If the
start itself is interrupted, one step decides whether the thread or the next caller goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from . import threads
from .single_flight import Flight, SingleFlight

_THREAD, _NEITHER = "thread", "neither"


class Run(Flight[None]):
    """One life of the thread. ``is_over``: it has ended or never began. ``stopped``: it was asked to end."""

    __slots__ = ("_owner", "abandoned", "stopped")

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = False
        self.stopped = False
        self._owner: dict[int, str] = {}

    @property
    def is_over(self) -> bool:
        # If its start was interrupted, the first check decides whether the thread may still begin.
        return super().is_over or (self.abandoned and self._owner.setdefault(0, _NEITHER) is _NEITHER)

    def may_begin(self) -> bool:
        """Whether the thread, which has just begun, may go on. The decision is final."""
        return self._owner.setdefault(0, _THREAD) is _THREAD


class Worker:
    """Runs ``work`` in a daemon thread on request, unless that thread exists already."""

    def __init__(self, name: str, work: Callable[[Run], None]) -> None:
        self._name = name
        self._work = work
        self._runs: SingleFlight[None] = SingleFlight()

    @property
    def latest(self) -> Flight[None]:
        """The last run, in progress or over."""
        return self._runs.latest

    def ensure(self) -> bool:
        """Start the thread unless it runs. Return False if no thread can be started."""
        if not self._runs.latest.is_over:
            return True
        own = Run()
        try:
            if self._runs.join(own) is own:
                threads.start(self._run, own, name=self._name)
        except BaseException as error:
            own.abandoned = True
            if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
                return False  # interpreter shutdown, no more threads in the system, or uWSGI's master
            raise
        return True

    def stop(self) -> None:
        """Ask the thread to end, without waiting. A new one may be started at once."""
        run = self._runs.latest
        if isinstance(run, Run):
            run.stopped = run.ended = True

    def _run(self, run: Run) -> None:
        try:
            if run.may_begin():
                self._work(run)
        finally:
            run.ended = True
