"""Many threads at once: started together, waited for with patience, and shown where they stand if they hang."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

HANGS = 15.0
"""No thread of these tests may take this long (seconds); every deadline in them is far shorter."""


class Caller(threading.Thread):
    """A thread that keeps what its function returned or raised, whatever that was."""

    def __init__(self, function: Callable[[], Any], name: str | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self._function = function
        self.outcome: Any = None

    def run(self) -> None:
        try:
            self.outcome = self._function()
        except BaseException as error:
            self.outcome = error

    def ended(self, within: float = HANGS) -> Any:
        """Wait for the thread's end; return what came of it."""
        joined([self], within)
        return self.outcome


def joined(threads: Iterable[threading.Thread], within: float = HANGS, after: object = "") -> None:
    """Wait for threads to end; fail with the stacks of those that do not, and with what they hang ``after``."""
    until = monotonic() + within
    threads = list(threads)
    for thread in threads:
        thread.join(max(0.0, until - monotonic()))
    hanging = [thread for thread in threads if thread.is_alive()]
    if hanging:
        frames = sys._current_frames()
        stacks = ["".join(traceback.format_stack(frames[each.ident])) for each in hanging if each.ident in frames]
        raise AssertionError(f"{len(hanging)} threads hang {after and 'after '}{after}:\n\n" + "\n".join(stacks[:5]))


def started(functions: Iterable[Callable[[], Any]]) -> list[Caller]:
    """Start a thread for each function, all let go at the same moment."""
    functions = list(functions)
    barrier = threading.Barrier(len(functions))

    def after_all(function: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            barrier.wait(HANGS)
            return function()

        return run

    callers = [Caller(after_all(function), name=f"caller-{number}") for number, function in enumerate(functions)]
    for caller in callers:
        caller.start()
    return callers


def at_once(functions: Iterable[Callable[[], Any]], within: float = HANGS) -> list[Any]:
    """Run each function in a thread of its own, all at once; return what each returned or raised."""
    callers = started(functions)
    joined(callers, within)
    return [caller.outcome for caller in callers]


def value_of(outcome: Any) -> Any:
    """Return what a thread returned; raise what it raised."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@contextlib.contextmanager
def working(functions: Iterable[Callable[[], Any]]) -> Iterator[list[Caller]]:
    """Call each function again and again in a thread of its own during the block; raise what any of them raised."""
    ended = threading.Event()

    def again_and_again(function: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            while not ended.is_set():
                function()

        return run

    callers = started(map(again_and_again, functions))
    try:
        yield callers
    finally:
        ended.set()
        joined(callers)
    for caller in callers:
        value_of(caller.outcome)
