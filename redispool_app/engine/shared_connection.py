"""One connection that all coroutines of an event loop share.

redis-py connects and authenticates; then this protocol takes over the transport. Mutable state: ``_unsent``, what is
gathered during this loop tick, ``_gathering``, the last of it while it takes more, and ``_due``, what was written and
is still to be answered, in order. Every change of state is a plain function: nothing can be cancelled half-way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from .batches import Batch, Unit
from .connections import forget_stream
from .outcomes import ConnectionLostError, ReplyTimeoutError, ReplyTooLargeError, silent_since, stuck_from
from .replies import INCOMPLETE, NOT_A_REPLY, UNDECODED, decoded, error_parser, invalid
from .slow_commands import SlowCommands
from .statistics import Statistics

_EARLY = 32
"""A tick with more commands than this writes before its end, so that the server works beside it, not after it."""


class SharedConnection(asyncio.Protocol):
    """A redis-py connection whose transport many callers write to and whose replies each get their own.

    ``timeout`` is how long a caller waits for its reply, in seconds, None for ever.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float | None,
        statistics: Statistics,
        on_replies: Callable[[int, float], None],
        on_error: Callable[[Exception], None],
        on_lost: Callable[[SharedConnection, BaseException, float | None], None],
        slow: SlowCommands,
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
        self._slow = slow
        self._slow_from = slow.threshold
        self._loop = asyncio.get_running_loop()
        # Not the loop's method, which is a Python frame around this. The batches count on this very class.
        self._create_future = partial(asyncio.Future, loop=self._loop)
        self._tick = 0.0
        self._unsent: list[Batch | Unit] = []
        self._gathering: Batch | None = None
        self._due: deque[Batch | Unit] = deque()
        self._written: deque[tuple[Batch | Unit, int]] = deque()
        """The last of each write and the write's size: with its answer those bytes are no longer in flight."""
        self._tick_ends = False
        """Whether the end of the running tick is going to flush."""
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.last_received = monotonic()
        """When the last reply came, or it was made (monotonic seconds)."""
        self._reader = _make_reader(connection)
        self._feed, self._gets = self._reader.feed, self._reader.gets
        self._pushes = int(connection.get_protocol()) == 3
        encoder = connection.encoder
        self._decodes = bool(encoder.decode_responses)
        # Where pushes may come, a reply must be told from one before anything in it can fail to decode.
        self._decoding = (encoder.encoding, encoder.encoding_errors) if self._decodes and self._pushes else None
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
        batch = self._gathering or self._gather()
        futures = batch.futures
        futures.append(future)
        batch.packed.append(packed)
        if self._decodes:
            batch.decode.append(decode)
        self.in_flight += 1
        self.bytes_in_flight += len(packed)
        if len(futures) >= _EARLY:
            self._flush()
        return future

    def send_unit(self, packed: bytes, decode: Sequence[bool], quiet: bool = False) -> asyncio.Future[list[Any]]:
        """Send several packed commands as one unit; ``decode`` has an entry for each reply.

        Errors among the replies to a ``quiet`` unit are reported to nobody.
        """
        future: asyncio.Future[list[Any]] = self._create_future()
        self._begin_tick()
        self._gathering = None  # what is asked for later leaves later
        self._unsent.append(Unit(self._tick, future, packed, decode, quiet))
        self.in_flight += len(decode)
        self.bytes_in_flight += len(packed)
        return future

    def _gather(self) -> Batch:
        self._begin_tick()
        self._gathering = batch = Batch(self._tick)
        self._unsent.append(batch)
        return batch

    def _begin_tick(self) -> None:
        if not self._tick_ends:
            self._tick_ends = True
            self._tick = monotonic()
            self._loop.call_soon(self._end_tick)

    def _end_tick(self) -> None:
        self._tick_ends = False
        self._flush()

    def limit(self, future: asyncio.Future[Any], deadline: float, sent: tuple[bytes, int]) -> asyncio.TimerHandle:
        """Let the caller of ``future`` wait no longer than until ``deadline``, which is before this connection's."""
        return self._loop.call_later(max(0.0, deadline - monotonic()), self._end_wait, future, deadline, sent)

    def _end_wait(self, future: asyncio.Future[Any], deadline: float, sent: tuple[bytes, int]) -> None:
        if not future.done():
            self._slow.note_all([sent], self.timeout or 0.0)
            unsent = any(future in batch.waiting() for batch in self._unsent)
            self._time_out(future, deadline - (self.timeout or 0.0), written=not unsent)

    # Writing: once per tick, or for each ``_EARLY`` commands of a long one.

    def _flush(self) -> None:
        self._gathering = None
        # A closing transport drops what it is given: that stays unsent until ``connection_lost``, which is on its way.
        if self._paused or self.closed or self._transport.is_closing():
            return
        chunks: list[bytes] = []
        for batch in self._unsent:
            # Whose caller left before anything was written: nobody need ever know.
            commands, size = batch.drop_leavers()
            if commands:
                self.in_flight -= commands
                self.bytes_in_flight -= size
            if batch.due:
                chunks += batch.packed
                self._due.append(batch)
        self._unsent.clear()
        if not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._written.append((self._due[-1], len(data)))
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
        self._statistics.bytes_received += len(data)
        replies: list[Any] = []
        try:
            self._feed(data)
            if self._decodes:
                self._parse_decoding(replies)
            else:
                replies.extend(iter(self._gets, INCOMPLETE))
        except NOT_A_REPLY as error:
            self._hand_out(replies)  # what came before it
            self._lose(invalid(error))
            return
        self._hand_out(replies)

    def _parse_decoding(self, replies: list[Any]) -> None:
        """Parse where each caller says whether it wants text."""
        gets, decoding = self._gets, self._decoding
        for decode in chain.from_iterable(batch.decode_due for batch in self._due):
            while True:
                try:
                    reply = gets() if decode and not decoding else gets(False)
                    if decoding and decode and reply.__class__ not in UNDECODED:
                        reply = decoded(reply, *decoding)
                except (UnicodeDecodeError, RecursionError) as error:
                    reply = error  # this caller's; hiredis has gone on to the next reply
                if reply.__class__ is not hiredis.PushNotification:
                    break
            if reply is INCOMPLETE:
                return
            replies.append(reply)
        replies.extend(iter(partial(gets, False), INCOMPLETE))

    def _hand_out(self, replies: list[Any]) -> None:
        if self._pushes:
            replies = [reply for reply in replies if reply.__class__ is not hiredis.PushNotification]
        due, at, total = self._due, 0, len(replies)
        self.last_received = now = monotonic()
        if due and now - due[0].started >= self._slow_from:
            self._note_slow(total, now)
        while at < total and due:
            batch, before = due[0], at
            at = batch.take(replies, at, self._on_error)
            if not batch.due:
                due.popleft()
                if batch is self._written[0][0]:
                    self.bytes_in_flight -= self._written.popleft()[1]
            commands = at - before if batch.__class__ is Batch else not batch.due
            if commands:
                self._statistics.sample(now - batch.started, commands)
        if at:
            self.in_flight -= at
        if at < total:
            # Nobody waits: only an error with which the server says farewell may come.
            last = replies[at]
            text = str(last) if isinstance(last, redis_exceptions.RedisError) else "A reply came that nobody asked for"
            self._lose(redis_exceptions.InvalidResponse(text))
            return
        self._on_replies(at, now)

    def _note_slow(self, replies: int, now: float) -> None:
        """Remember who of those that the next ``replies`` are for has waited long."""
        for batch in self._due:
            if replies <= 0 or now - batch.started < self._slow_from:
                return
            self._slow.note_all(batch.asked(replies), now - batch.started)
            replies -= batch.due

    def eof_received(self) -> bool:
        return False

    # Time: one timer for all deadlines, which come in the order of the commands.

    def _expire(self) -> None:
        self._timer = None
        timeout = self.timeout
        if timeout is None or self.closed:
            return
        now = monotonic()
        upcoming = [*self._time_out_until(now - timeout, self._due, written=True)]
        if self._due and (oldest := self._due[0].started) <= now - timeout:
            stuck_at = stuck_from(oldest, self.last_received, timeout)
            if now >= stuck_at:
                self._lose(redis_exceptions.TimeoutError(f"Timeout reading from {self._where}"))
                return
            upcoming.append(stuck_at)
        upcoming += self._time_out_until(now - timeout, self._unsent, written=False)
        if upcoming:
            self._timer = self._loop.call_later(max(min(upcoming) - now, 0.001), self._expire)

    def _time_out_until(self, horizon: float, batches: Iterable[Batch | Unit], *, written: bool) -> Iterator[float]:
        """Time out who asked at ``horizon`` or earlier; yield when the next one's time is over, if there is one."""
        for batch in batches:
            if batch.started > horizon:
                yield batch.started + (self.timeout or 0.0)
                return
            self._slow.note_all(batch.asked(), monotonic() - batch.started)
            for future in batch.waiting():
                self._time_out(future, batch.started, written=written)

    def _time_out(self, future: asyncio.Future[Any], started: float, *, written: bool) -> None:
        self._statistics.timeouts += 1
        future.set_exception(ReplyTimeoutError(f"Timeout reading from {self._where}", written=written, started=started))

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
        oldest = self._due[0].started if self._due else None
        stuck = isinstance(error, redis_exceptions.TimeoutError)
        if stuck and oldest is not None:
            oldest = silent_since(oldest, self.last_received, self.timeout)
        due, self._due = self._due, deque()
        unsent, self._unsent, self._gathering = self._unsent, [], None
        self._written.clear()
        self.in_flight = self.bytes_in_flight = 0
        self._transport.abort()
        forget_stream(self.connection)
        if report:
            self._on_lost(self, error, oldest)
        text = str(error) or type(error).__name__
        if not isinstance(error, redis_exceptions.RedisError):
            text = f"Error while reading from {self._where}: {text}"
        if isinstance(error, ReplyTooLargeError) and due and not due[0].next_due.done():
            due[0].next_due.set_exception(error)  # whose reply it is; the others may ask again
        for batches, written in ((due, True), (unsent, False)):
            for batch in batches:
                for future in batch.waiting():
                    future.set_exception(ConnectionLostError(text, written=written, started=batch.started, stuck=stuck))


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
