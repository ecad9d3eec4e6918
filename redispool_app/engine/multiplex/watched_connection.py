"""What ends on an event loop's shared connection: expired waits, and the connection itself.

Two rows of timers check a connection every 50 ms while commands are in flight. They time out callers, and repeat what
an interrupt has prevented. An exception that a signal handler raises inside the event loop can lose the end of a tick,
the notice that the transport takes more data, bytes just read, or the notice that the connection is closed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain, takewhile
from time import monotonic
from typing import Any, NamedTuple

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.connection_async import forget_stream
from redispool_app.engine.errors import ConnectionLostError, ReplyTimeoutError, ReplyTooLargeError
from redispool_app.engine.protocol.replies import make_reader
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell_all
from redispool_app.engine.runtime.lost_callbacks import abort, put_timers_in_order, schedule_lost_callbacks
from redispool_app.engine.stats.counters import HELD_BACK, LARGE_REPLY, Statistics
from redispool_app.engine.stats.slow_log import SlowLog

from .request_async import Batch, PipelineRequest
from .retry import StalledError, stuck_deadline, unanswered_since
from .stalls import AGAIN_AFTER, ALONE, SHORTEST, patience, reads_only

_LOOK = 0.05
"""Seconds between two checks."""

_LATE_LOOK = 1.0
"""Seconds until the first check after those, and between two of these."""

Noted = list[tuple[list[tuple[bytes, int]], float]]
"""What slow callers have sent, and how many seconds they waited."""


class _Loss(NamedTuple):
    """Why the connection ended, and what its owner and its callers are notified of."""

    error: BaseException
    report: bool
    oldest: float | None
    text: str
    stuck: bool


INTERRUPTED = _Loss(
    redis_exceptions.ConnectionError(), True, None, "An exception interrupted the reading of a reply.", False
)


_FORKED = _Loss(redis_exceptions.ConnectionError(), False, None, "The process was forked during this call.", False)


class WatchedConnection:
    """The state of a shared connection, and how waits and the connection end.

    ``timeout`` is how long a caller waits for its reply, in seconds; None: no limit.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float | None,
        statistics: Statistics,
        on_replies: Callable[[int, float], None],
        on_error: Callable[[Exception], None],
        on_lost: Callable[[Any, BaseException, float | None], None],
        slow: SlowLog,
    ) -> None:
        self.connection = connection
        self.timeout = timeout
        self.closed = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""
        self.in_flight = 0
        self.bytes_in_flight = 0
        # Without gathered commands: each flush starts from these counts, so an interrupted caller leaves no wrong
        # count.
        self._due_commands = 0
        self._due_bytes = 0
        self._statistics = statistics
        self._on_replies = on_replies
        self._on_error = on_error
        self._on_lost = on_lost
        self._slow = slow
        self._slow_from = slow.threshold
        self._loop = asyncio.get_running_loop()
        # Not the loop's method, which is a Python frame around this clock. The batches rely on this very function.
        self._create_future = partial(asyncio.Future, loop=self._loop)
        self._tick = 0.0
        """When the first gathered command was requested."""
        self._gathered: list[Any] = []
        """Future, packed bytes and ``decode`` flag of each command; see ``request_async``."""
        self._unit_marks: deque[None] = deque()
        """At least one for each gathered pipeline: increased before it is added, decreased after it was sealed."""
        self._held: list[Batch | PipelineRequest] = []
        self._due: deque[Batch | PipelineRequest] = deque()
        self._written: deque[tuple[Batch | PipelineRequest, int]] = deque()
        """The last request of each write, and the size of the write.

        With its reply those bytes are no longer in flight.
        """
        self._tick_end: asyncio.Handle | None = None
        """The callback that flushes at the end of the running tick. An interrupted event loop may have lost it."""
        self._flushing = False
        self._postponed = 0
        self._paused = False
        self._looks = 0
        self._looks_until = 0.0
        """Until when the scheduled checks are trusted to run."""
        self._errors: list[Exception] = []
        self._note_error = self._errors.append
        self.stalled: str | None = None
        """Why no reply completes; None while replies complete."""
        self.stalled_at = 0.0
        """When the stall was noticed (monotonic seconds)."""
        self.stall_after = SHORTEST
        """Seconds without a reply after which the connection is stalled."""
        self._round_trip = math.inf
        """The shortest round trip so far, in seconds."""
        self.on_stalled: Callable[[Any], None] | None = None
        self.on_recovered: Callable[[Any], None] | None = None
        self._seen: tuple[Batch | PipelineRequest, int, float] | None = None
        """The first pending request at a check, how many replies of it, and since when."""
        self._last_look = 0.0
        self._sent_one_at = -math.inf
        """When a single read was last sent on another connection (monotonic seconds)."""
        self._passed: Batch | PipelineRequest | None = None
        """The reads up to this one have been sent on another connection."""
        self._loss: _Loss | None = None
        self._reports = 0
        self._passes = 0
        self._seen_closing = 0
        self.last_received = monotonic()
        """When the last reply arrived, or the connection was made (monotonic seconds)."""
        self._reader = make_reader(connection)
        self._feed, self._gets = self._reader.feed, self._reader.gets
        self._pushes = int(connection.get_protocol()) == 3
        encoder = connection.encoder
        self._decodes = bool(encoder.decode_responses)
        # If pushes may come, a reply must be told from a push before anything in it can fail to decode.
        self._decoding = (encoder.encoding, encoder.encoding_errors) if self._decodes and self._pushes else None
        self._where = connection._host_error()
        self._transport: asyncio.Transport = connection._writer.transport
        self._former: Any = self._transport.get_protocol()

    def _flush(self, ends_tick: bool = False) -> None:
        """Write what is gathered."""
        raise NotImplementedError

    def _has_lost_bytes(self) -> bool:
        """Whether an interrupt has lost bytes that were read from the socket."""
        return False

    # Time.

    def _begin_looking(self, now: float) -> None:
        """Schedule two rows of checks, so that one is left if the event loop loses a check of the other."""
        if self._looks_until:
            put_timers_in_order(self._loop)  # the expected checks did not run: they may be behind later timers
        self._looks += 1
        self._last_look = now
        for delay in (_LOOK, 1.5 * _LOOK):
            self._loop.call_later(delay, self._look, self._looks)
        self._loop.call_later(_LATE_LOOK, self._look_late, self._looks)
        self._looks_until = now + 4 * _LOOK

    def _look_late(self, row: int) -> None:
        """Begin again if several exceptions at once have ended both rows. No caller may be there to do it."""
        if row != self._looks or not self._looks_until:
            return
        now = monotonic()
        if now > self._looks_until:
            self._begin_looking(now)
        else:
            self._loop.call_later(_LATE_LOOK, self._look_late, row)

    def _look(self, row: int) -> None:
        if row != self._looks:
            return
        now = monotonic()
        if self._passes > 1 or not (self._due or self._held or self._gathered or self.closed):
            self._looks_until = 0.0  # the next caller begins again
            return
        # First: whatever is interrupted here, the next check goes on with it.
        left = _LOOK if self.timeout is None else min(_LOOK, max(0.001, self._next_due(now)))
        try:
            self._loop.call_later(left, self._look, row)
        except BaseException as error:
            schedule_lost_callbacks(self._loop, error)
            raise
        self._looks_until = now + 4 * _LOOK
        try:
            self._look_after(now)
        except BaseException as error:
            self._break(error)
            raise

    def _look_after(self, now: float) -> None:
        if self.closed:
            self._end()
            return
        transport = self._transport
        if transport.is_closing():
            # ``connection_lost`` is called in the next iteration of the event loop.
            self._seen_closing += 1
            if self._seen_closing > 2:
                self._lose(redis_exceptions.ConnectionError("Connection closed by server."))
                return
        elif self._has_lost_bytes():
            self._lose_for(INTERRUPTED)
            return
        elif self._paused and transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[0]:
            self._paused = False
        if self._gathered and now - self._tick > _LOOK:
            self._tick_end = None
        if (self._gathered and self._tick_end is None) or (self._held and not self._paused):
            self._flush()
        if self.timeout is not None:
            self._expire(now, self.timeout)
        if self.on_stalled is not None and not self.closed:
            self._look_for_stall(now)
        self._last_look = now

    def _look_for_stall(self, now: float) -> None:
        """Notify the owner if no reply completes although this event loop reads; later if only one caller waits."""
        seen, head = self._seen, self._due[0] if self._due else None
        is_late = now - self._last_look > 2 * _LOOK
        if head is None or is_late or seen is None or seen[0] is not head or seen[1] != head.due:
            self._seen = None if head is None else (head, head.due, now)
            return
        is_alone = len(self._due) == 1 and head.due == 1 and not (self._held or self._gathered)
        if is_alone and (self.timeout is None or now - seen[2] < self.timeout * ALONE):
            return
        if now - seen[2] < patience(self.stall_after, self._round_trip) or self.on_stalled is None:
            return
        if self.stalled is None:
            self.stalled, self.stalled_at = (LARGE_REPLY if self.last_received > seen[2] else HELD_BACK), now
        self.on_stalled(self)

    def send_reads_elsewhere(self, *, only_one: bool = False) -> None:
        """Let callers of read-only commands that wait behind the stall send them again on another connection.

        The first command stays if its reply is what takes long. With ``only_one`` a single read moves, and no other for
        a while. It is not the first command, which the server may be running now.
        """
        now, due = monotonic(), list(self._due)
        if only_one and now - self._sent_one_at < AGAIN_AFTER:
            return
        head = due[0].next_due if due and (only_one or self.stalled == LARGE_REPLY) else None
        new = list(takewhile(lambda batch: batch is not self._passed, reversed(due)))[::-1]
        for batches, written in ((new, True), (list(self._held), False)):
            for batch in batches:
                commands, own = (len(batch.decode), batch.quiet) if isinstance(batch, PipelineRequest) else (1, False)
                for future, packed in batch.asking():
                    if future is not head and not future.done() and reads_only(packed, commands, own):
                        future.set_exception(StalledError(written=written, started=batch.started))
                        if only_one:
                            self._sent_one_at = now
                            return
        if due and not only_one:
            self._passed = due[-1]

    def _next_due(self, now: float) -> float:
        """Return in how many seconds the next caller may time out."""
        horizon = now - (self.timeout or 0.0)
        starts = (batch.started for batch in chain(self._due, self._held) if batch.started > horizon)
        return next(starts, now) - horizon

    def _expire(self, now: float, timeout: float) -> None:
        """Time out the callers whose deadline is over. The deadlines are in the order of the commands."""
        self._time_out_until(now - timeout, self._due, written=True)
        oldest = self._due[0].started if self._due else now
        if oldest <= now - timeout and now >= stuck_deadline(oldest, self.last_received, timeout):
            self._lose(redis_exceptions.TimeoutError(f"Timeout reading from {self._where}"))
            return
        self._time_out_until(now - timeout, self._held, written=False)

    def _time_out_until(self, horizon: float, batches: Iterable[Batch | PipelineRequest], *, written: bool) -> None:
        """Time out callers that asked at ``horizon`` or earlier."""
        slow: Noted = []
        for batch in batches:
            if batch.started > horizon:
                break
            if waiting := batch.waiting():
                slow.append((batch.asked(), monotonic() - batch.started))
                self._time_out(waiting, batch.started, written=written)
        self._note_slow(slow)

    def _time_out(self, futures: Iterable[asyncio.Future[Any]], started: float, *, written: bool) -> None:
        text = f"Timeout reading from {self._where}"
        for future in futures:
            self._statistics.timeouts += 1
            future.set_exception(ReplyTimeoutError(text, written=written, started=started))

    def _note_slow(self, slow: Noted) -> None:
        for asked, waited in slow:
            self._slow.note_all(asked, waited)
        self._loop.call_soon(tell_all, self._slow.untold)

    # The end.

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self._former.connection_lost(error)
        finally:
            try:
                if not self.closed:
                    self._lose(error or redis_exceptions.ConnectionError("Connection closed by server."))
            finally:
                if not self.gone.done():
                    self.gone.set_result(None)

    def close(self) -> None:
        """Close at once. Callers that still wait get ``ConnectionLostError``."""
        if not self.closed:
            self._lose(redis_exceptions.ConnectionError("The connection was closed."), report=False)

    def _break(self, error: BaseException) -> None:
        """Close at once after an exception that may have left half a change. The server is not the cause."""
        schedule_lost_callbacks(self._loop, error)
        text = f"{type(error).__name__} was raised while the connection was used."
        self._lose_for(_Loss(error, True, None, text, False))

    def _lose(self, error: BaseException, *, report: bool = True) -> None:
        oldest = self._due[0].started if self._due else None
        stuck = isinstance(error, redis_exceptions.TimeoutError)
        if stuck and oldest is not None:
            oldest = unanswered_since(oldest, self.last_received, self.timeout)
        text = str(error) or type(error).__name__
        if not isinstance(error, redis_exceptions.RedisError):
            text = f"Error while reading from {self._where}: {text}"
        self._lose_for(_Loss(error, report, oldest, text, stuck))

    def _lose_for(self, loss: _Loss) -> None:
        """End the connection. If this is interrupted, the next loop iteration or the next check goes on with it."""
        if not mark[0]:
            fork.renew()
        self._loss = self._loss or loss
        self.closed = True
        try:
            try:
                self._loop.call_soon(self._end)
            finally:
                abort(self._transport, self._loop)
            self._end()
        except BaseException as error:
            schedule_lost_callbacks(self._loop, error)
            raise

    def _end(self) -> None:
        """Notify the callers, then the owner.

        Called at least twice: a caller may have been sending at the first time.
        """
        loss = self._loss or _Loss(redis_exceptions.ConnectionError(), True, None, "The connection was closed.", False)
        try:
            self._tell(loss)
            forget_stream(self.connection)
            if loss.report and self._reports < 2:
                self._reports += 1
                self._on_lost(self, loss.error, loss.oldest)
                self._reports = 2
        except BaseException as error:
            schedule_lost_callbacks(self._loop, error)
            raise
        self._passes += 1

    def _tell(self, loss: _Loss) -> None:
        due = list(self._due)
        if isinstance(loss.error, ReplyTooLargeError) and due and not due[0].next_due.done():
            due[0].next_due.set_exception(loss.error)  # the owner of the reply gets the error; others may send again
        gathered = self._gathered[:]
        unsent = [*self._held, Batch(self._tick, gathered)]
        for batches, written in ((due, True), (unsent, False)):
            for batch in batches:
                for future in batch.waiting():
                    error = ConnectionLostError(loss.text, written=written, started=batch.started, stuck=loss.stuck)
                    future.set_exception(error)
        del self._gathered[: len(gathered)]
        self.in_flight = self.bytes_in_flight = self._due_commands = self._due_bytes = 0

    def after_fork_in_child(self) -> None:
        """In a forked child: the socket belongs to the parent.

        Waiting callers are notified as for a lost connection.
        """
        self._loss, self.closed = _FORKED, True
        gathered = self._gathered[:]
        unsent = [*self._held, Batch(self._tick, gathered)]
        for batches, written in ((list(self._due), True), (unsent, False)):
            for batch in batches:
                for future in batch.waiting():
                    # The loop may be closed, or belong to a thread that does not run here.
                    with suppress(RuntimeError, asyncio.InvalidStateError):
                        future.set_exception(
                            ConnectionLostError(_FORKED.text, written=written, started=batch.started, stuck=False)
                        )
                        future.exception()  # if no caller awaits the future, nothing is logged
        self.in_flight = self.bytes_in_flight = self._due_commands = self._due_bytes = 0
