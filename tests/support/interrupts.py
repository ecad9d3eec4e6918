"""Exceptions that come from outside: into any thread, from a signal, and at each point where CPython delivers them."""

from __future__ import annotations

import _weakrefset
import contextlib
import ctypes
import dis
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from redispool_app.engine.runtime.nesting import inside

from .crowd import HANGS, at_once, value_of

TESTS = str(Path(__file__).parents[1])
_WEAK_REFERENCES = (weakref.__file__, _weakrefset.__file__)


MOST_POINTS = 200


class Interruption(BaseException):
    """An exception of nobody's: no ``except Exception`` may hold it up."""


socket_left_behind = pytest.mark.filterwarnings(
    # Between making a socket and keeping it redis-py calls functions, and an interrupt there lets the socket go.
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    # An exception that is meant for a caller that has ended can reach a new thread of ours, which has its number.
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


@pytest.fixture(autouse=True, scope="module")
def left_sockets_collected() -> Iterator[None]:
    """Collect such sockets before the tests of another module begin, which allow none. Active where it is imported."""
    yield
    gc.collect()


KINDS = (KeyboardInterrupt, SystemExit, Interruption)


def borrow_nested(pool: Any) -> Any:
    """Borrow a connection of a pool for threads as a call does that interrupts another one of the same thread."""
    thread = threading.get_ident()
    inside[thread] = True
    try:
        return pool.get_connection()
    finally:
        del inside[thread]


def interrupt(thread: threading.Thread, kind: type[BaseException] = Interruption) -> None:
    """Let ``kind`` be raised in a thread as soon as it runs Python code again."""
    raise_in(thread.ident or 0, kind)


def raise_in(thread: int, kind: type[BaseException]) -> None:
    """Let ``kind`` be raised in the thread of that id, but not within ``logging``, which redis-py calls as it connects.

    An exception there can leave the lock of ``logging`` held for ever, until Python 3.13: all other threads would wait.
    """
    while _is_below_logging(sys._current_frames().get(thread)):
        time.sleep(0.0001)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _is_below_logging(frame: FrameType | None) -> bool:
    """Whether a frame belongs to ``logging``, or to what that has called."""
    while frame is not None:
        if frame.f_code.co_filename == logging.__file__:
            return True
        frame = frame.f_back
    return False


def interrupt_until_it_ends(thread: threading.Thread) -> None:
    """Interrupt a thread that has been interrupted already each second: what is raised in a finaliser is swallowed."""
    for _ in range(int(HANGS)):
        thread.join(1.0)
        if not thread.is_alive():
            return
        interrupt(thread)


class Alarm:
    """A signal whose handler raises in the main thread while ``armed``, and disarms itself."""

    def __init__(self) -> None:
        self.armed = False
        self.rung = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        if _is_below_logging(frame):
            if not any(signal.getitimer(signal.ITIMER_REAL)):
                signal.setitimer(signal.ITIMER_REAL, 0.001)  # once more, a moment later
            return
        self.armed = False
        self.rung += 1
        raise Interruption

    def ring(self) -> None:
        """Send the signal once, from any thread."""
        os.kill(os.getpid(), signal.SIGALRM)


@contextlib.contextmanager
def alarm(every: float = 0) -> Iterator[Alarm]:
    """Handle SIGALRM by raising; ``every``: and send it each so many seconds."""
    bell = Alarm()
    former = signal.signal(signal.SIGALRM, bell.handle)
    if every:
        signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield bell
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        bell.armed = False
        signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], Any], every: float = 0) -> Iterator[None]:
    """Handle SIGALRM with ``handler`` during the block; ``every``: and send it each so many seconds."""
    former = signal.signal(signal.SIGALRM, handler)
    if every:
        signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


_traced = 0
"""How many threads are traced now."""


def begin_tracing(enter: Callable[[FrameType, str, Any], Any]) -> None:
    """Trace this thread. No garbage is collected meanwhile: CPython 3.11 and 3.12 can crash where frames are traced."""
    global _traced
    _traced += 1
    gc.disable()
    sys.settrace(enter)


def end_tracing() -> None:
    """Trace this thread no longer."""
    global _traced
    sys.settrace(None)
    _traced -= 1
    if not _traced:
        gc.enable()


class InterruptAt:
    """Calls a function and interrupts it at the point numbered ``victim`` (from 1; 0 only counts).

    There ``act`` is called, as a signal handler or finalizer would be; without it ``Interruption`` is raised.

    A point is where CPython looks for signals and exceptions from outside: on entering a Python function, after a call
    of one in C, and where a loop goes back. Code of the tests themselves is left alone.
    """

    def __init__(self, victim: int, function: Callable[[], Any], act: Callable[[], Any] | None = None) -> None:
        self.victim = victim
        self._act = act
        self.count = 0
        self.where = ""
        self.file = ""
        self._function = function
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
        if frame.f_code.co_filename.startswith(TESTS) or _is_finaliser(frame) or _is_below_logging(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            if _looks_outside(self._last.get(frame, "")):
                self.count += 1
                if self.count == self.victim:
                    self.file = frame.f_code.co_filename
                    self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                    if self._act is None:
                        raise Interruption
                    self._act()
            self._last[frame] = dis.opname[_bytes_of(frame.f_code)[frame.f_lasti]]
        elif event == "return":
            self._last.pop(frame, None)
        return self._step


def _is_finaliser(frame: FrameType | None) -> bool:
    """Whether a frame belongs to a ``__del__`` or to a weak reference's callback: Python swallows what they raise."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename in _WEAK_REFERENCES:
            return True
        frame = frame.f_back
    return False


def _looks_outside(operation: str) -> bool:
    return operation in ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX") or "JUMP_BACKWARD" in operation


_codes: dict[CodeType, bytes] = {}


def _bytes_of(code: CodeType) -> bytes:
    found = _codes.get(code)
    if found is None:
        found = _codes[code] = code.co_code
    return found


def at_every_point(
    function: Callable[[], Any],
    prepare: Callable[[], Any] = lambda: None,
    most: int = MOST_POINTS,
    act: Callable[[], Any] | None = None,
) -> Iterator[InterruptAt]:
    """Yield, for point after point, how to run ``function`` interrupted there, until it has no further point.

    ``act``: call that there instead of raising.
    """
    prepare()
    counting = InterruptAt(0, function)
    value_of(at_once([counting])[0])
    step = max(1, counting.count // most)
    for victim in itertools.count(1, step):
        prepare()
        running = InterruptAt(victim, function, act)
        yield running
        if not running.where:
            assert victim > 5, "nothing was interrupted"
            return
