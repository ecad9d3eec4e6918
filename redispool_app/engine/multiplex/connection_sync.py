"""A redis-py connection whose socket all threads share: whoever finds nobody reading leads, the others follow.

The leader sends what has gathered, reads, gives each reply to its owner, and hands the role on when its own reply is
in. Mutable state: ``queue``, the exchanges whose replies are due or still to be sent, in order; ``_written``, how
many of those have been packed for sending; ``_outgoing``, bytes on their way; ``_incoming``, bytes and replies not yet
handed out. ``_leader`` and ``_sender`` are the exchanges whose threads have these roles.

A thread can be interrupted between any two calls (KeyboardInterrupt, an exception thrown into it). So roles are held
by identity, every step can be run again by the next leader, bytes pass from the socket to the parser inside single C
calls, and what must change together is stored without a call in between.
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
from redispool_app.engine.protocol.replies import HARMLESS, INCOMPLETE, NOT_A_REPLY, exhaust, invalid
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell_all
from redispool_app.engine.runtime.nesting import is_nested
from redispool_app.engine.stats.counters import HELD_BACK, LARGE_REPLY, Statistics
from redispool_app.engine.stats.slow_log import SlowCommands

from .reader_sync import Incoming
from .request_sync import LEAD, Exchange, NoRoomError, put, successor
from .retry import StalledError, silent_since, stuck_from
from .socket_sync import ENDED, WOULD_BLOCK, SocketCalls
from .stalls import AGAIN_AFTER, ALONE, SHORTEST, patience, reads_only

_FRESH = 0.001
"""A connection that spoke within this many seconds is not asked whether it is still open."""

_FAR = 0.0005
"""A server with a round trip above this many seconds is worth a write for each caller."""

_LOOK = 0.05
"""A caller that waits looks around after so many seconds: the connection may be stalled, the process forked."""

_WAIT = 0.025
"""A leader waits for so many seconds at once. Then it knows that nothing came meanwhile."""

_CROWD = 16
"""With more callers than so many ..."""

_LOOK_IN_CROWD = 0.25
"""... each looks around after so many seconds."""

_LATE = 0.02
"""A leader may wait by so many seconds longer than to its deadline, if that spares a system call."""

_REPORT_AFTER = 0.001
"""Replies prove health once in so many seconds; more often says nothing new."""

_MARGIN = 0.001
"""Seconds: a wait may end a little early."""

_LOOKS_AT_MUTEX = 50
"""How often a nested call looks, each millisecond, whether the mutex is free."""

_LAST_LOOK = 0.02
"""How many seconds beyond a deadline its caller leaves for reading what is there."""


_LOOK_FOR_HANDLERS = 1.0
"""Seconds between two looks for signal handlers of the project."""

_FORKED = "The process was forked during this call."


def _has_handlers() -> bool:
    """Whether Python runs a signal handler of the project's in this process, apart from the one for Ctrl-C."""
    found = map(signal.getsignal, signal.valid_signals())
    return any(callable(handler) and handler is not signal.default_int_handler for handler in found)


class SharedSocket:
    """``timeout`` is how long a caller waits for its reply, in seconds, None for ever."""

    def __init__(
        self,
        connection: Any,
        timeout: float | None,
        statistics: Statistics,
        on_replies: Callable[[int, float], None],
        on_error: Callable[[Exception], None],
        on_lost: Callable[[SharedSocket, BaseException, float | None], None],
        slow: SlowCommands,
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
        self.queue: list[Exchange] = []
        self._written = 0
        self._units = 0
        """How many of the queue want several replies, or more: it is counted before one enters."""
        self._outgoing = b""
        self._batch = b""
        self._batch_size = 0
        self._batch_is_unsent = False
        self._sent: list[int] = []
        self._leader: Exchange | None = None
        self._sender: Exchange | None = None
        self._round_trip = 0.0
        self._wants_distance = True
        """Whether the next batch is to tell how far the server is."""
        self.last_received = monotonic()
        self._reported = 0.0
        self._unreported = 0
        self.eager = False
        """Whether ``on_replies`` is wanted for each batch, not only from time to time."""
        self._where = connection._host_error()
        self.stalled: str | None = None
        """Why no reply completes; None while they do."""
        self.stalled_at = 0.0
        """When that was noticed (monotonic seconds)."""
        self.stall_after = SHORTEST
        """Seconds without a reply after which this is so."""
        self.on_stalled: Callable[[SharedSocket], None] | None = None
        self.on_recovered: Callable[[SharedSocket], None] | None = None
        self._seen: tuple[Exchange, float] | None = None
        """Who was first in the queue at a look, and since when."""
        self._waited_in_vain_at = 0.0
        """When the leader last found that nothing had come (monotonic seconds)."""
        self._next_look = 0.0
        """When the next look is due: one for all threads that wait."""
        self._sent_one_at = -math.inf
        """When a single read was last sent elsewhere (monotonic seconds)."""
        kernel_wait = None if timeout is None else min(timeout, _WAIT)
        self._calls = SocketCalls(connection._sock, kernel_wait)
        self._incoming = Incoming(connection, self._calls)
        self._descriptor = connection._sock.fileno()
        self._main_thread = threading.main_thread().ident
        """It runs signal handlers, also within a call to receive, which then goes on: in a child, if one has forked. So
        where there are handlers this thread waits in ``poll``, and looks for a fork before it receives."""
        self._handlers = _has_handlers()
        self._look_for_handlers_at = self.last_received + _LOOK_FOR_HANDLERS
        self._may_wait_whole = max(0.0, kernel_wait - _LATE) if kernel_wait and self._calls.waits else math.inf
        """Who has more than so many seconds left may wait in the kernel, which returns after a while."""

    @property
    def in_flight(self) -> int:
        """Commands whose replies are still to come."""
        return sum(exchange.wanted or 1 for exchange in list(self.queue))

    @property
    def bytes_in_flight(self) -> int:
        """How many bytes those commands have."""
        return sum(len(exchange.packed) for exchange in list(self.queue))

    # What callers ask.

    def exchange(
        self, packed: bytes, wanted: int, started: float, deadline: float, wait: float, most: float, quiet: bool = False
    ) -> Any:
        """Send a command, or a unit of ``wanted`` commands, and return its reply, or the list of its replies.

        Errors that the server answers with are returned, those to a ``quiet`` unit reported to nobody. Raises
        ``ReplyTimeoutError`` at ``deadline`` (monotonic seconds), ``ConnectionLostError``, and ``NoRoomError`` when
        ``most`` callers are there already. ``wait`` is ``first_wait(...)`` of the seconds until the deadline.
        """
        exchange = Exchange()
        exchange.packed, exchange.started, exchange.deadline = packed, started, deadline
        try:
            with self._mutex:
                queue = self.queue
                if self.closed:
                    raise ConnectionLostError("The connection was closed.", written=False, started=started)
                if len(queue) >= most:
                    raise NoRoomError
                if wanted:
                    exchange.wanted, exchange.quiet = wanted, quiet
                    self._units += 1
                leader = self._leader
                if leader is None or leader.left:
                    self._leader = leader = exchange
                    queue.append(exchange)
                    # Alone, on a connection that needs no look: what it would do as the leader, in fewer steps.
                    if len(queue) == 1 and not self._outgoing and started - self.last_received <= _FRESH:
                        self._prepare(exchange, packed, exchange, 1)
                else:
                    queue.append(exchange)
            if leader is exchange:
                reply = self._lead(exchange)
            else:
                if self._round_trip > _FAR:
                    self._flush(exchange)
                try:
                    reply = exchange.get(True, wait)
                except Empty:
                    reply = LEAD
                if reply is LEAD:
                    reply = self._lead_or_follow(exchange)
        except BaseException:
            # From here on others take the roles of this exchange, even if the next lines are interrupted too.
            exchange.left = True
            self._withdraw(exchange)
            self._hand_over(exchange)
            if self._untold:
                tell_all(self._untold)
            raise
        if self._untold:
            tell_all(self._untold)  # now that this caller has no role any more
        if reply.__class__ is not bytes and isinstance(reply, ConnectionLostError):
            if isinstance(reply, StalledError):
                exchange.left = True
                self._withdraw(exchange)
                self._hand_over(exchange)
            raise reply
        return reply

    def _look_for_stall(self) -> None:
        """Tell the owner if no reply completes although this process reads.

        While other threads hold the interpreter, a reply may have been received that the leader has not handed out yet.
        So nothing is held back before the leader itself has waited in vain.
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
        """The leader has found that nothing came. It looks for a stall, too: it may be the only caller that is left.

        Alone, it tells the owner only after half of the time-out.
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
        """Whether something has come that the leader has not read yet."""
        poller = select.poll()  # one of its own: two threads must not use the same at once
        poller.register(self._descriptor, select.POLLIN)
        return bool(poller.poll(0))

    def send_reads_elsewhere(self, *, only_one: bool = False) -> None:
        """Let the callers of commands that only read, and that wait behind the stall, send them again.

        The first command stays if its reply is what takes long. With ``only_one`` a single read goes that is not the
        first, which the server may be carrying out now; and no other for a while.
        """
        now, written = monotonic(), self._written
        if only_one and now - self._sent_one_at < AGAIN_AFTER:
            return
        stays = 0 if only_one or self.stalled == LARGE_REPLY else -1
        for position, exchange in enumerate(list(self.queue)):
            if position == stays or exchange.left or not exchange.empty():
                continue
            if reads_only(exchange.packed, exchange.wanted, exchange.quiet):
                exchange.resent = True
                exchange.put(StalledError(written=position < written, started=exchange.started))
                if only_one:
                    self._sent_one_at = now
                    return

    def _withdraw(self, exchange: Exchange) -> None:
        """Its caller leaves: what is not written never will be; a reply that is due will be thrown away."""
        with self._mutex:
            if exchange in self.queue[self._written :]:
                self.queue.remove(exchange)

    def _hand_over(self, exchange: Exchange) -> None:
        """Give the leader's role to somebody who waits."""
        with self._mutex:
            if self._leader is exchange:
                self._leader = successor(self.queue)

    def _lead_or_follow(self, exchange: Exchange) -> Any:
        """Return the reply, or the error that stands for it."""
        looked = False
        while not self._leads(exchange):
            if not mark[0]:
                fork.renew()
            if self.on_stalled is not None:
                self._look_for_stall()
            # The second look can tell that the connection is stalled.
            look = (_WAIT if self.stalled is None else _LOOK) if looked else min(_LOOK, self._patience() + _MARGIN)
            if looked and len(self.queue) > _CROWD:
                look = _LOOK_IN_CROWD  # the others look, too
            looked, left = True, exchange.deadline - monotonic()
            try:
                # Once the time is over, its leader gets a last moment to look: the process may have stood still.
                message = exchange.get(True, min(left, look) if left > 0 else _LAST_LOOK)
            except Empty:
                if left <= 0 and self._leader is not exchange:
                    self._time_out(exchange)
                continue
            if message is not LEAD:
                return message
        # Nobody offers the role to who has it, so from now on only the reply can come.
        while not exchange.empty():
            message = exchange.get(False)
            if message is not LEAD:
                self._hand_over(exchange)
                return message
        return self._lead(exchange)

    def _leads(self, exchange: Exchange) -> bool:
        """Whether this exchange has the leader's role; it takes it if nobody has."""
        with self._mutex:  # whoever woke us is done with its change
            leader = self._leader
            if leader is None or leader.left:
                self._leader = leader = exchange
            return leader is exchange

    # Leading.

    def _lead(self, exchange: Exchange) -> Any:
        """Lead until its reply is in; return that."""
        calls = self._calls
        if exchange.started - self.last_received > _FRESH and calls.poll(0):
            self._read(calls.receive_now)  # a push, or the end of the connection: nobody has been listening
        if self._incoming.unfinished:  # the last leader was interrupted
            self._parse_and_hand_out(monotonic())
        looked = False
        while exchange.empty():
            if self._outgoing or self._written != len(self.queue):
                self._flush(exchange)
            if self.closed:
                self._lose(redis_exceptions.ConnectionError("The connection was closed."))
                if exchange.empty():
                    # A fork came before it was in the queue.
                    exchange.put(ConnectionLostError(_FORKED, written=False, started=exchange.started))
            if not exchange.empty():
                break
            if not self._incoming.received:
                left = exchange.deadline - monotonic()
                if left > self._may_wait_whole and (not self._handlers or get_ident() != self._main_thread):
                    self._read(calls.receive_waiting)
                    continue
                if left <= 0:
                    if looked:
                        self._time_out(exchange)
                        break
                    # The process may have stood still, and the reply be there, or the command just have been sent.
                    looked, left = True, _LAST_LOOK
                if not calls.poll(min(left, _WAIT) * 1000):
                    self._waited_in_vain()
                    if not mark[0]:
                        fork.renew()  # a handler has forked: what comes is read by the parent
                    continue
            self._read(calls.receive_now)
        if self._leader is exchange:
            self._hand_over(exchange)
        return exchange.get(False)

    def _flush(self, exchange: Exchange) -> None:
        """Send what has gathered, unless somebody else is sending; that one will find it."""
        calls = self._calls
        try:
            prepared = self._sender is exchange and not self._sent
            outgoing = self._outgoing if prepared else self._next_outgoing(exchange)
            while outgoing:
                sent = self._sent
                try:
                    # One C call: an interrupt finds the count of what went out, or nothing went out. Nothing can run
                    # between a look for a fork and that call.
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
                        # Near by, who came meanwhile waits for the leader's next round: fewer, larger batches. Far
                        # away, or if the leader itself found us sending, that one relies on us.
                        if self._leader is exchange and self._round_trip <= _FAR:
                            return
                except WOULD_BLOCK:
                    if not self._is_writable_in_time(exchange):
                        return
                outgoing = self._next_outgoing(exchange)
        except OSError as error:
            if self._outgoing is self._batch:
                self._batch_is_unsent = True
            closed = isinstance(error, ENDED)
            self._lose(redis_exceptions.ConnectionError("Connection closed by server.") if closed else error)
        finally:
            if self._sender is exchange:
                self._sender = None

    def _next_outgoing(self, exchange: Exchange) -> bytes:
        """Return what is to be sent now, and become its sender; nothing if somebody else is."""
        with self._mutex:
            sender = self._sender
            if self.closed or (sender is not None and sender is not exchange and not sender.left):
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
                self._prepare(exchange, data, unsent[-1], size)
            self._sender = exchange
            return self._outgoing

    def _prepare(self, sender: Exchange, data: bytes, last: Exchange, size: int) -> None:
        """Make ``data``, the commands of the next ``size`` exchanges, what goes out next."""
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

    def _is_writable_in_time(self, exchange: Exchange) -> bool:
        """Wait until the peer takes more. It may want its replies read first, which is what the leader does."""
        leading = self._leader is exchange
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN | select.POLLOUT if leading else select.POLLOUT)
        while exchange.empty() and not self.closed:
            left = exchange.deadline - monotonic()
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

    # Reading. Only the leader does.

    def _read(self, how: tuple[tuple[int], ...]) -> None:
        """Read what is there, or wait for it; ``how`` is what the call to receive takes."""
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
            self._hand_out(now)  # what came before it
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
            exhaust(map(put, queue[:handed], replies))
        if handed:
            if self.stalled is not None:
                self._recover()
            last = queue[handed - 1]
            waited = now - queue[0].started
            if waited >= self._slow_from:
                self._note_slow(queue[:handed], now)
            if handed > 1:
                waited = (waited + now - last.started) / 2  # between the first who asked and the last
            self._statistics.sample(waited, handed)
            if last.sent:
                # The shortest of late: what waiting for the interpreter adds is not the server's distance.
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
            units = sum(exchange.wanted > 0 for exchange in rest) if self._units else 0
            # The next leader adds to the list of what is left over as soon as the role is handed on.
            unasked = left_over[:1] if not written else []
            self.queue, incoming.replies, self._written, self._units = rest, left_over, written, units
            incoming.unfinished, self._leader = False, leader
        if unasked:
            last = unasked[0]
            text = str(last) if isinstance(last, Exception) else "A reply came that nobody asked for"
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
        """Take out what is no reply, and report the errors that concern more than their caller."""
        if self._incoming.pushes:
            replies[:] = [reply for reply in replies if reply.__class__ is not hiredis.PushNotification]
        if not self._units:
            for reply in replies:
                if isinstance(reply, Exception):
                    self._on_error(reply)

    def _hand_out_units(self, asked: list[Exchange], replies: list[Any]) -> tuple[int, int]:
        """Do it where some want several replies; return how many were served, and with how many replies."""
        handed = position = 0
        for exchange in asked:
            until = position + (exchange.wanted or 1)
            if until > len(replies):
                break
            own = replies[position:until]
            for reply in own:
                if isinstance(reply, Exception) and not exchange.quiet:
                    self._on_error(reply)
            exchange.put(own if exchange.wanted else own[0])
            handed, position = handed + 1, until
        return handed, position

    def _note_slow(self, exchanges: list[Exchange], now: float) -> None:
        """Remember the callers that have waited long. Those that left, or sent it again, are remembered elsewhere."""
        for exchange in exchanges:
            if not exchange.left and not exchange.resent and now - exchange.started >= self._slow_from:
                self._slow.note_all([(exchange.packed, exchange.wanted)], now - exchange.started)

    # The end.

    def _time_out(self, exchange: Exchange) -> None:
        """Raise ``ReplyTimeoutError``, unless something has arrived at the last moment."""
        now, timeout = monotonic(), self.timeout
        text = f"Timeout reading from {self._where}"
        with self._mutex:
            if not exchange.empty():
                return
            # Not handed out, so if it was written it is still among those.
            written = exchange in self.queue[: self._written]
            oldest = self.queue[0].started if self.queue else now
            self._statistics.timeouts += 1
        self._note_slow([exchange], now)
        # Left before the connection is lost: its caller has waited long enough, whatever comes.
        error = ReplyTimeoutError(text, written=written, started=exchange.started)
        if written and timeout is not None and now >= stuck_from(oldest, self.last_received, timeout):
            self._lose(redis_exceptions.TimeoutError(text))
        raise error

    def close(self) -> None:
        """Close at once; callers that still wait get ``ConnectionLostError``."""
        if self.closed:
            return
        error = redis_exceptions.ConnectionError("The connection was closed.")
        if is_nested() and self._stays_locked():
            # This thread itself may hold the mutex, further down, and goes on to find the connection closed.
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
        """Close if every caller has left, so that no thread reads what is due; return whether it is closed now."""
        if is_nested() and self._stays_locked():
            return False
        with self._mutex:
            if not self.closed and not all(exchange.left for exchange in self.queue):
                return False
            self.closed = True
        self._lose(redis_exceptions.ConnectionError("The connection was closed."), report=False)
        return True

    def _lose(self, error: BaseException, *, report: bool = True) -> None:
        with self._mutex:
            first, self.closed = not self.closed, True
            # What ended it first: to close the socket ends the leader's read too, which then says less.
            self._ended_by = error = self._ended_by or error
            queue, written = list(self.queue), self._written
            if self._batch_is_unsent:
                written = max(0, written - self._batch_size)  # its very first byte was refused
        oldest = queue[0].started if queue and written else None
        if oldest is not None and isinstance(error, redis_exceptions.TimeoutError):
            oldest = silent_since(oldest, self.last_received, self.timeout)
        try:
            if first and report:
                self._on_lost(self, error, oldest)
        finally:
            self._fail(queue, written, error)

    def _fail(self, queue: list[Exchange], written: int, error: BaseException) -> None:
        # Before anybody is told: whoever is left when this is interrupted does it all again.
        self.connection.disconnect()
        text = str(error) or type(error).__name__
        stuck = isinstance(error, redis_exceptions.TimeoutError)
        if not isinstance(error, redis_exceptions.RedisError):
            text = f"Error while reading from {self._where}: {text}"
        if written and isinstance(error, ReplyTooLargeError):
            queue[0].put(error)  # whose reply it is; the others may ask again
        for position, exchange in enumerate(queue):
            exchange.put(ConnectionLostError(text, written=position < written, started=exchange.started, stuck=stuck))
        with self._mutex:
            self.queue, self._written, self._units, self._batch_is_unsent = [], 0, 0, False

    def after_fork_in_child(self) -> None:
        """In a forked child: the socket is the parent's, and its threads are not here.

        The thread that forked may be inside a call, which goes on in the child.
        """
        self.closed = True
        self._mutex = threading.Lock()
        self._leader = self._sender = None
        for position, exchange in enumerate(self.queue):
            lost = ConnectionLostError(_FORKED, written=position < self._written, started=exchange.started)
            exchange.put(lost)
        self.queue, self._written, self._units = [], 0, 0
