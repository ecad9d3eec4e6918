"""A redis-py connection whose socket all threads share.

The first caller that finds no reader becomes the leader; the others wait. The leader sends what has gathered, reads,
and gives each reply to its owner. When its own reply has arrived, it hands the role to a caller that still waits.

Mutable state: ``queue`` holds the requests whose replies are pending or which are not sent yet, in order. ``_written``
counts those of them that have been packed for sending. ``_outgoing`` holds bytes being sent. ``_incoming`` holds bytes
and replies that are not handed out yet. ``_leader`` and ``_sender`` are the requests whose threads have these roles.

A thread can be interrupted between any two calls (KeyboardInterrupt, an exception thrown into it). Four rules follow
from that. Roles are held by identity. The next leader can repeat every step. One C call moves bytes from the socket to
the parser. State that must change together is stored without a call in between.
"""

from __future__ import annotations

import math
import select
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from threading import get_ident
from time import monotonic, sleep
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import ConnectionLostError, ReplyTimeoutError, ReplyTooLargeError
from redispool_app.engine.protocol.replies import HARMLESS, INCOMPLETE, NOT_A_REPLY, consume, invalid
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell_all
from redispool_app.engine.runtime.nesting import is_nested
from redispool_app.engine.stats.counters import HELD_BACK, LARGE_REPLY, Statistics
from redispool_app.engine.stats.slow_log import SlowLog

from .reader_sync import Incoming
from .request_sync import LEAD, InFlightLimitReached, PendingRequest, put, successor
from .retry import StalledError, stuck_deadline, unanswered_since
from .socket_sync import ENDED, WOULD_BLOCK, SocketCalls
from .stalls import AGAIN_AFTER, ALONE, SHORTEST, patience, reads_only

_FRESH = 0.001
"""A connection that received data within this many seconds is not checked for a closed peer."""

_FAR = 0.0005
"""If the round trip to the server takes more than this many seconds, each caller writes at once."""

_LOOK = 0.05
"""Seconds after which a waiting caller checks whether the connection is stalled or the process was forked."""

_WAIT = 0.025
"""Longest single wait of a leader, in seconds. After it the leader knows that nothing has arrived."""

_CROWD = 16
"""With more waiting callers than this ..."""

_LOOK_IN_CROWD = 0.25
"""... each checks after this many seconds."""

_LATE = 0.02
"""Seconds by which a leader may wait beyond its deadline, if that saves a system call."""

_REPORT_AFTER = 0.001
"""Replies update the health at most once in this many seconds."""

_MARGIN = 0.001
"""Seconds by which a wait may end too early."""

_LOOKS_AT_MUTEX = 50
"""How many times a nested call tries to get the mutex, once per millisecond."""

_LAST_LOOK = 0.02
"""Seconds after a deadline in which the caller still reads replies that have arrived."""


_LOOK_FOR_HANDLERS = 1.0
"""Seconds between two checks for signal handlers of the project."""

_FORKED = "The process was forked during this call."


def _has_handlers() -> bool:
    """Whether this process has a signal handler in Python, apart from the default one for Ctrl-C."""
    found = map(signal.getsignal, signal.valid_signals())
    return any(callable(handler) and handler is not signal.default_int_handler for handler in found)


class SharedSocket:
    """A socket that all threads share.

    ``timeout`` is how long a caller waits for its reply, in seconds; None: no limit.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float | None,
        statistics: Statistics,
        on_replies: Callable[[int, float], None],
        on_error: Callable[[Exception], None],
        on_lost: Callable[[SharedSocket, BaseException, float | None], None],
        slow: SlowLog,
    ) -> None:
        self.connection = connection
        self.timeout = timeout
        self.closed = False
        self._ended_by: BaseException | None = None
        self._statistics = statistics
        self._on_replies = on_replies
        self._on_error = on_error
        self._on_lost = on_lost
        self._slow = slow
        self._slow_from = slow.threshold
        self._untold = slow.untold
        self._mutex = threading.Lock()
        self.queue: list[PendingRequest] = []
        self._written = 0
        self._units = 0
        """How many entries of the queue want several replies, or more. It is increased before an entry is added."""
        self._outgoing = b""
        self._batch = b""
        self._batch_size = 0
        self._batch_is_unsent = False
        self._sent: list[int] = []
        self._leader: PendingRequest | None = None
        self._sender: PendingRequest | None = None
        self._round_trip = 0.0
        self._wants_distance = True
        """Whether the next batch measures the round trip to the server."""
        self.last_received = monotonic()
        self._reported = 0.0
        self._unreported = 0
        self.eager = False
        """Whether ``on_replies`` is called for each batch, and not only from time to time."""
        self._where = connection._host_error()
        self.stalled: str | None = None
        """Why no reply completes; None while replies complete."""
        self.stalled_at = 0.0
        """When the stall was noticed (monotonic seconds)."""
        self.stall_after = SHORTEST
        """Seconds without a reply after which the connection is stalled."""
        self.on_stalled: Callable[[SharedSocket], None] | None = None
        self.on_recovered: Callable[[SharedSocket], None] | None = None
        self._seen: tuple[PendingRequest, float] | None = None
        """The first entry of the queue at the last check, and since when it is first."""
        self._waited_in_vain_at = 0.0
        """When the leader last found that nothing had arrived (monotonic seconds)."""
        self._next_look = 0.0
        """When the next check is due. All waiting threads share it."""
        self._sent_one_at = -math.inf
        """When a single read was last sent on another connection (monotonic seconds)."""
        kernel_wait = None if timeout is None else min(timeout, _WAIT)
        self._calls = SocketCalls(connection._sock, kernel_wait)
        self._incoming = Incoming(connection, self._calls)
        self._descriptor = connection._sock.fileno()
        self._main_thread = threading.main_thread().ident
        """Whether this thread runs signal handlers.

        They also run within a receive call, which then goes on, also in a child if a handler has forked. With handlers
        this thread therefore waits in ``poll``, and checks for a fork before it receives.
        """
        self._handlers = _has_handlers()
        self._look_for_handlers_at = self.last_received + _LOOK_FOR_HANDLERS
        self._may_wait_whole = max(0.0, kernel_wait - _LATE) if kernel_wait and self._calls.waits else math.inf
        """A caller with more seconds left than this may wait in the kernel, which returns after a limited time."""

    @property
    def in_flight(self) -> int:
        """Number of commands without a reply."""
        return sum(request.wanted or 1 for request in list(self.queue))

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the commands without a reply."""
        return sum(len(request.packed) for request in list(self.queue))

    # Methods for callers.

    def exchange(
        self, packed: bytes, wanted: int, started: float, deadline: float, wait: float, most: float, quiet: bool = False
    ) -> Any:
        """Send a command, or a pipeline of ``wanted`` commands. Return its reply, or the list of replies.

        Errors from the server are returned, not raised. Errors in the reply to a ``quiet`` request are not reported to
        the monitor. Raises ``ReplyTimeoutError`` at ``deadline`` (monotonic seconds), ``ConnectionLostError``, and
        ``InFlightLimitReached`` if ``most`` callers are in flight. ``wait`` is ``first_wait(...)`` of the seconds until
        the deadline.
        """
        request = PendingRequest()
        request.packed, request.started, request.deadline = packed, started, deadline
        try:
            with self._mutex:
                queue = self.queue
                if self.closed:
                    raise ConnectionLostError("The connection was closed.", written=False, started=started)
                if len(queue) >= most:
                    raise InFlightLimitReached
                if wanted:
                    request.wanted, request.quiet = wanted, quiet
                    self._units += 1
                leader = self._leader
                if leader is None or leader.left:
                    self._leader = leader = request
                    queue.append(request)
                    # The only caller, on a connection that needs no check: the steps of a leader, without the calls.
                    if len(queue) == 1 and not self._outgoing and started - self.last_received <= _FRESH:
                        self._prepare(request, packed, request, 1)
                else:
                    queue.append(request)
            if leader is request:
                reply = self._lead(request)
            else:
                if self._round_trip > _FAR:
                    self._flush(request)
                try:
                    reply = request.get(True, wait)
                except Empty:
                    reply = LEAD
                if reply is LEAD:
                    reply = self._lead_or_follow(request)
        except BaseException:
            # From here on other callers take the roles of this request, even if the next lines are interrupted too.
            request.left = True
            self._withdraw(request)
            self._hand_over(request)
            if self._untold:
                tell_all(self._untold)
            raise
        if self._untold:
            tell_all(self._untold)  # now that this caller has no role
        if reply.__class__ is not bytes and isinstance(reply, ConnectionLostError):
            if isinstance(reply, StalledError):
                request.left = True
                self._withdraw(request)
                self._hand_over(request)
            raise reply
        return reply

    def _look_for_stall(self) -> None:
        """Notify the owner if no reply completes although this process reads.

        While other threads hold the GIL, a reply may have arrived that the leader has not handed out yet. So nothing is
        reported before the leader itself has waited without success.
        """
        now, queue, seen = monotonic(), self.queue, self._seen
        if self.stalled is not None and now < self._next_look:
            return
        self._next_look = now + _LOOK
        if not queue or self._written <= (self._batch_size if self._outgoing else 0):
            self._seen = None  # nothing is sent yet
            return
        if seen is None or seen[0] is not queue[0]:
            self._seen = queue[0], now
            return
        if now - seen[1] < self._patience() or self.closed or self.on_stalled is None:
            return
        if self.stalled is None:
            is_receiving = self.last_received > seen[1]
            if not is_receiving and (self._waited_in_vain_at < seen[1] or self._is_behind()):
                return
            self.stalled, self.stalled_at = (LARGE_REPLY if is_receiving else HELD_BACK), now
        self.on_stalled(self)

    def _waited_in_vain(self) -> None:
        """The leader received nothing. Check for a stall here, too: no other caller may be waiting.

        If the leader is the only caller, notify the owner only after half of the timeout.
        """
        self._waited_in_vain_at = now = monotonic()
        queue, timeout = self.queue, self.timeout
        if self.on_stalled is None:
            return
        if len(queue) > 1:
            self._look_for_stall()
            return
        if timeout is None or not queue or now < self._next_look or self.closed:
            return
        is_sent = self._written > (self._batch_size if self._outgoing else 0)
        if not is_sent or now - max(queue[0].started, self.last_received) < timeout * ALONE:
            return
        self._next_look = now + _LOOK
        if self.stalled is None:
            self.stalled, self.stalled_at = HELD_BACK, now
        self.on_stalled(self)

    def _patience(self) -> float:
        return patience(self.stall_after, self._round_trip or math.inf)

    def _is_behind(self) -> bool:
        """Whether data has arrived that the leader has not read yet."""
        poller = select.poll()  # a new poll object: two threads must not use the same one at once
        poller.register(self._descriptor, select.POLLIN)
        return bool(poller.poll(0))

    def send_reads_elsewhere(self, *, only_one: bool = False) -> None:
        """Let callers of read-only commands that wait behind the stall send them again on another connection.

        The first command stays if its reply is what takes long. With ``only_one`` a single read moves, and no other for
        a while. It is not the first command, which the server may be running now.
        """
        now, written = monotonic(), self._written
        if only_one and now - self._sent_one_at < AGAIN_AFTER:
            return
        stays = 0 if only_one or self.stalled == LARGE_REPLY else -1
        for position, request in enumerate(list(self.queue)):
            if position == stays or request.left or not request.empty():
                continue
            if reads_only(request.packed, request.wanted, request.quiet):
                request.resent = True
                request.put(StalledError(written=position < written, started=request.started))
                if only_one:
                    self._sent_one_at = now
                    return

    def _withdraw(self, request: PendingRequest) -> None:
        """The caller gives up.

        If its command is not written, it never will be. If the reply is pending, it will be discarded.
        """
        with self._mutex:
            if request in self.queue[self._written :]:
                self.queue.remove(request)

    def _hand_over(self, request: PendingRequest) -> None:
        """Give the leader's role to a waiting caller."""
        with self._mutex:
            if self._leader is request:
                self._leader = successor(self.queue)

    def _lead_or_follow(self, request: PendingRequest) -> Any:
        """Return the reply, or the error in its place."""
        looked = False
        while not self._leads(request):
            if not mark[0]:
                fork.renew()
            if self.on_stalled is not None:
                self._look_for_stall()
            # The second check can find that the connection is stalled.
            look = (_WAIT if self.stalled is None else _LOOK) if looked else min(_LOOK, self._patience() + _MARGIN)
            if looked and len(self.queue) > _CROWD:
                look = _LOOK_IN_CROWD  # the other callers check, too
            looked, left = True, request.deadline - monotonic()
            try:
                # Leave the leader a last moment after the deadline: the process may have been suspended.
                message = request.get(True, min(left, look) if left > 0 else _LAST_LOOK)
            except Empty:
                if left <= 0 and self._leader is not request:
                    self._time_out(request)
                continue
            if message is not LEAD:
                return message
        # The leader is never offered the role again, so from here on only the reply can arrive.
        while not request.empty():
            message = request.get(False)
            if message is not LEAD:
                self._hand_over(request)
                return message
        return self._lead(request)

    def _leads(self, request: PendingRequest) -> bool:
        """Whether this request has the leader's role. Takes the role if it is free."""
        with self._mutex:  # the caller that woke this one has finished its change
            leader = self._leader
            if leader is None or leader.left:
                self._leader = leader = request
            return leader is request

    # Leading.

    def _lead(self, request: PendingRequest) -> Any:
        """Lead until the own reply has arrived, and return it."""
        calls = self._calls
        if request.started - self.last_received > _FRESH and calls.poll(0):
            self._read(calls.receive_now)  # a push or an end of file, which no caller was there to read
        if self._incoming.unfinished:  # the last leader was interrupted
            self._parse_and_hand_out(monotonic())
        looked = False
        while request.empty():
            if self._outgoing or self._written != len(self.queue):
                self._flush(request)
            if self.closed:
                self._lose(redis_exceptions.ConnectionError("The connection was closed."))
                if request.empty():
                    # The process was forked before this request was in the queue.
                    request.put(ConnectionLostError(_FORKED, written=False, started=request.started))
            if not request.empty():
                break
            if not self._incoming.received:
                left = request.deadline - monotonic()
                if left > self._may_wait_whole and (not self._handlers or get_ident() != self._main_thread):
                    self._read(calls.receive_waiting)
                    continue
                if left <= 0:
                    if looked:
                        self._time_out(request)
                        break
                    # The process may have been suspended: the reply may be there, or the command may just have been
                    # sent.
                    looked, left = True, _LAST_LOOK
                if not calls.poll(min(left, _WAIT) * 1000):
                    self._waited_in_vain()
                    if not mark[0]:
                        fork.renew()  # a signal handler has forked: the parent reads these replies
                    continue
            self._read(calls.receive_now)
        if self._leader is request:
            self._hand_over(request)
        return request.get(False)

    def _flush(self, request: PendingRequest) -> None:
        """Send what has gathered, unless another thread is sending. That thread then sends it, too."""
        calls = self._calls
        try:
            prepared = self._sender is request and not self._sent
            outgoing = self._outgoing if prepared else self._next_outgoing(request)
            while outgoing:
                sent = self._sent
                try:
                    # One C call. An interrupt finds either the count of the bytes sent, or that nothing was sent. No
                    # code can run between a check for a fork and that call.
                    transmit = map(calls.transmit, (outgoing,), *calls.transmit_now)
                    if not mark[0]:
                        fork.renew()
                        return
                    if calls.lock is None:
                        sent.extend(transmit)
                    else:
                        with calls.lock:
                            if not mark[0]:
                                return
                            sent.extend(transmit)
                    if sent[-1] == len(outgoing):
                        self._outgoing, self._sent, self._sender = b"", [], None
                        if self._written == len(self.queue):
                            return
                        # On a near server, callers that came meanwhile wait for the leader's next round: fewer and
                        # larger batches. On a distant server, or if the leader found this thread sending, this thread
                        # must send their commands.
                        if self._leader is request and self._round_trip <= _FAR:
                            return
                except WOULD_BLOCK:
                    if not self._is_writable_in_time(request):
                        return
                outgoing = self._next_outgoing(request)
        except OSError as error:
            if self._outgoing is self._batch:
                self._batch_is_unsent = True
            closed = isinstance(error, ENDED)
            self._lose(redis_exceptions.ConnectionError("Connection closed by server.") if closed else error)
        finally:
            if self._sender is request:
                self._sender = None

    def _next_outgoing(self, request: PendingRequest) -> bytes:
        """Become the sender and return the bytes to send now. Return nothing if another thread is the sender."""
        with self._mutex:
            sender = self._sender
            if self.closed or (sender is not None and sender is not request and not sender.left):
                return b""
            if self._sent:
                self._count_sent()
            if not self._outgoing:
                queue, written = self.queue, self._written
                size = len(queue) - written
                if not size:
                    self._sender = None
                    return b""
                unsent = queue[written:]
                data = unsent[0].packed if size == 1 else b"".join([each.packed for each in unsent])
                self._prepare(request, data, unsent[-1], size)
            self._sender = request
            return self._outgoing

    def _prepare(self, sender: PendingRequest, data: bytes, last: PendingRequest, size: int) -> None:
        """Make ``data``, the commands of the next ``size`` requests, the next bytes to send."""
        if self._wants_distance:
            last.sent = monotonic()
        statistics = self._statistics
        statistics.commands += size
        statistics.batches += 1
        statistics.bytes_sent += len(data)
        written = self._written + size
        self._outgoing, self._batch, self._batch_size, self._written, self._sender = data, data, size, written, sender

    def _count_sent(self) -> None:
        rest = self._outgoing[sum(self._sent) :]
        self._outgoing, self._sent = rest, []

    def _is_writable_in_time(self, request: PendingRequest) -> bool:
        """Wait until the peer accepts more data. It may first need its replies to be read, which the leader does."""
        leading = self._leader is request
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN | select.POLLOUT if leading else select.POLLOUT)
        while request.empty() and not self.closed:
            left = request.deadline - monotonic()
            if left <= 0:
                return False
            events = poller.poll(min(left, _WAIT) * 1000)
            if leading and not events:
                self._waited_in_vain_at = monotonic()
            if leading and any(event & ~select.POLLOUT for _, event in events):
                self._read(self._calls.receive_now)
            if any(event & ~select.POLLIN for _, event in events):
                return True
        return False

    # Reading. Only the leader reads.

    def _read(self, how: tuple[tuple[int], ...]) -> None:
        """Read what is there, or wait for it. ``how`` holds the arguments of the receive call."""
        try:
            size = self._incoming.receive(how)
        except WOULD_BLOCK:
            self._waited_in_vain()
            return
        except OSError as error:
            self._lose(error)
            return
        except (redis_exceptions.InvalidResponse, MemoryError) as error:
            self._lose(invalid(error))
            return
        if not size:
            self._lose(redis_exceptions.ConnectionError("Connection closed by server."))
            return
        self.last_received = now = monotonic()
        self._statistics.bytes_received += size
        self._parse_and_hand_out(now)

    def _parse_and_hand_out(self, now: float) -> None:
        try:
            incoming = self._incoming
            incoming.replies.extend(iter(incoming.gets, INCOMPLETE))
        except NOT_A_REPLY as error:
            self._hand_out(now)  # the replies before the error
            self._lose(invalid(error))
        else:
            self._hand_out(now)

    def _hand_out(self, now: float) -> None:
        incoming = self._incoming
        replies = incoming.replies
        if not HARMLESS.issuperset(map(type, replies)):
            self._look_at(replies)
        if not replies:
            incoming.unfinished = False
            return
        queue, due, asked = self.queue, len(replies), self._written
        if self._units:
            handed, position = self._hand_out_units(queue[:asked], replies)
        else:
            handed = position = asked if asked < due else due
            consume(map(put, queue[:handed], replies))
        if handed:
            if self.stalled is not None:
                self._recover()
            last = queue[handed - 1]
            waited = now - queue[0].started
            if waited >= self._slow_from:
                self._note_slow(queue[:handed], now)
            if handed > 1:
                waited = (waited + now - last.started) / 2  # between the first and the last request
            self._statistics.sample(waited, handed)
            if last.sent:
                # The shortest recent round trip. Time spent waiting for the GIL is not the distance to the server.
                self._round_trip = min(now - last.sent, (self._round_trip or 1.0) * 1.001)
                self._wants_distance = False
        left_over = replies[position:] if position < due else []
        with self._mutex:
            queue = self.queue
            rest = queue[handed:] if handed < len(queue) else []
            written = self._written - handed
            leader = self._leader
            if leader is not None and not leader.empty():
                leader = successor(rest) if rest else None
            units = sum(request.wanted > 0 for request in rest) if self._units else 0
            # The next leader appends to the list of remaining replies as soon as the role is handed over.
            unasked = left_over[:1] if not written else []
            self.queue, incoming.replies, self._written, self._units = rest, left_over, written, units
            incoming.unfinished, self._leader = False, leader
        if unasked:
            last = unasked[0]
            text = str(last) if isinstance(last, Exception) else "The server sent an unexpected reply"
            self._lose(redis_exceptions.InvalidResponse(text))
        self._unreported += position
        if self.eager or now - self._reported > _REPORT_AFTER:
            self._reported, self._wants_distance = now, True
            if now >= self._look_for_handlers_at:
                self._look_for_handlers_at = now + _LOOK_FOR_HANDLERS
                self._handlers = _has_handlers()
            count, self._unreported = self._unreported, 0
            self._on_replies(count, now)

    def _recover(self) -> None:
        self.stalled = self._seen = None
        self._sent_one_at = -math.inf
        if self.on_recovered is not None:
            self.on_recovered(self)

    def _look_at(self, replies: list[Any]) -> None:
        """Take out messages that are not replies, and report errors that concern more than their caller."""
        if self._incoming.pushes:
            replies[:] = [reply for reply in replies if reply.__class__ is not hiredis.PushNotification]
        if not self._units:
            for reply in replies:
                if isinstance(reply, Exception):
                    self._on_error(reply)

    def _hand_out_units(self, asked: list[PendingRequest], replies: list[Any]) -> tuple[int, int]:
        """Hand out replies where some requests want several.

        Return how many requests and how many replies were handed out.
        """
        handed = position = 0
        for request in asked:
            until = position + (request.wanted or 1)
            if until > len(replies):
                break
            own = replies[position:until]
            for reply in own:
                if isinstance(reply, Exception) and not request.quiet:
                    self._on_error(reply)
            request.put(own if request.wanted else own[0])
            handed, position = handed + 1, until
        return handed, position

    def _note_slow(self, requests: list[PendingRequest], now: float) -> None:
        """Record callers that have waited long. Those that gave up or sent again are recorded elsewhere."""
        for request in requests:
            if not request.left and not request.resent and now - request.started >= self._slow_from:
                self._slow.note_all([(request.packed, request.wanted)], now - request.started)

    # The end.

    def _time_out(self, request: PendingRequest) -> None:
        """Raise ``ReplyTimeoutError``, unless the reply has arrived at the last moment."""
        now, timeout = monotonic(), self.timeout
        text = f"Timeout reading from {self._where}"
        with self._mutex:
            if not request.empty():
                return
            # The command has no reply yet. If it was written, it is still among the written ones.
            written = request in self.queue[: self._written]
            oldest = self.queue[0].started if self.queue else now
            self._statistics.timeouts += 1
        self._note_slow([request], now)
        # Marked as left before the connection is lost: the caller has waited long enough in any case.
        error = ReplyTimeoutError(text, written=written, started=request.started)
        if written and timeout is not None and now >= stuck_deadline(oldest, self.last_received, timeout):
            self._lose(redis_exceptions.TimeoutError(text))
        raise error

    def close(self) -> None:
        """Close at once. Callers that still wait get ``ConnectionLostError``."""
        if self.closed:
            return
        error = redis_exceptions.ConnectionError("The connection was closed.")
        if is_nested() and self._stays_locked():
            # This thread may itself hold the mutex in an outer frame. That frame will find the connection closed.
            self._ended_by, self.closed = self._ended_by or error, True
            with suppress(OSError):
                self.connection._sock.shutdown(socket.SHUT_RDWR)
            return
        self._lose(error, report=False)

    def _stays_locked(self) -> bool:
        """Whether the mutex is held for longer than other threads ever hold it."""
        for _ in range(_LOOKS_AT_MUTEX):
            if not self._mutex.locked():
                return False
            sleep(0.001)
        return True

    def close_if_left(self) -> bool:
        """Close if every caller has given up, so that no thread reads pending replies.

        Return whether it is closed now.
        """
        if is_nested() and self._stays_locked():
            return False
        with self._mutex:
            if not self.closed and not all(request.left for request in self.queue):
                return False
            self.closed = True
        self._lose(redis_exceptions.ConnectionError("The connection was closed."), report=False)
        return True

    def _lose(self, error: BaseException, *, report: bool = True) -> None:
        with self._mutex:
            first, self.closed = not self.closed, True
            # Keep the first cause. Closing the socket also ends the leader's read, with an error that says less.
            self._ended_by = error = self._ended_by or error
            queue, written = list(self.queue), self._written
            if self._batch_is_unsent:
                written = max(0, written - self._batch_size)  # its very first byte was refused
        oldest = queue[0].started if queue and written else None
        if oldest is not None and isinstance(error, redis_exceptions.TimeoutError):
            oldest = unanswered_since(oldest, self.last_received, self.timeout)
        try:
            if first and report:
                self._on_lost(self, error, oldest)
        finally:
            self._fail(queue, written, error)

    def _fail(self, queue: list[PendingRequest], written: int, error: BaseException) -> None:
        # Before any caller is notified: if this is interrupted, a remaining caller repeats it all.
        self.connection.disconnect()
        text = str(error) or type(error).__name__
        stuck = isinstance(error, redis_exceptions.TimeoutError)
        if not isinstance(error, redis_exceptions.RedisError):
            text = f"Error while reading from {self._where}: {text}"
        if written and isinstance(error, ReplyTooLargeError):
            queue[0].put(error)  # the owner of the reply gets the error; others may send again
        for position, request in enumerate(queue):
            request.put(ConnectionLostError(text, written=position < written, started=request.started, stuck=stuck))
        with self._mutex:
            self.queue, self._written, self._units, self._batch_is_unsent = [], 0, 0, False

    def after_fork_in_child(self) -> None:
        """In a forked child: the socket belongs to the parent, whose threads do not run here.

        The thread that forked may be inside a call, which goes on in the child.
        """
        self.closed = True
        self._mutex = threading.Lock()
        self._leader = self._sender = None
        for position, request in enumerate(self.queue):
            lost = ConnectionLostError(_FORKED, written=position < self._written, started=request.started)
            request.put(lost)
        self.queue, self._written, self._units = [], 0, 0
