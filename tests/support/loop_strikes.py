"""Exceptions from outside inside an event loop: raised at each point of the package's code while the loop runs.

What is struck is found by file: every function of the package, and what such a function calls, in asyncio and redis-py
too. So the code may move.
"""

from __future__ import annotations

import asyncio
import dis
import logging
from pathlib import Path
from types import FrameType
from typing import Any

import redis.asyncio.connection
import uvloop

import redispool_app

from .interrupts import TESTS, _bytes_of, _is_finaliser, _looks_outside, begin_tracing, end_tracing

PACKAGE = str(Path(redispool_app.__file__).parent)


class SoftTimeLimitError(Exception):
    """What the handler of a signal raises in a task that has taken too long: an ordinary exception."""


def _after_what_looks_for_signals(last: str, coming: str) -> bool:
    return _looks_outside(last)


def _before_a_call(last: str, coming: str) -> bool:
    return coming in ("CALL", "CALL_KW", "CALL_FUNCTION_EX")


def _before_an_allocation(last: str, coming: str) -> bool:
    return _before_a_call(last, coming) or coming.startswith(("BUILD_", "BINARY_OP", "MAKE_FUNCTION", "LIST_EXTEND"))


KINDS = {
    KeyboardInterrupt: _after_what_looks_for_signals,
    SoftTimeLimitError: _after_what_looks_for_signals,
    RecursionError: _before_a_call,
    MemoryError: _before_an_allocation,
}
"""What is raised, and where CPython could raise it: given the operation before the point, and the one after it."""

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


if hasattr(asyncio, "eager_task_factory"):
    LOOPS["eager tasks"] = _eager_loop


def _connects(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == redis.asyncio.connection.__file__ and "connect" in frame.f_code.co_name:
            return True
        frame = frame.f_back
    return False


class Strike:
    """While it is entered, raises ``kind`` at the point numbered ``victim`` (from 1; 0 only counts)."""

    def __init__(self, victim: int, kind: type[BaseException]) -> None:
        self.victim = victim
        self.kind = kind
        self.count = 0
        self.where = ""
        self.connects = False
        """Whether redis-py was connecting: between making a socket and keeping it, it cannot close it."""
        self._is_point = KINDS[kind]
        self._last: dict[FrameType, str] = {}

    def __enter__(self) -> Strike:
        begin_tracing(self._enter)
        return self

    def __exit__(self, *error: object) -> None:
        end_tracing()
        self._last.clear()

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        # An exception within logging can leave its lock held for ever, until Python 3.13: others would wait for it.
        if name == logging.__file__ or name.startswith(TESTS) or _is_finaliser(frame):
            return None
        if not name.startswith(PACKAGE) and frame.f_back not in self._last:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._last[frame] = ""
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "return":
            self._last.pop(frame, None)
        elif event == "opcode":
            coming = dis.opname[_bytes_of(frame.f_code)[frame.f_lasti]]
            last, self._last[frame] = self._last.get(frame, ""), coming
            if self._is_point(last, coming):
                self.count += 1
                if self.count == self.victim:
                    self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                    self.connects = _connects(frame)
                    raise self.kind("from outside")
        return self._step
