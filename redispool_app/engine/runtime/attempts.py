"""One task works for all callers that wait for its result, and is replaced when asyncio has lost one of its steps.

An exception that a signal handler raises inside the event loop can cost a task its next step: the task then waits for
ever, past every time-out of its own, and so would all that wait for it. Nothing tells a lost step from a slow server at
once. So the task is looked at every 50 ms while callers wait, and is replaced when

* it waits for something that has come: a result, bytes that the event loop does not read, the end of the connection;
* an exception has ended the run of the event loop, or met code of this package there, and the task has made no step
  since for as long as four usual attempts take, twice as long at each further replacement;
* it has made no step for ``LATE`` seconds, once: there are exceptions that leave no trace.

A server that is merely slow causes none of the first two. The former task is cancelled and its connection closed before
the next begins, so that there is one attempt at a time, and a busy server gets no more of them.
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
"""A task that has made no step for so many seconds is replaced, once. TCP has repeated its first packet by then."""

_LOOK = 0.05
"""Seconds between two looks."""

_SURE = 3
"""A step is lost if so many looks in a row find that what it waits for has come; each is a later turn of the loop."""

_SHORTEST = 0.1
_FIRST = 0.25
_LONGEST = 1.0
"""Bounds for the wait after an interrupt, in seconds; ``_FIRST`` where no attempt has succeeded yet."""


def patience(usual: float | None) -> float:
    """Return for how long an interrupted attempt may make no step, if ``usual`` seconds is what one takes."""
    return _FIRST if usual is None else min(_LONGEST, max(_SHORTEST, 4 * usual))


class Attempt:
    """The work of one task for many callers of one event loop.

    ``work(attempt, number)`` is the coroutine function; ``number`` tells the task whether it has been replaced. It
    stores the connection that it makes in ``connection``, and in ``not_before`` until when it sleeps, if it does.
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
        """Why it failed; None after success."""
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
        """Whether the task of this number is to finish the work: it was neither replaced nor given up."""
        return number == self.number and not self.has_ended

    def begin(self) -> None:
        """Start the task, or another in its place."""
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
        """Wait up to ``timeout`` seconds for the end; return whether it has come."""
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
        """Let go of the task, and close what it has connected: it may never go on."""
        # Kept nowhere: a task that has lost its step never ends, and ``asyncio.run`` waits for all that are kept.
        task, connection, self.task = self.task, self.connection, None
        if task is not None:
            task.cancel()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        if connection is not None:
            self._cut(connection)

    # Looking.

    def _begin_looking(self, now: float) -> None:
        """Schedule two rows of looks, so that one is left if the event loop loses a look of the other."""
        if self._looks_until:
            put_timers_in_order(self._loop)
        self._looks += 1
        self._last_look = now
        for row in (0, 1):
            self._loop.call_later((1 + row / 2) * _LOOK, self._look, self._looks, row)
        self._looks_until = now + 4 * _LOOK

    def _look_again(self) -> None:
        """Called by callers whose wait is over: the looks may have been lost, or the news of the end."""
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
            # Before anything else: whatever is interrupted here, the next look goes on with it.
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
        """Whether the task is to be replaced. Only time counts in which the event loop ran."""
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
    """Whether there is something on redis-py's ``connection`` that an event loop would have noticed by now."""
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
