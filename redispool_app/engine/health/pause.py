"""Holds new commands back for a while, as before a planned failover: who comes waits, in order, and is then let go.

Plain state and two ways to wait. One pause holds back every event loop and thread of the process. It ends by
``end()`` or by itself: whoever finds that its time is over ends it for all.
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
"""No pause is longer, in seconds: whoever forgets to end it has not stopped a site for good."""


class Pause:
    """Whether new commands are held back, and which callers wait. At most ``max_waiting`` callers wait.

    ``on_change(is_on)`` is called after each beginning and end, and must be quick; ``on_end()`` after each end, by the
    caller that ended it or found that its time was over. Both are called outside any lock: they may call this object.

    There is no lock. ``_until`` is the whole state; what is decided about it is stored before anything is called.
    """

    def __init__(
        self, max_waiting: int, on_change: Callable[[bool], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.max_waiting = max_waiting
        self.waiters = WaitQueue()
        self.ended_at = 0.0
        """When the last one ended, in monotonic seconds."""
        self._on_change = on_change
        self._on_end = on_end
        self._until: float | None = None
        self._told: bool | None = False
        """What ``on_change`` has heard last; None when that is not certain."""
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
        """Seconds until the pause ends by itself; None when there is none."""
        until = self._until
        return max(0.0, until - monotonic()) if until is not None and self.is_on else None

    @property
    def waiting(self) -> int:
        return len(self.waiters)

    def begin(self, seconds: float) -> None:
        """Hold new commands back for so many seconds; if they are, from now on for so long.

        Raises ``ValueError`` unless ``seconds`` is above 0 and at most ``LONGEST``.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise ValueError(
                f"A pause cannot take {seconds!r:.40} s: give a number of seconds above 0, at most {LONGEST:g}."
            )
        self._until = monotonic() + seconds
        try:
            self._settle()
            self.waiters.wake_all()  # they wait again, as long as it takes now
        except BaseException:
            self._settle()  # interrupted
            raise

    def end(self) -> None:
        """Let all callers go, in the order in which they came."""
        now = monotonic()
        until, self._until = self._until, None
        if until is not None:
            self.ended_at = now
        self._let_go(until is not None)

    def release(self, owner: Any) -> None:
        """Let those go that wait for ``owner``, which is closing: each finds that for itself."""
        self.waiters.wake_all(owner)

    async def wait(self, owner: Any, gate: Callable[[], None]) -> float:
        """Wait for the end; return how many seconds that took. What ``gate`` raises ends the wait before.

        Raises ``PoolQueueFull`` at once when as many callers wait as may.
        """
        started, waiter = monotonic(), None
        try:
            while self.is_on:
                gate()
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

    def wait_in_thread(self, owner: Any, gate: Callable[[], None]) -> float:
        """The same for a thread, which blocks."""
        started, waiter = monotonic(), None
        try:
            while self.is_on:
                gate()
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
        """In a forked child: the pause was the parent's, and so are those who wait."""
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
        """End the pause that was to last until then, unless it has been ended or made longer."""
        now = monotonic()
        # Nothing is called between the look and the store, so nothing else runs between them.
        if self._until is until:
            self._until, self.ended_at = None, now
            self._let_go(True)

    def _let_go(self, has_ended: bool) -> None:
        try:
            self._settle()
            self.waiters.wake_all()
        except BaseException:
            self._settle()  # interrupted; to do it twice is no error
            self.waiters.wake_all()
            raise
        if has_ended:
            # What a listener raises is no business of the caller that found the time over.
            with suppress(Exception):
                self._on_end()

    def _settle(self) -> None:
        """Tell ``on_change`` how it stands, until that is how it still stands afterwards."""
        while self._told is not (is_on := self._until is not None):
            # Stored first, for ``on_change`` may ask whether the pause is on.
            self._told = is_on
            self._tells = number = self._tells + 1
            try:
                self._on_change(is_on)
            except BaseException:
                self._told = None  # perhaps it has not heard
                raise
            if self._tells != number:
                self._told = None  # another change was told meanwhile, perhaps before this one arrived


_graveyard: list[Any] = []
"""Waiters of a forked process's parent, whose futures must not be finalised here."""
