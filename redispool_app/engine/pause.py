"""Holds new commands back for a while, as before a planned failover: who comes waits, in order, and is then let go.

Plain state and two ways to wait. One pause holds back every event loop and thread of the process. It ends by
``end()`` or by itself: whoever finds that its time is over ends it for all.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from redispool_app.exceptions import PoolQueueFull

from .runtime import fork

LONGEST = 300.0
"""No pause is longer, in seconds: whoever forgets to end it has not stopped a site for good."""


class _Waiter(Protocol):
    def wake(self) -> None: ...


class _LoopWaiter:
    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop has ended, and with it whoever waited
            self.loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _ThreadWaiter:
    __slots__ = ("turn",)

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # woken already
            self.turn.release()


class Pause:
    """Whether new commands are held back, and who waits. At most ``max_waiting`` callers wait.

    ``on_change(is_on)`` is called at each beginning and end, under this object's lock; ``on_end()`` after each end,
    however it came, by whoever ended it or found that its time was over.
    """

    def __init__(
        self, max_waiting: int, on_change: Callable[[bool], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.max_waiting = max_waiting
        self._on_change = on_change
        self._on_end = on_end
        self._lock = threading.Lock()
        self._until: float | None = None
        self._waiters: deque[tuple[Any, _Waiter]] = deque()
        self.ended_at = 0.0
        """When the last one ended, in monotonic seconds."""
        fork.register(self.after_fork_in_child)

    @property
    def is_on(self) -> bool:
        """Whether new commands must wait. Ends a pause whose time is over."""
        until = self._until
        if until is None:
            return False
        if monotonic() < until:
            return True
        self._end_if_over()
        return False

    def left(self) -> float | None:
        """Seconds until the pause ends by itself; None when there is none."""
        until = self._until
        return max(0.0, until - monotonic()) if until is not None and self.is_on else None

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def begin(self, seconds: float) -> None:
        """Hold new commands back for so many seconds; if they are, from now on for so long.

        Raises ``ValueError`` unless ``seconds`` is above 0 and at most ``LONGEST``.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise ValueError(
                f"A pause cannot take {seconds!r:.40} s: give a number of seconds above 0, at most {LONGEST:g}."
            )
        with self._lock:
            self._until = monotonic() + seconds
            self._on_change(True)
            woken = self._taken()
        _wake(woken)  # they wait again, as long as it takes now

    def end(self) -> None:
        """Let everybody go, in the order in which they came."""
        with self._lock:
            was_on, woken = self._until is not None, self._ended()
        self._let_go(was_on, woken)

    def release(self, owner: Any) -> None:
        """Let those go who wait for ``owner``, which is closing: each finds that for itself."""
        with self._lock:
            woken = self._taken(owner)
        _wake(woken)

    async def wait(self, owner: Any, gate: Callable[[], None]) -> float:
        """Wait for the end; return how many seconds that took. What ``gate`` raises ends the wait before.

        Raises ``PoolQueueFull`` at once when as many callers wait as may.
        """
        started, again = monotonic(), False
        while self.is_on:
            gate()
            waiter = _LoopWaiter()
            if not self._enter(owner, waiter, again):
                continue
            try:
                await asyncio.wait([waiter.future], timeout=self.left())
            finally:
                self._leave(owner, waiter)
            again = True
        return monotonic() - started

    def wait_in_thread(self, owner: Any, gate: Callable[[], None]) -> float:
        """The same for a thread, which blocks."""
        started, again = monotonic(), False
        while self.is_on:
            gate()
            waiter = _ThreadWaiter()
            if not self._enter(owner, waiter, again):
                continue
            try:
                waiter.turn.acquire(timeout=self.left() or 0.0)
            finally:
                self._leave(owner, waiter)
            again = True
        return monotonic() - started

    def after_fork_in_child(self) -> None:
        """In a forked child: the pause was the parent's, and so are those who wait."""
        _graveyard.append(self._waiters)
        self._lock = threading.Lock()
        self._waiters = deque()
        self._until = None
        self._on_change(False)

    def _enter(self, owner: Any, waiter: _Waiter, again: bool) -> bool:
        """Queue up; return False when the pause has ended meanwhile."""
        with self._lock:
            if self._until is None:
                return False
            # Who waited already is not turned away because the pause was made longer.
            if not again and len(self._waiters) >= self.max_waiting:
                raise PoolQueueFull(
                    f"The pool is paused and {len(self._waiters)} callers wait for its end: "
                    "resume it, or raise MAX_WAITING."
                )
            self._waiters.append((owner, waiter))
            return True

    def _leave(self, owner: Any, waiter: _Waiter) -> None:
        with self._lock, suppress(ValueError):  # whoever was woken is not there any more
            self._waiters.remove((owner, waiter))

    def _end_if_over(self) -> None:
        with self._lock:
            is_over = self._until is not None and monotonic() >= self._until
            woken = self._ended() if is_over else []
        self._let_go(is_over, woken)

    def _let_go(self, has_ended: bool, woken: list[_Waiter]) -> None:
        _wake(woken)
        if has_ended:
            self._on_end()

    def _ended(self) -> list[_Waiter]:
        if self._until is not None:
            self._until, self.ended_at = None, monotonic()
            self._on_change(False)
        return self._taken()

    def _taken(self, owner: Any = None) -> list[_Waiter]:
        taken = [waiter for waits_for, waiter in self._waiters if owner is None or waits_for is owner]
        self._waiters = deque(each for each in self._waiters if owner is not None and each[0] is not owner)
        return taken


def _wake(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()


_graveyard: list[Any] = []
"""Waiters of a forked process's parent, whose futures must not be finalised here."""
