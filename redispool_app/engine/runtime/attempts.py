"""One task works for all callers that wait for its result. It is replaced if asyncio has lost one of its steps.

An exception that a signal handler raises inside the event loop can lose a task's next step. The task then waits for
ever, past its own timeouts, and so would all its callers. At first a lost step looks like a slow server. So the task is
checked every 50 ms while callers wait. It is replaced in three cases:

* It waits for something that has arrived: a result, bytes that the event loop does not read, an end of file.
* An exception has ended the run of the event loop, or has hit code of this package there. Since then the task has made
  no step for the time of four usual attempts. This time doubles at each further replacement.
* It has made no step for ``LATE`` seconds. This happens once, because some exceptions leave no trace.

A slow server alone causes neither of the first two cases. The former task is cancelled and its connection closed before
the next one begins. So there is one attempt at a time, and a busy server gets no more of them.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from .lost_callbacks import has_run_ended, put_timers_in_order, run_of_loop, schedule_lost_callbacks, struck_at
from .socket_look import poll_of
from .wait_queue import LOOK_AGAIN, LoopWaiter, WaitQueue

LATE = 5.0
"""A task without a step for this many seconds is replaced, once. By then TCP has resent its first packet."""

_LOOK = 0.05
"""Seconds between two checks."""

_SURE = 3
"""A step counts as lost if this many checks in a row find that the result has arrived.

Each is a later loop iteration.
"""

_SHORTEST = 0.1
_FIRST = 0.25
_LONGEST = 1.0
"""Limits of the wait after an interrupt, in seconds; ``_FIRST`` if no attempt has succeeded yet."""


def patience(usual: float | None) -> float:
    """Return the seconds without a step that an interrupted attempt gets, if a usual one takes ``usual`` seconds."""
    return _FIRST if usual is None else min(_LONGEST, max(_SHORTEST, 4 * usual))


class Attempt:
    """The work of one task for many callers of one event loop.

    ``work(attempt, number)`` is the coroutine function. By ``number`` the task checks whether it has been replaced. It
    stores its connection in ``connection``. While it sleeps, it stores the end of the sleep in ``not_before``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[Attempt, int], Coroutine[Any, Any, None]],
        on_end: Callable[[Attempt], None],
        cut: Callable[[Any], None],
        usual: float | None,
    ) -> None:
        self.has_ended = False
        self.error: BaseException | None = None
        """The error; None after success."""
        self.number = 0
        self.task: asyncio.Task[None] | None = None
        self.connection: Any = None
        self.not_before = 0.0
        """In monotonic seconds."""
        self.replaced = 0
        self._loop = loop
        self._work = work
        self._on_end = on_end
        self._cut = cut
        self._patience = patience(usual)
        self._was_late = False
        self._waiters = WaitQueue()
        self._looks_until = 0.0
        self._looks = 0
        self._last_look = 0.0
        self._run: Callable[[], Any] = run_of_loop()
        self._began = 0.0
        self._awaited: Any = None
        self._still = 0.0
        self._found = [0, 0]

    def is_current(self, number: int) -> bool:
        """Whether the task with this number may finish the work: it was neither replaced nor given up."""
        return number == self.number and not self.has_ended

    def begin(self) -> None:
        """Start the task, or another one in its place."""
        self.number += 1
        self.connection, self.not_before = None, 0.0
        self._awaited, self._still, self._found = None, 0.0, [0, 0]
        self._run, self._began = run_of_loop(), monotonic()
        self._begin_looking(monotonic())
        try:
            self.task = task = self._loop.create_task(self._work(self, self.number))
            task.add_done_callback(self._task_ended)
        except BaseException as error:
            schedule_lost_callbacks(self._loop, error)
            raise

    async def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the end. Return whether it has come."""
        waiter, until = LoopWaiter(), monotonic() + timeout
        try:
            self._waiters.append(waiter)
            while not self.has_ended:
                left = until - monotonic()
                if left <= 0:
                    return False
                await waiter.wait(min(left, LOOK_AGAIN))
                self._look_again()
            return True
        finally:
            try:  # noqa: SIM105 (see wait_queue: the first call must be this one)
                self._waiters.remove(waiter)
            except ValueError:
                pass

    def cancel(self) -> None:
        """Ask the task to end."""
        if self.task is not None:
            self.task.cancel()

    def give_up(self) -> None:
        """End without the task, which may have lost its step. Does nothing after the end."""
        if not self.has_ended:
            self._drop()
            self._end(asyncio.CancelledError())

    # The end.

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if task is self.task and not self.has_ended:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self.error = error
        self.has_ended = True
        try:
            self._on_end(self)
            self._waiters.wake_first_here(len(self._waiters))
        except BaseException as raised:
            schedule_lost_callbacks(self._loop, raised)
            raise

    def _drop(self) -> None:
        """Drop the task, and close its connection: it may never go on."""
        # Referenced nowhere: a task with a lost step never ends, and ``asyncio.run`` waits for all referenced tasks.
        task, connection, self.task = self.task, self.connection, None
        if task is not None:
            task.cancel()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        if connection is not None:
            self._cut(connection)

    # Checking.

    def _begin_looking(self, now: float) -> None:
        """Schedule two rows of checks, so that one is left if the event loop loses a check of the other."""
        if self._looks_until:
            put_timers_in_order(self._loop)
        self._looks += 1
        self._last_look = now
        for row in (0, 1):
            self._loop.call_later((1 + row / 2) * _LOOK, self._look, self._looks, row)
        self._looks_until = now + 4 * _LOOK

    def _look_again(self) -> None:
        """Called by callers whose wait is over: the checks, or the notice of the end, may have been lost."""
        task, now = self.task, monotonic()
        if self.has_ended:
            return
        if task is not None and task.done():
            self._task_ended(task)
        elif now > self._looks_until:
            self._begin_looking(now)

    def _look(self, looks: int, row: int) -> None:
        task = self.task
        if self.has_ended or looks != self._looks:
            return
        try:
            # First: whatever is interrupted here, the next check goes on with it.
            self._loop.call_later(_LOOK, self._look, looks, row)
            now = monotonic()
            self._looks_until = now + 4 * _LOOK
            if task is not None and task.done():
                self._found[row] += 1
                if self._found[row] >= _SURE:
                    self._task_ended(task)
            elif now >= self.not_before and self._is_stuck(task, row, now):
                self.replaced += 1
                self._drop()
                self.begin()
        except BaseException as error:
            schedule_lost_callbacks(self._loop, error)
            raise

    def _is_stuck(self, task: asyncio.Task[None] | None, row: int, now: float) -> bool:
        """Whether to replace the task. Only time in which the event loop ran counts."""
        awaited = getattr(task, "_fut_waiter", None)
        elapsed, self._last_look = min(now - self._last_look, 2 * _LOOK), now
        if awaited is not self._awaited:
            self._awaited, self._still, self._found = awaited, 0.0, [0, 0]
            return False
        self._still += elapsed
        has_come = awaited is None or awaited.done() or _has_news(self.connection)
        self._found[row] = self._found[row] + 1 if has_come else 0
        if self._found[row] >= _SURE:
            return True
        was_struck = has_run_ended(self._run) or struck_at() >= self._began - _LONGEST
        if was_struck and self._still >= self._patience:
            self._patience *= 2
            return True
        if self._still >= LATE and not self._was_late:
            self._was_late = True
            return True
        return False


def _has_news(connection: Any) -> bool:
    """Whether redis-py's ``connection`` has data or an end of file that an event loop would have noticed by now."""
    writer, reader = getattr(connection, "_writer", None), getattr(connection, "_reader", None)
    if writer is None or reader is None:
        return False
    transport = writer.transport
    if transport.is_closing() or reader._buffer:
        return True
    with suppress(OSError, ValueError, AttributeError):
        poll = poll_of(transport)
        return poll is not None and any(event & select.POLLIN for _, event in poll(0))
    return False
