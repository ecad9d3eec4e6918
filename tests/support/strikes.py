"""Strikes the package's own functions, wherever they live, at each point where user code can run between two of their
steps: with an exception, or with a nested call.

The targets are found by scanning the package for the classes that are named, so that a moved file stays struck. A point
is where CPython runs a signal handler or delivers an exception from outside (see ``interrupts``); for a nested call
also where it may collect garbage and run a finalizer: before a step that makes a container or calls something.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import redispool_app.engine

from .interrupts import _bytes_of, _is_finaliser, _looks_outside, begin_tracing, end_tracing


class SoftTimeLimitError(Exception):
    """What a task queue raises from a signal handler in a task that takes too long."""


KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, RecursionError, MemoryError, SoftTimeLimitError)

_MAKES_CONTAINERS = ("BUILD_", "CALL", "MAKE_FUNCTION", "LIST_", "GET_ITER", "MAP_ADD", "SET_", "DICT_")


@cache
def _files() -> dict[str, str]:
    """Return the file that defines each class of the engine, by the name of the class."""
    found = {}
    package = redispool_app.engine
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found[name] = inspect.getsourcefile(module) or ""
    return found


class StruckAt:
    """Calls ``function`` and runs ``act`` at the point numbered ``victim`` (from 1; 0 only counts)."""

    def __init__(
        self, victim: int, function: Callable[[], Any], act: Callable[[], Any], classes: tuple[str, ...], nested: bool
    ) -> None:
        self.victim = victim
        self.count = 0
        self.where = ""
        self._function = function
        self._act = act
        self._targets = {_files()[name] for name in classes}
        self._nested = nested
        self._last: dict[FrameType, str] = {}

    def __str__(self) -> str:
        return self.where

    def __call__(self) -> Any:
        begin_tracing(self._enter)
        try:
            return self._function()
        finally:
            end_tracing()
            self._last.clear()

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_back is not None:
            # Returning to that one is no point: nothing is looked for when a Python function ends.
            self._last.pop(frame.f_back, None)
        if frame.f_code.co_filename not in self._targets or (not self._nested and _is_finaliser(frame)):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            operation = dis.opname[_bytes_of(frame.f_code)[frame.f_lasti]]
            if _looks_outside(self._last.get(frame, "")) or (self._nested and operation.startswith(_MAKES_CONTAINERS)):
                self.count += 1
                if self.count == self.victim:
                    self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                    self._act()
            self._last[frame] = operation
        elif event == "return":
            self._last.pop(frame, None)
        return self._step


def raising(kind: type[BaseException]) -> Callable[[], Any]:
    """Return an act that raises ``kind``."""

    def act() -> None:
        raise kind

    return act


def at_every_point(
    function: Callable[[], Any],
    act: Callable[[], Any],
    *classes: str,
    prepare: Callable[[], Any] = lambda: None,
    most: int = 10_000,
    nested: bool = False,
) -> Iterator[StruckAt]:
    """Yield, for point after point in the modules of ``classes``, how to run ``function`` struck there.

    ``prepare`` is called before each run. ``most``: take so many points, evenly spread.
    """
    # Twice: Python 3.12 begins to trace the steps of a function only after its first run.
    for _ in range(2):
        prepare()
        counting = StruckAt(0, function, act, classes, nested)
        counting()
    assert counting.count > 5, "nothing to strike"
    for victim in range(1, counting.count + 1, max(1, -(-counting.count // most))):
        prepare()
        yield StruckAt(victim, function, act, classes, nested)


def struck(running: StruckAt) -> type[BaseException] | None:
    """Run it; return the class of what it raised. The exception itself, and with it the frames, is forgotten."""
    try:
        running()
    except BaseException as error:
        return type(error)
    return None


def deepest() -> int:
    """Return how many more calls there is room for."""

    def down(depth: int) -> int:
        try:
            return down(depth + 1)
        except RecursionError:
            return depth

    return down(0)


def at_depth(function: Callable[[], Any], room: int) -> Any:
    """Call ``function`` where the stack has room for so many more calls."""

    def down(depth: int) -> Any:
        return function() if depth <= 0 else down(depth - 1)

    return down(deepest() - room)
