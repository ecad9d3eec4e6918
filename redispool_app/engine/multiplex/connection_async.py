"""One connection that all coroutines of an event loop share.

redis-py connects and authenticates. Then this protocol takes over the transport. Its mutable state has three parts.
``_gathered`` holds the commands of the running tick. ``_held`` holds what the transport could not take yet. ``_due``
holds what was written and has no reply yet, in order. Every state change is a plain function, so that no cancellation
can interrupt it.

Other code can run, and can raise, between any two bytecodes: signal handlers, finalizers, ``MemoryError``. Four rules
follow from that. One C call gathers a command. No state changes before the bytes to write are ready. An exception after
that point, or while replies are handed out, closes the connection. The next periodic check repeats what an interrupt
has prevented.
"""

from __future__ import annotations

import asyncio
import math
import os
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Sequence
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.protocol.replies import INCOMPLETE, NOT_A_REPLY, UNDECODED, decoded, invalid
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.lost_callbacks import schedule_lost_callbacks
from redispool_app.engine.runtime.socket_look import HUNG_UP, poll_of

from .request_async import Batch, PipelineRequest, done, drop_cancelled, pipelines_in, sealed
from .watched_connection import INTERRUPTED, Noted, WatchedConnection

_EARLY = 3 * 32
"""A tick with more than 32 commands (three entries each) writes before its end, so that the server can begin to work.
"""

_FRESH = 0.001
"""A connection that received data within this many seconds is not checked for a closed peer."""

_MOST_POSTPONED = 3
"""Number of event loop iterations after which the loop has read what arrived before a write."""

_BUFFER = 256 * 1024
"""Bytes per read; the same number as in asyncio."""


class SharedConnection(WatchedConnection):
    """A redis-py connection whose transport carries the commands of many callers. Each caller gets its own reply."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._poll = poll_of(self._transport)
        self._take_over()

    def _take_over(self) -> None:
        stream = self.connection._reader
        self._transport.set_protocol(self)  # type: ignore[arg-type]
        left = bytes(stream._buffer)
        if left:
            stream._buffer.clear()
            self._loop.call_soon(self.data_received, left)
        if stream.at_eof() or self._transport.is_closing():
            self._loop.call_soon(self.connection_lost, None)

    # Methods for callers.

    def send(self, packed: bytes, decode: bool) -> asyncio.Future[Any]:
        """Send one packed command with the others of this tick. The returned future gets its reply or its error."""
        future: asyncio.Future[Any] = self._create_future()
        try:
            if self._tick_end is None:
                self._begin_tick()
            gathered = self._gathered
            gathered += future, packed, decode  # one step: all three entries are appended, or none
            self.in_flight += 1
            self.bytes_in_flight += len(packed)
            if len(gathered) >= _EARLY:
                self._flush()
        except BaseException as error:
            _discard(future)
            schedule_lost_callbacks(self._loop, error)
            raise
        return future

    def send_pipeline(self, packed: bytes, decode: Sequence[bool], quiet: bool = False) -> asyncio.Future[list[Any]]:
        """Send several packed commands together; ``decode`` has an entry for each reply.

        Errors among the replies to a ``quiet`` request are not reported to the monitor.
        """
        future: asyncio.Future[list[Any]] = self._create_future()
        try:
            if self._tick_end is None:
                self._begin_tick()
            elif (now := monotonic()) > self._looks_until:
                self._begin_looking(now)  # the end-of-tick callback was lost, and so were the periodic checks
            unit = PipelineRequest(self._tick, future, packed, decode, quiet)
            self._unit_marks.append(None)
            gathered = self._gathered
            gathered += future, packed, unit
            self.in_flight += len(decode)
            self.bytes_in_flight += len(packed)
        except BaseException as error:
            _discard(future)
            schedule_lost_callbacks(self._loop, error)
            raise
        return future

    def _begin_tick(self) -> None:
        if not mark[0]:
            fork.use_running_loop()  # raises
        now = monotonic()
        if not self._gathered:
            self._tick = now
        if now > self._looks_until:
            self._begin_looking(now)
        self._tick_end = self._loop.call_soon(self._flush, True)

    def limit(self, future: asyncio.Future[Any], deadline: float, sent: tuple[bytes, int]) -> asyncio.TimerHandle:
        """Shorten the wait of ``future`` to ``deadline``, which is before this connection's own."""
        return self._loop.call_later(max(0.0, deadline - monotonic()), self._end_wait, future, deadline, sent)

    def _end_wait(self, future: asyncio.Future[Any], deadline: float, sent: tuple[bytes, int]) -> None:
        if not future.done():
            held = any(future in batch.waiting() for batch in self._held)
            unsent = held or any(each is future for each in self._gathered)
            self._time_out([future], deadline - (self.timeout or 0.0), written=not unsent)
            self._note_slow([([sent], self.timeout or 0.0)])

    # Writing: once per tick, or after every 32 commands in a long tick.

    def _flush(self, ends_tick: bool = False) -> None:
        if ends_tick:
            self._tick_end = None
        if self._flushing:
            return  # called by code that interrupted a flush: the end of the tick sends it
        if not mark[0]:
            fork.renew()
        committed = False
        try:
            self._flushing = True
            if self.closed:
                self._end()
                return
            gathered = self._gathered
            size = len(gathered)
            if not size and not self._held:
                return
            # A closing transport drops what is written to it. So the data stays here until ``connection_lost`` is
            # called.
            if self._paused or self._transport.is_closing():
                committed = True
                self._hold(size)
                return
            if not self._due and monotonic() - self.last_received > _FRESH and self._must_read_first():
                return
            flat = gathered[:size]
            batch = Batch(self._tick, flat)
            batches: list[Batch | PipelineRequest] = []
            last: Batch | PipelineRequest = batch
            packed, commands, units = batch.packed, batch.due, 0
            special = self._held or self._unit_marks or True in map(done, batch.futures)
            if special:
                # A caller that gave up before anything was written is dropped: the server has not seen its command.
                batches = [*drop_cancelled(self._held), *sealed(self._tick, flat)]
                packed = [each for part in batches for each in part.packed]
                commands, units = sum(part.due for part in batches), pipelines_in(flat)
            data = b"".join(packed)
            # Nothing has changed so far. From here on what is in ``_due`` counts as written.
            committed = True
            if special:
                self._due.extend(batches)
                self._held = []
                for _ in range(units):
                    self._unit_marks.popleft()
                last = batches[-1] if batches else batch
            else:
                self._due.append(batch)
            del gathered[:size]
            self._due_commands = self.in_flight = self._due_commands + commands
            self._due_bytes = self.bytes_in_flight = self._due_bytes + len(data)
            if not data:
                return
            self._written.append((last, len(data)))
            statistics = self._statistics
            statistics.commands += len(packed)
            statistics.batches += 1
            statistics.bytes_sent += len(data)
            if not mark[0]:
                fork.renew()
                return
            self._transport.write(data)
        except BaseException as error:
            if committed or isinstance(error, MemoryError):
                self._break(error)
            elif self._tick_end is None:
                self._tick_end = self._loop.call_soon(self._flush, True)
            raise
        finally:
            self._flushing = False

    def _hold(self, size: int) -> None:
        """Keep the gathered commands, with the time of their request, until the transport takes more."""
        gathered = self._gathered
        flat = gathered[:size]
        self._held.extend(sealed(self._tick, flat))
        del gathered[:size]
        for _ in range(pipelines_in(flat)):
            self._unit_marks.popleft()
        self.in_flight = self._due_commands + sum(batch.due for batch in self._held)
        self.bytes_in_flight = self._due_bytes + sum(len(each) for batch in self._held for each in batch.packed)

    def _must_read_first(self) -> bool:
        """Whether the event loop must first read data, or an end of file, that has arrived on an idle connection.

        A command that is not yet written when the connection ends can safely be sent again.
        """
        events = self._poll(0) if self._poll is not None else ()
        if not events or self._postponed == _MOST_POSTPONED:
            self._postponed = 0
            if events and events[0][1] & HUNG_UP:
                self._lose(redis_exceptions.ConnectionError("Connection closed by server."))
                return True
            return False
        self._postponed += 1
        if self._tick_end is None:
            self._begin_tick()
        return True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    # Reading: replies come in the order of their commands.

    def data_received(self, data: bytes) -> None:
        if not mark[0]:
            fork.renew()
        try:
            if self.closed:
                return
            self._statistics.bytes_received += len(data)
            replies: list[Any] = []
            try:
                self._feed(data)
                if self._decodes:
                    self._parse_decoding(replies)
                else:
                    replies.extend(iter(self._gets, INCOMPLETE))
            except NOT_A_REPLY as error:
                self._hand_out(replies)  # the replies before the error
                self._lose(invalid(error))
                return
            self._hand_out(replies)
        except BaseException as error:
            self._break(error)
            raise

    def _parse_decoding(self, replies: list[Any]) -> None:
        """Parse replies where each caller chooses whether it wants text."""
        gets, decoding = self._gets, self._decoding
        for decode in chain.from_iterable(batch.decode_due for batch in self._due):
            while True:
                try:
                    reply = gets() if decode and not decoding else gets(False)
                except UnicodeDecodeError as error:
                    reply = error  # the error belongs to this caller; hiredis has moved on to the next reply
                if reply.__class__ is not hiredis.PushNotification:
                    break
            if reply is INCOMPLETE:
                return
            if decoding and decode and reply.__class__ not in UNDECODED:
                try:
                    reply = decoded(reply, *decoding)
                except (UnicodeDecodeError, RecursionError) as error:
                    reply = error
            replies.append(reply)
        replies.extend(iter(partial(gets, False), INCOMPLETE))

    def _hand_out(self, replies: list[Any]) -> None:
        if self._pushes:
            replies = [reply for reply in replies if reply.__class__ is not hiredis.PushNotification]
        due, at, total = self._due, 0, len(replies)
        self.last_received = now = monotonic()
        slow = self._slow_among(total, now) if due and now - due[0].started >= self._slow_from else None
        while at < total and due:
            batch, before = due[0], at
            at = batch.take(replies, at, self._note_error)
            if not batch.due:
                due.popleft()
                if batch is self._written[0][0]:
                    size = self._written.popleft()[1]
                    self._due_bytes -= size
                    self.bytes_in_flight -= size
            commands, waited = (at - before if batch.__class__ is Batch else not batch.due), now - batch.started
            if commands:
                self._statistics.sample(waited, commands)
            if waited < self._round_trip:
                self._round_trip = waited
        self._due_commands -= at
        self.in_flight -= at
        # The state is consistent here. Code called from here on may run foreign code.
        if self._errors:
            self._report_errors()
        if self.stalled is not None and at:
            self._recover()
        if at < total:
            # No caller waits. Only an error that the server sends before it closes the connection may come.
            last = replies[at]
            text = str(last) if isinstance(last, redis_exceptions.RedisError) else "The server sent an unexpected reply"
            self._lose(redis_exceptions.InvalidResponse(text))
        else:
            self._on_replies(at, now)
        if slow:
            self._note_slow(slow)

    def _recover(self) -> None:
        self.stalled = self._seen = self._passed = None
        self._sent_one_at = -math.inf
        if self.on_recovered is not None:
            self.on_recovered(self)

    def _report_errors(self) -> None:
        errors = self._errors[:]
        del self._errors[: len(errors)]
        for error in errors:
            self._on_error(error)

    def _slow_among(self, replies: int, now: float) -> Noted:
        """Return which callers of the next ``replies`` have waited long, and how long."""
        found: Noted = []
        for batch in self._due:
            if replies <= 0 or now - batch.started < self._slow_from:
                break
            found.append((batch.asked(replies), now - batch.started))
            replies -= batch.due
        return found

    def eof_received(self) -> bool:
        return False


class _StreamedConnection(SharedConnection, asyncio.Protocol):
    """For event loops such as uvloop, which close a connection whose protocol raises any exception."""


class _BufferedConnection(SharedConnection, asyncio.BufferedProtocol):
    """For asyncio's own event loops, where this class must detect bytes that an interrupt has lost.

    ``KeyboardInterrupt`` leaves a transport open. If it is raised after the read from the socket and before the
    protocol has the bytes, all later replies would shift. Here the protocol owns the buffer. It sees that the buffer
    was requested and that no byte count followed.
    """

    def __init__(self, connection: Any, *args: Any) -> None:
        self._is_reading = False
        self._buffer = memoryview(bytearray(_BUFFER))
        # A TLS transport requests the buffer before it knows whether there is data.
        speaks_tls = connection._writer.get_extra_info("sslcontext") is not None
        self._mark = os.urandom(16) if speaks_tls else b""
        self._mark_size = len(self._mark)
        super().__init__(connection, *args)

    def _has_lost_bytes(self) -> bool:
        if not self._is_reading:
            return False
        return not self._mark or self._buffer[: self._mark_size] != self._mark

    def get_buffer(self, sizehint: int) -> memoryview:
        if not mark[0]:
            fork.renew()  # then there is nothing to read
        if self._is_reading and self._has_lost_bytes() and not self.closed:
            self._lose_for(INTERRUPTED)
        if self._mark_size:
            self._buffer[: self._mark_size] = self._mark
        self._is_reading = True
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        if not mark[0]:
            fork.renew()
        try:
            self._is_reading = False
            if self.closed:
                return
            self._statistics.bytes_received += size
            replies: list[Any] = []
            try:
                self._feed(self._buffer, 0, size)
                if self._decodes:
                    self._parse_decoding(replies)
                else:
                    replies.extend(iter(self._gets, INCOMPLETE))
            except NOT_A_REPLY as error:
                self._hand_out(replies)
                self._lose(invalid(error))
                return
            self._hand_out(replies)
        except BaseException as error:
            self._break(error)
            raise


def share(connection: Any, *args: Any) -> SharedConnection:
    """Return ``connection``, which redis-py has made on the running event loop, as one that callers share.

    The other arguments are those of ``WatchedConnection``.
    """
    reads_into = isinstance(asyncio.get_running_loop(), BaseSelectorEventLoop)
    return (_BufferedConnection if reads_into else _StreamedConnection)(connection, *args)


def _discard(future: asyncio.Future[Any]) -> None:
    """Drop a future that its interrupted caller will never await."""
    if not future.cancel() and not future.cancelled():
        future.exception()  # so that asyncio does not warn about an unretrieved exception
