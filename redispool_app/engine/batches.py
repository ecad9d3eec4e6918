"""What leaves on an event loop's shared connection in one piece, and how its replies find their owners. No I/O.

A ``Batch`` holds single commands of one loop tick, a ``Unit`` a pipeline or MULTI to EXEC. A caller that leaves
(cancelled, timed out) leaves its place behind, and the reply is thrown away when it comes.
"""

from __future__ import annotations

from asyncio import Future, InvalidStateError
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .exhaust import exhaust
from .replies import HARMLESS

_done: Any = Future.done
_set_result: Any = Future.set_result

OnError = Callable[[Exception], None]


class Batch:
    """Single commands, each with a future for its reply; ``started``: the tick's time, in monotonic seconds."""

    __slots__ = ("answered", "decode", "futures", "packed", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.futures: list[Future[Any]] = []
        self.packed: list[bytes] = []
        """Kept until the replies are in, as each caller's own frame keeps its: it tells who waits for what."""
        self.decode: list[bool] = []
        """For each command whether its caller wants text; left empty where nobody can."""
        self.answered = 0

    @property
    def due(self) -> int:
        """Replies that are still to come."""
        return len(self.futures) - self.answered

    @property
    def next_due(self) -> Future[Any]:
        """Whose reply comes next."""
        return self.futures[self.answered]

    @property
    def decode_due(self) -> Sequence[bool]:
        return self.decode[self.answered :]

    def drop_leavers(self) -> tuple[int, int]:
        """Forget, before anything is written, whose caller has left; return how many commands and bytes that was."""
        if True not in map(_done, self.futures):
            return 0, 0
        before, size = len(self.futures), sum(map(len, self.packed))
        stay = [not future.done() for future in self.futures]
        self.packed = _kept(self.packed, stay)
        self.decode = _kept(self.decode, stay)
        self.futures = _kept(self.futures, stay)
        return before - len(self.futures), size - sum(map(len, self.packed))

    def take(self, replies: list[Any], at: int, on_error: OnError) -> int:
        """Give ``replies`` from position ``at`` on to their owners; return the position of the first left over."""
        answered, futures = self.answered, self.futures
        until = at + len(futures) - answered
        part = replies if at == 0 and until >= len(replies) else replies[at:until]
        if answered:
            futures = futures[answered:]
        self.answered = answered + len(part)
        if HARMLESS.issuperset(map(type, part)):
            try:
                exhaust(map(_set_result, futures, part))
                return at + len(part)
            except InvalidStateError:
                pass  # somebody has left; whoever has a reply already is done
        for future, reply in zip(futures, part, strict=False):
            if isinstance(reply, Exception):
                on_error(reply)
                if not future.done():
                    future.set_exception(reply)
            elif not future.done():
                future.set_result(reply)
        return at + len(part)

    def waiting(self) -> Iterable[Future[Any]]:
        """Return the futures whose callers still wait."""
        return [future for future in self.futures if not future.done()]

    def asked(self, replies: int | None = None) -> list[tuple[bytes, int]]:
        """Return what they sent who wait for the next so many replies, None for all: bytes, and commands in them."""
        until = None if replies is None else self.answered + replies
        due = slice(self.answered, until)
        pairs = zip(self.futures[due], self.packed[due], strict=False)
        return [(packed, 1) for future, packed in pairs if not future.done()]


class Unit:
    """Commands that left as one, with one future for the list of their replies; errors are among them as values."""

    __slots__ = ("decode", "future", "packed", "quiet", "replies", "started")

    def __init__(
        self, started: float, future: Future[list[Any]], packed: bytes, decode: Sequence[bool], quiet: bool = False
    ) -> None:
        self.started = started
        self.quiet = quiet
        """Whether errors among its replies are its caller's affair alone."""
        self.future = future
        self.packed = [packed]
        self.decode = decode
        self.replies: list[Any] = []

    @property
    def due(self) -> int:
        return len(self.decode) - len(self.replies)

    @property
    def next_due(self) -> Future[list[Any]]:
        return self.future

    @property
    def decode_due(self) -> Sequence[bool]:
        return self.decode[len(self.replies) :]

    def drop_leavers(self) -> tuple[int, int]:
        if not self.future.done():
            return 0, 0
        commands, size = len(self.decode), sum(map(len, self.packed))
        self.packed, self.decode = [], ()
        return commands, size

    def take(self, replies: list[Any], at: int, on_error: OnError) -> int:
        part = replies[at : at + self.due]
        for reply in part:
            if reply.__class__ is not bytes and isinstance(reply, Exception) and not self.quiet:
                on_error(reply)
        self.replies += part
        if not self.due and not self.future.done():
            self.future.set_result(self.replies)
        return at + len(part)

    def waiting(self) -> Iterable[Future[Any]]:
        return () if self.future.done() else (self.future,)

    def asked(self, replies: int | None = None) -> list[tuple[bytes, int]]:
        if self.future.done() or (replies is not None and replies < self.due):
            return []
        return [(self.packed[0], len(self.decode))]


def _kept(items: list[Any], stay: list[bool]) -> list[Any]:
    return [item for item, stays in zip(items, stay, strict=False) if stays]
