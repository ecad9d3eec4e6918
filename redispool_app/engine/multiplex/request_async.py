"""Requests on an event loop's shared connection, and the match of replies to callers. No I/O.

A ``Batch`` holds single commands of one loop tick. A ``PipelineRequest`` holds a pipeline, or the commands
from MULTI to EXEC. If a caller is cancelled or times out, its place in the order stays, and the reply is discarded.

Commands are gathered in one flat list with three entries for each: its future, its packed bytes, and the ``decode``
flag of its caller or, for a pipeline, the ``PipelineRequest``. One C call appends all three: no exception can separate
them.
"""

from __future__ import annotations

from asyncio import Future, InvalidStateError
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redispool_app.engine.protocol.replies import HARMLESS, consume

done: Any = Future.done
_set_result: Any = Future.set_result

OnError = Callable[[Exception], None]


class Batch:
    """Single commands, each with a future for its reply. ``started`` is the time of the tick, in monotonic seconds."""

    __slots__ = ("answered", "decode", "due", "futures", "packed", "started")

    def __init__(self, started: float, gathered: list[Any]) -> None:
        self.started = started
        self.futures: list[Future[Any]] = gathered[::3]
        self.packed: list[bytes] = gathered[1::3]
        """The commands, kept until the replies have arrived, to show which caller waits for what."""
        self.decode: list[bool] = gathered[2::3]
        """For each command whether its caller wants text."""
        self.answered = 0
        self.due = len(self.futures)
        """Replies that have not arrived yet."""

    @property
    def next_due(self) -> Future[Any]:
        """The future of the next reply."""
        return self.futures[self.answered]

    @property
    def decode_due(self) -> Sequence[bool]:
        return self.decode[self.answered :]

    def take(self, replies: list[Any], at: int, on_error: OnError) -> int:
        """Give ``replies`` from position ``at`` on to their owners. Return the position of the first one left over.

        After an exception the connection must be closed: a reply may have been counted and not given.
        """
        answered, futures, due = self.answered, self.futures, self.due
        part = replies if at == 0 and due >= len(replies) else replies[at : at + due]
        count = len(part)
        if answered:
            futures = futures[answered:]
        self.answered = answered + count
        self.due = due - count
        if HARMLESS.issuperset(map(type, part)):
            try:
                consume(map(_set_result, futures, part))
                return at + count
            except InvalidStateError:
                pass  # a caller has given up; the others have their replies
        for future, reply in zip(futures, part, strict=False):
            if isinstance(reply, Exception):
                on_error(reply)
                if not future.done():
                    future.set_exception(reply)
            elif not future.done():
                future.set_result(reply)
        return at + count

    def waiting(self) -> Iterable[Future[Any]]:
        """Return the futures whose callers still wait."""
        return [future for future in self.futures if not future.done()]

    def asked(self, replies: int | None = None) -> list[tuple[bytes, int]]:
        """Return what the callers of the next replies sent (None: all): bytes, and the number of commands in them."""
        until = None if replies is None else self.answered + replies
        due = slice(self.answered, until)
        pairs = zip(self.futures[due], self.packed[due], strict=False)
        return [(packed, 1) for future, packed in pairs if not future.done()]

    def asking(self) -> list[tuple[Future[Any], bytes]]:
        """Return the future and the packed bytes of each command without a reply."""
        return list(zip(self.futures[self.answered :], self.packed[self.answered :], strict=False))


class PipelineRequest:
    """Commands that were sent together, with one future for the list of replies. Errors are values in the list."""

    __slots__ = ("decode", "due", "future", "packed", "quiet", "replies", "started")

    def __init__(
        self, started: float, future: Future[list[Any]], packed: bytes, decode: Sequence[bool], quiet: bool = False
    ) -> None:
        self.started = started
        self.quiet = quiet
        """Whether errors among its replies concern only its caller."""
        self.future = future
        self.packed = [packed]
        self.decode = decode
        self.due = len(decode)
        self.replies: list[Any] = []

    @property
    def next_due(self) -> Future[list[Any]]:
        return self.future

    @property
    def decode_due(self) -> Sequence[bool]:
        return self.decode[len(self.replies) :]

    def take(self, replies: list[Any], at: int, on_error: OnError) -> int:
        part = replies[at : at + self.due]
        self.replies += part
        self.due -= len(part)
        for reply in part:
            if reply.__class__ is not bytes and isinstance(reply, Exception) and not self.quiet:
                on_error(reply)
        if not self.due and not self.future.done():
            self.future.set_result(self.replies)
        return at + len(part)

    def waiting(self) -> Iterable[Future[Any]]:
        return () if self.future.done() else (self.future,)

    def asking(self) -> list[tuple[Future[Any], bytes]]:
        return [(self.future, self.packed[0])]

    def asked(self, replies: int | None = None) -> list[tuple[bytes, int]]:
        if self.future.done() or (replies is not None and replies < self.due):
            return []
        return [(self.packed[0], len(self.decode))]


def sealed(started: float, gathered: list[Any]) -> list[Batch | PipelineRequest]:
    """Return gathered commands in order, as batches and pipelines, without those whose callers have given up."""
    found: list[Batch | PipelineRequest] = []
    plain: list[Any] = []
    for future, packed, way in zip(gathered[::3], gathered[1::3], gathered[2::3], strict=True):
        if future.done():
            continue
        if way.__class__ is not PipelineRequest:
            plain += future, packed, way
            continue
        if plain:
            found.append(Batch(started, plain))
            plain = []
        way.started = started
        found.append(way)
    if plain:
        found.append(Batch(started, plain))
    return found


def pipelines_in(gathered: list[Any]) -> int:
    """Return how many of the gathered entries are pipelines."""
    return sum(way.__class__ is PipelineRequest for way in gathered[2::3])


def drop_cancelled(batches: Iterable[Batch | PipelineRequest]) -> list[Batch | PipelineRequest]:
    """Return unwritten batches without the commands whose callers have given up since."""
    found: list[Batch | PipelineRequest] = []
    for batch in batches:
        if batch.__class__ is Batch:
            gathered = [
                each for triple in zip(batch.futures, batch.packed, batch.decode, strict=True) for each in triple
            ]
            found += sealed(batch.started, gathered)
        elif batch.waiting():
            found.append(batch)
    return found
