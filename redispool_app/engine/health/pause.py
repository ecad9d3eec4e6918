"""Holds new commands back for a while, for example before a planned failover. Callers wait in order until it ends.

Plain state and two ways to wait. One pause applies to every event loop and thread of the process. It ends by ``end()``
or by itself: the first caller that finds its time over ends it for all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, LoopWaiter, ThreadWaiter, WaitQueue
from redispool_app.exceptions import PoolQueueFull

LONGEST = 300.0
"""Maximum seconds of a pause, so that a forgotten one does not stop a site for good."""


class Pause:
    """Whether new commands are held back, and which callers wait. At most ``max_waiting`` callers wait.

    ``on_change(is_on)`` is called after each beginning and end, and must be quick. ``on_end()`` is called after each
    end, by the caller that ended the pause or found its time over. Both are called outside any lock and may use this
    object.

    There is no lock. ``_until`` is the whole state. Each decision about it is stored before anything is called.
    """

    def __init__(
        self, max_waiting: int, on_change: Callable[[bool], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.max_waiting = max_waiting
        self.waiters = WaitQueue()
        self.ended_at = 0.0
        """When the last pause ended (monotonic seconds)."""
        self._on_change = on_change
        self._on_end = on_end
        self._until: float | None = None
        self._told: bool | None = False
        """The last value that ``on_change`` received; None if that is not certain."""
        self._tells = 0
        fork.register(self.after_fork_in_child)

    @property
    def is_on(self) -> bool:
        """Whether new commands must wait. Ends a pause whose time is over."""
        until = self._until
        if until is None:
            if self._told is not False:  # the caller that ended it was interrupted
                self._settle()
            return False
        if monotonic() < until:
            if self._told is not True:
                self._settle()
            return True
        self._end_if(until)
        return self._until is not None

    def left(self) -> float | None:
        """Seconds until the pause ends by itself; None if there is none."""
        until = self._until
        return max(0.0, until - monotonic()) if until is not None and self.is_on else None

    @property
    def waiting(self) -> int:
        return len(self.waiters)

    def begin(self, seconds: float) -> None:
        """Hold new commands back for ``seconds``. Calling it again restarts the timer.

        Raises ``ValueError`` unless ``seconds`` is above 0 and at most ``LONGEST``.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise ValueError(
                f"A pause cannot last {seconds!r:.40} s: give a number of seconds above 0, at most {LONGEST:g}."
            )
        self._until = monotonic() + seconds
        try:
            self._settle()
            self.waiters.wake_all()  # they wait again, until the new end
        except BaseException:
            self._settle()  # interrupted
            raise

    def end(self) -> None:
        """End the pause. The callers go on in the order in which they came."""
        now = monotonic()
        until, self._until = self._until, None
        if until is not None:
            self.ended_at = now
        self._let_go(until is not None)

    def release(self, owner: Any) -> None:
        """Wake the callers that wait for ``owner``, which is closing. Each finds that out by itself."""
        self.waiters.wake_all(owner)

    async def wait(self, owner: Any, ensure_available: Callable[[], None]) -> float:
        """Wait for the end. Return the seconds waited. An exception of ``ensure_available`` ends the wait.

        Raises ``PoolQueueFull`` at once if the maximum number of callers waits.
        """
        started, waiter = monotonic(), None
        try:
            while self.is_on:
                ensure_available()
                if waiter is None:
                    waiter = LoopWaiter(owner)
                    self.waiters.append(waiter)
                    self._check_room(waiter)
                elif (left := self.left()) is not None:
                    await waiter.wait(min(left, LOOK_AGAIN))
        finally:
            try:  # noqa: SIM105 (see wait_queue: the first call must be this one)
                self.waiters.remove(waiter)
            except ValueError:
                pass
        return monotonic() - started

    def wait_in_thread(self, owner: Any, ensure_available: Callable[[], None]) -> float:
        """The same for a thread, which blocks."""
        started, waiter = monotonic(), None
        try:
            while self.is_on:
                ensure_available()
                if waiter is None:
                    waiter = ThreadWaiter(owner)
                    self.waiters.append(waiter)
                    self._check_room(waiter)
                elif (left := self.left()) is not None:
                    waiter.wait(min(left, LOOK_AGAIN))
        finally:
            try:  # noqa: SIM105
                self.waiters.remove(waiter)
            except ValueError:
                pass
        return monotonic() - started

    def after_fork_in_child(self) -> None:
        """In a forked child: the pause and its waiting callers belong to the parent."""
        _graveyard.append(self.waiters)
        self.waiters = WaitQueue()
        self._until = None
        self._settle()

    def _check_room(self, waiter: Any) -> None:
        if not self.waiters.has_place(waiter, self.max_waiting):
            raise PoolQueueFull(
                f"The pool is paused and {self.max_waiting} callers wait for its end: resume it, or raise MAX_WAITING."
            )

    def _end_if(self, until: float) -> None:
        """End the pause that was to last until ``until``, unless it has been ended or prolonged."""
        now = monotonic()
        # Nothing is called between the check and the store, so nothing else runs between them.
        if self._until is until:
            self._until, self.ended_at = None, now
            self._let_go(True)

    def _let_go(self, has_ended: bool) -> None:
        try:
            self._settle()
            self.waiters.wake_all()
        except BaseException:
            self._settle()  # interrupted; repeating it is harmless
            self.waiters.wake_all()
            raise
        if has_ended:
            # An exception of a listener must not reach the caller that found the time over.
            with suppress(Exception):
                self._on_end()

    def _settle(self) -> None:
        """Report the state to ``on_change`` until the reported state is the present one."""
        while self._told is not (is_on := self._until is not None):
            # Stored first, because ``on_change`` may check whether the pause is on.
            self._told = is_on
            self._tells = number = self._tells + 1
            try:
                self._on_change(is_on)
            except BaseException:
                self._told = None  # it may not have received it
                raise
            if self._tells != number:
                self._told = None  # another change was reported meanwhile, perhaps before this one arrived


_graveyard: list[Any] = []
"""Waiters of a forked process's parent, whose futures must not be finalised here."""
