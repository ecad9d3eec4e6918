"""One connection that all coroutines of an event loop share.

redis-py connects and authenticates; then this protocol takes over the transport. Mutable state: ``_unsent``, the
commands gathered during this loop tick, and ``_slots``, one for each reply that is still to come, in order. A caller
that leaves (cancelled, timed out) leaves its slot behind, and the reply is thrown away when it comes. Every change of
state is a plain function: nothing can be cancelled half-way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from .connections import forget_stream
from .outcomes import ConnectionLostError, ReplyTimeoutError, stuck_from
from .replies import INCOMPLETE, NOT_A_REPLY, UNDECODED, decoded, error_parser, invalid
from .statistics import Statistics

_EARLY = 32
"""A tick with more commands than this writes before its end, so that the server works beside it, not after it."""


class Unit:
    """The replies of commands that left as one: a pipeline, or MULTI to EXEC. Errors are among them as values."""

    __slots__ = ("future", "replies", "wanted")

    def __init__(self, future: asyncio.Future[list[Any]], wanted: int) -> None:
        self.future = future
        self.wanted = wanted
        self.replies: list[Any] = []

    def done(self) -> bool:
        return self.future.done()

    def set_exception(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def add(self, reply: Any) -> None:
        self.replies.append(reply)
        if len(self.replies) == self.wanted and not self.future.done():
            self.future.set_result(self.replies)


Sink = Any
"""An ``asyncio.Future`` for one reply, or a ``Unit`` for several."""


class SharedConnection(asyncio.Protocol):
    """A redis-py connection whose transport many callers write to and whose replies each get their own.

    ``timeout`` is how long a caller waits for its reply, in seconds, None for ever.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float | None,
        statistics: Statistics,
        on_replies: Callable[[int], None],
        on_error: Callable[[Exception], None],
        on_lost: Callable[[SharedConnection, BaseException, float | None], None],
    ) -> None:
        self.connection = connection
        self.timeout = timeout
        self.closed = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""
        self.in_flight = 0
        self.bytes_in_flight = 0
        self._statistics = statistics
        self._on_replies = on_replies
        self._on_error = on_error
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        # asyncio's own method is a Python frame around this; uvloop's is not.
        plain = type(self._loop).create_future is asyncio.BaseEventLoop.create_future
        self._create_future = partial(asyncio.Future, loop=self._loop) if plain else self._loop.create_future
        self._tick = 0.0
        self._unsent: list[tuple[Sink, Any, float, int, bytes]] = []
        self._slots: deque[tuple[Sink, bool, float, int, bytes]] = deque()
        self._flushing = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_received = monotonic()
        self._reader = _make_reader(connection)
        encoder = connection.encoder
        # Where pushes may come, a reply must be told from one before anything in it can fail to decode.
        self._decoding = (
            (encoder.encoding, encoder.encoding_errors)
            if encoder.decode_responses and int(connection.get_protocol()) == 3
            else None
        )
        self._where = connection._host_error()
        self._take_over()

    def _take_over(self) -> None:
        stream = self.connection._reader
        self._transport: asyncio.Transport = self.connection._writer.transport
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)
        left = bytes(stream._buffer)
        if left:
            stream._buffer.clear()
            self._loop.call_soon(self.data_received, left)
        if stream.at_eof() or self._transport.is_closing():
            self._loop.call_soon(self.connection_lost, None)

    # What callers ask.

    def send(self, packed: bytes, decode: bool) -> asyncio.Future[Any]:
        """Send one packed command with the others of this tick; the future brings its reply or its error."""
        future: asyncio.Future[Any] = self._create_future()
        if not self._flushing:
            self._flushing = True
            self._tick = monotonic()
            self._loop.call_soon(self._flush)
        size = len(packed)
        unsent = self._unsent
        unsent.append((future, decode, self._tick, size, packed))
        self.in_flight += 1
        self.bytes_in_flight += size
        if len(unsent) >= _EARLY:
            self._flush()
            self._flushing = True  # the tick's own flush is still to come
        return future

    def send_unit(self, packed: bytes, decode: Sequence[bool]) -> asyncio.Future[list[Any]]:
        """Send several packed commands as one unit; ``decode`` has an entry for each reply."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not self._flushing:
            self._flushing = True
            self._tick = monotonic()
            self._loop.call_soon(self._flush)
        self._unsent.append((Unit(future, len(decode)), decode, self._tick, len(packed), packed))
        self.in_flight += len(decode)
        self.bytes_in_flight += len(packed)
        return future

    def limit(self, future: asyncio.Future[Any], deadline: float) -> asyncio.TimerHandle:
        """Let the caller of ``future`` wait no longer than until ``deadline``, which is before this connection's."""
        return self._loop.call_later(max(0.0, deadline - monotonic()), self._end_wait, future, deadline)

    def _end_wait(self, future: asyncio.Future[Any], deadline: float) -> None:
        unsent = any(future in (sink, getattr(sink, "future", None)) for sink, *_ in self._unsent)
        self._time_out(future, deadline - (self.timeout or 0.0), written=not unsent)

    # Writing: once per tick, or for each ``_EARLY`` commands of a long one.

    def _flush(self) -> None:
        self._flushing = False
        # A closing transport drops what it is given: that stays unsent until ``connection_lost``, which is on its way.
        if self._paused or self.closed or self._transport.is_closing():
            return
        slots, chunks = self._slots, []
        for slot in self._unsent:
            sink, decode, started, size, packed = slot
            if sink.done():
                # Its caller left before anything was written: nobody need ever know.
                self.in_flight -= 1 if decode.__class__ is bool else len(decode)
                self.bytes_in_flight -= size
                continue
            chunks.append(packed)
            if decode.__class__ is bool:
                slots.append(slot)
            else:
                last = len(decode) - 1
                for position, each in enumerate(decode):
                    slots.append((sink, each, started, size if position == last else 0, b""))
        self._unsent.clear()
        if not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        statistics = self._statistics
        statistics.commands += len(chunks)
        statistics.batches += 1
        statistics.bytes_sent += len(data)
        if self._timer is None and self.timeout is not None:
            # Never early: what this flush adds is not older than the timer's own start.
            self._timer = self._loop.call_later(self.timeout, self._expire)
        self._transport.write(data)

    def pause_writing(self) -> None:
        self._paused = True
        if self._timer is None and self.timeout is not None:
            self._timer = self._loop.call_later(self.timeout, self._expire)

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    # Reading: replies come in the order of their commands.

    def data_received(self, data: bytes) -> None:
        reader, slots = self._reader, self._slots
        gets, popleft = reader.gets, slots.popleft
        decoding = self._decoding
        count = freed = 0
        started = 0.0
        try:
            reader.feed(data)
            while slots:
                sink, decode, began, size, _ = slots[0]
                try:
                    reply = gets() if decode and not decoding else gets(False)
                    if decoding and decode and reply.__class__ not in UNDECODED:
                        reply = decoded(reply, *decoding)
                except (UnicodeDecodeError, RecursionError) as error:
                    reply = error  # this caller's; hiredis has gone on to the next reply
                if reply.__class__ is bytes and sink.__class__ is not Unit:
                    # The commonest case first: nothing else that hiredis gives back is of this class.
                    popleft()
                    count += 1
                    started = began
                    freed += size
                    if not sink.done():
                        sink.set_result(reply)
                    continue
                if reply is INCOMPLETE:
                    break
                if reply.__class__ is hiredis.PushNotification:
                    continue
                popleft()
                count += 1
                started = began
                freed += size
                if isinstance(reply, Exception):
                    self._on_error(reply)
                    if sink.__class__ is Unit:
                        sink.add(reply)
                    elif not sink.done():
                        sink.set_exception(reply)
                elif sink.__class__ is Unit:
                    sink.add(reply)
                elif not sink.done():
                    sink.set_result(reply)
            else:
                self._receive_unasked(gets)
        except NOT_A_REPLY as error:
            self._lose(invalid(error))
            return
        now = monotonic()
        self._last_received = now
        self._statistics.bytes_received += len(data)
        if count:
            self.in_flight -= count
            self.bytes_in_flight -= freed
            self._statistics.sample(now - started)
        self._on_replies(count)

    def _receive_unasked(self, gets: Callable[..., Any]) -> None:
        """Nobody waits: only a push, or an error with which the server says farewell, may come."""
        while (reply := gets(False)) is not INCOMPLETE:
            if reply.__class__ is hiredis.PushNotification:
                continue
            error = reply if isinstance(reply, redis_exceptions.RedisError) else None
            raise redis_exceptions.InvalidResponse(str(error) if error else "A reply came that nobody asked for")

    def eof_received(self) -> bool:
        return False

    # Time: one timer for all deadlines, which come in the order of the commands.

    def _expire(self) -> None:
        self._timer = None
        timeout = self.timeout
        if timeout is None or self.closed:
            return
        now = monotonic()
        horizon = now - timeout
        upcoming: list[float] = []
        for sink, _, started, *_ in self._slots:
            if started > horizon:
                upcoming.append(started + timeout)
                break
            self._time_out(sink, started, written=True)
        if self._slots and (oldest := self._slots[0][2]) <= horizon:
            stuck_at = stuck_from(oldest, self._last_received, timeout)
            if now >= stuck_at:
                self._lose(redis_exceptions.TimeoutError(f"Timeout reading from {self._where}"))
                return
            upcoming.append(stuck_at)
        for sink, _, started, *_ in self._unsent:
            if started > horizon:
                upcoming.append(started + timeout)
                break
            self._time_out(sink, started, written=False)
        if upcoming:
            self._timer = self._loop.call_later(max(min(upcoming) - now, 0.001), self._expire)

    def _time_out(self, sink: Sink, started: float, *, written: bool) -> None:
        if not sink.done():
            self._statistics.timeouts += 1
            sink.set_exception(
                ReplyTimeoutError(f"Timeout reading from {self._where}", written=written, started=started)
            )

    # The end.

    def connection_lost(self, error: Exception | None) -> None:
        self._former.connection_lost(error)
        if not self.gone.done():
            self.gone.set_result(None)
        if not self.closed:
            self._lose(error or redis_exceptions.ConnectionError("Connection closed by server."))

    def close(self) -> None:
        """Close at once; callers that still wait get ``ConnectionLostError``."""
        if not self.closed:
            self._lose(redis_exceptions.ConnectionError("The connection was closed."), report=False)

    def _lose(self, error: BaseException, *, report: bool = True) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        oldest = self._slots[0][2] if self._slots else None
        slots, self._slots = self._slots, deque()
        unsent, self._unsent = self._unsent, []
        self.in_flight = self.bytes_in_flight = 0
        self._transport.abort()
        forget_stream(self.connection)
        if report:
            self._on_lost(self, error, oldest)
        text = str(error) or type(error).__name__
        stuck = isinstance(error, redis_exceptions.TimeoutError)
        if not isinstance(error, redis_exceptions.RedisError):
            text = f"Error while reading from {self._where}: {text}"
        for sink, _, started, *_ in slots:
            if not sink.done():
                sink.set_exception(ConnectionLostError(text, written=True, started=started, stuck=stuck))
        for sink, _, started, *_ in unsent:
            if not sink.done():
                sink.set_exception(ConnectionLostError(text, written=False, started=started, stuck=stuck))


def _make_reader(connection: Any) -> Any:
    options: dict[str, Any] = {
        "protocolError": redis_exceptions.InvalidResponse,
        "replyError": error_parser(connection),
        "notEnoughData": INCOMPLETE,
    }
    encoder = connection.encoder
    if encoder.decode_responses:
        options.update(encoding=encoder.encoding, errors=encoder.encoding_errors)
    return hiredis.Reader(**options)
