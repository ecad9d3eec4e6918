"""The engine's await points, counted from its source, and a watch on the tasks that suspend at them."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import redispool_app.engine

ENGINE = Path(redispool_app.engine.__file__).parent


@dataclass(frozen=True)
class AwaitPoint:
    """One ``await``, ``async with`` or ``async for``, named so that edits elsewhere do not rename it."""

    name: str
    module: str
    first_line: int
    last_line: int
    column: int


def await_points():
    """Return every await point of the engine, by module."""
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        points = []
        visit(ast.parse(path.read_text()), path.relative_to(ENGINE).as_posix(), [], points)
        if points:
            found[str(path)] = points
    return found


def visit(node, module, scope, points):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            visit(child, module, [*scope, child.name], points)
            continue
        if isinstance(child, ast.Await | ast.AsyncWith | ast.AsyncFor):
            if isinstance(child, ast.Await):
                text, last_line = ast.unparse(child), child.end_lineno
            else:
                text, last_line = ast.unparse(child).splitlines()[0], child.body[0].lineno - 1
            name = f"{module} {'.'.join(scope)}: {text}"
            same = sum(point.name.partition(" #")[0] == name for point in points)
            name += f" #{same + 1}" if same else ""
            points.append(AwaitPoint(name, module, child.lineno, max(last_line, child.lineno), child.col_offset))
        visit(child, module, scope, points)


POINTS = await_points()

# Watching: what the running tasks do.


def suspended_points(coroutine):
    """Return the engine's await points at which a suspended coroutine stands, outermost first."""
    found = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is None:
            frame = getattr(coroutine, "gi_frame", None)
        if frame is not None and frame.f_code.co_filename in POINTS:
            found.append(point_at(frame))
        coroutine = awaited_by(coroutine)
    return found


def passes_through_wait_for(coroutine):
    """Whether a suspended coroutine stands in ``asyncio.wait_for``, which redis-py uses."""
    while coroutine is not None:
        if getattr(coroutine, "cr_code", None) is asyncio.wait_for.__code__:
            return True
        coroutine = awaited_by(coroutine)
    return False


def awaited_by(coroutine):
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if hasattr(coroutine, name):
            return getattr(coroutine, name)
    if type(coroutine).__name__ in ("async_generator_asend", "async_generator_athrow"):
        # What anext() and aclose() return does not say whose it is; the garbage collector knows.
        return next(filter(inspect.isasyncgen, gc.get_referents(coroutine)), None)
    return None


def point_at(frame):
    line, _, column, _ = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    points = POINTS[frame.f_code.co_filename]
    exact = [point for point in points if (point.first_line, point.column) == (line, column)]
    if exact:
        return exact[0]
    around = [point for point in points if point.first_line <= (line or frame.f_lineno) <= point.last_line]
    assert around, f"no await point at {frame.f_code.co_filename}:{frame.f_lineno}"
    return around[-1]


class Watched(Coroutine):
    """A task's coroutine, seen by ``Watch`` whenever it suspends."""

    def __init__(self, coroutine, watch):
        self._coroutine = coroutine
        self._watch = watch

    def send(self, value):
        awaited = self._coroutine.send(value)
        self._watch.suspended(self._coroutine, awaited)
        return awaited

    def throw(self, *error):
        awaited = self._coroutine.throw(*error)
        self._watch.suspended(self._coroutine, awaited)
        return awaited

    def close(self):
        self._coroutine.close()

    def __await__(self):
        return self


class Watch:
    """Counts suspensions inside the engine, and cancels the task of the one numbered ``victim``.

    ``late``: not at once, but when what it awaits is there and the task is about to go on.
    """

    def __init__(self, victim, late):
        self.victim = victim
        self.late = late
        self.armed = False
        self.count = 0
        self.hit = []
        self.cancelled_task = None
        self.delivered = False
        self.may_be_swallowed = False
        """Before Python 3.12 ``wait_for`` forgets a cancellation that comes together with the result."""

    def loop(self):
        loop = asyncio.new_event_loop()
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(Watched(coroutine, self), loop=loop, **options)
        )
        return loop

    def suspended(self, coroutine, awaited):
        if not self.armed:
            return
        points = suspended_points(coroutine)
        if not points:
            return
        self.count += 1
        if self.count != self.victim:
            return
        self.hit = points
        self.may_be_swallowed = sys.version_info < (3, 12) and passes_through_wait_for(coroutine)
        task = self.cancelled_task = asyncio.current_task()

        def cancel(_=None):
            self.delivered = task.cancel()

        if self.late and asyncio.isfuture(awaited):
            # Called before the task's own wake-up, so the task is told of both in one step.
            awaited.add_done_callback(cancel)
        else:
            task.get_loop().call_soon(cancel)
