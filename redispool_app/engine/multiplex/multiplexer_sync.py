"""Keeps one shared connection for all threads.

Callers share one attempt to connect, and limits bound what is in flight. The blocking version of ``multiplexer_async``,
with the same rules. A caller waits by blocking its thread, at most until its deadline.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from threading import get_ident
from time import monotonic, sleep
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.connection_sync import BOUNDED
from redispool_app.engine.connection.credentials import auth_of, mark_dedicated
from redispool_app.engine.connection.deadline_sync import shortened
from redispool_app.engine.connection.lifecycle import let_go_of_pool, track
from redispool_app.engine.errors import LOST
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.state import Snapshot
from redispool_app.engine.protocol.packing import pack
from redispool_app.engine.runtime import fork, threads
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.runtime.nesting import inside, is_nested
from redispool_app.engine.runtime.single_flight import Flight, SingleFlight
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, ThreadWaiter, WaitQueue
from redispool_app.engine.stats.counters import Statistics
from redispool_app.exceptions import PoolClosed

from .base import FAILURES, MultiplexerBase, MultiplexerLimits, Request, is_silent, limits_of
from .connection_sync import SharedSocket
from .nested_calls import NestedCalls
from .request_sync import InFlightLimitReached, first_wait
from .retry import FAILED, StalledError
from .stalls import AGAIN_AFTER, SURPLUS_IDLE, Lanes, reads_only, stall_after

_LOGIN_PATIENCE = 5.0
"""Seconds for AUTH on a connection without a timeout."""

_WITHOUT_DEADLINE = threading.TIMEOUT_MAX

_FIRST_LOOK = 0.03
"""Seconds after which a following caller first checks whether the connection is stalled."""

_FAILED = (*LOST, InFlightLimitReached)
"""Errors of an attempt that brings no reply."""


class _Unblocked:
    """Health of a pool that has no monitor."""

    now = Snapshot(since=0.0)


class SyncMultiplexer(MultiplexerBase):
    """The shared connection of one pool and all threads of the process, open or not yet made."""

    def __init__(self, pool: Any, monitor: Monitor | None, limits: MultiplexerLimits) -> None:
        super().__init__(pool, monitor, limits)
        self.decoding = (self.encoder.encoding, self.encoder.encoding_errors) if self.encoder.decode_responses else None
        self._patience = _WITHOUT_DEADLINE if self.timeout is None else self.timeout
        self._first_wait = min(first_wait(self._patience), _FIRST_LOOK)
        self._health: Any = monitor.health if monitor is not None else _Unblocked
        self.successor: dict[int, SyncMultiplexer] = {}
        """The object that replaced this one after it was closed, as the only value."""
        self._start_anew()
        fork.register(self.after_fork_in_child)

    def _start_anew(self) -> None:
        self.connection: SharedSocket | None = None
        """The connection that every caller may use. None if several are open (see ``stalls``), or none."""
        self.lanes = Lanes(self.limits.max_connections)
        self._surplus_at = math.inf
        """When a batch of replies checks for connections that are not needed. Their thread may have ended."""
        self._leaving: list[SharedSocket] = []
        """Connections that take no new commands and close after their last pending reply."""
        self._attempts: SingleFlight[None] = SingleFlight()
        """The attempt to connect that one thread makes for all waiting callers."""
        self._waiting = WaitQueue()
        self._emptied: threading.Event | None = None
        self.statistics = Statistics()
        self._nested = NestedCalls(self, self._open, self._until_resumed)

    @property
    def in_flight(self) -> int:
        """Number of commands without a reply."""
        return sum([each.in_flight for each in [*self._leaving, *self.lanes.open]])

    @property
    def connections(self) -> int:
        """Open connections that take new commands."""
        return len(self.lanes.usable)

    @property
    def nested_connections(self) -> int:
        """Open connections that serve nested calls."""
        return len(self._nested.all)

    @property
    def waiting(self) -> int:
        """Callers that wait for room."""
        return len(self._waiting)

    # Sending.

    def reply(self, packed: bytes, wanted: int, *, reads: bool) -> Any:
        """Send one packed command and return its reply or raise its error. Retry where that is safe.

        With ``wanted`` it is a pipeline of that many commands. Return all their replies; errors are values in the list.
        """
        if not mark[0]:
            fork.renew()
        started, thread = monotonic(), get_ident()
        deadline = started + self._patience
        if thread in inside:
            reply = self._nested.carry_out(Request(packed, wanted, reads, started, deadline))
        else:
            inside[thread] = self
            try:
                connection, failure = self.connection, None
                if connection is None or connection.closed or self._waiting or self._health.now.blocked:
                    reply = self._carry_out(Request(packed, wanted, reads, started, deadline))
                else:
                    # The first attempt of nearly every request, without the calls of its three steps.
                    try:
                        reply = connection.exchange(
                            packed, wanted, started, deadline, self._first_wait, self.limits.surely_room
                        )
                    except _FAILED as error:
                        failure = error
                    if failure is not None:
                        reply = self._carry_out(Request(packed, wanted, reads, started, deadline), failure)
                if reply.__class__ is bytes:
                    return reply
                if isinstance(reply, redis_exceptions.ReadOnlyError):
                    reply = self._carry_out_refused(Request(packed, wanted, reads, started, deadline), reply)
            finally:
                del inside[thread]
        if reply.__class__ is not bytes and isinstance(reply, Exception):
            raise reply
        return reply

    def _carry_out_refused(self, request: Request, refusal: redis_exceptions.ReadOnlyError) -> Any:
        """Send a command again that a replica refused. Return its reply; an error is a value."""
        reply = self._carry_out(request, refusal)
        if isinstance(reply, redis_exceptions.ReadOnlyError):
            self.decide_retry(request, reply)
        if not isinstance(reply, Exception):
            self.read_only.accepted()
        return reply

    def _carry_out(self, request: Request, failure: Exception | None = None) -> Any:
        """Make attempts until one brings the reply, and return it. Each attempt chooses its connection.

        ``failure`` is the error of an earlier attempt.
        """
        while True:
            if isinstance(failure, FAILED):
                self.decide_retry(request, failure)
                self.look_up(request)
            connection = self._admit(request)
            try:
                return self._send(request, connection)
            except _FAILED as error:
                failure = error

    def look_up(self, request: Request) -> None:
        """Look up the host name for a refused request, if needed, before it is sent again."""
        if request.looks_up:
            request.looks_up = False
            self.read_only.look_up(request.deadline, self.replace)

    def _admit(self, request: Request) -> SharedSocket:
        """Wait until the request may be sent. Return its connection.

        Raises ``PoolClosed``, ``RedisUnavailable``, ``PoolQueueFull``, ``PoolTimeout``, and connection errors.
        """
        try:
            while True:
                connection = self._place(request)
                if connection is not None:
                    return connection
                request.was_held_back(self._until_resumed())
        except Exception:
            self.note_slow(request)
            raise

    def _send(self, request: Request, connection: SharedSocket) -> Any:
        """Send the request and wait for its reply. Return it; an error is a value.

        Raises what is in ``LOST``, and ``InFlightLimitReached`` if other callers took the room first.
        """
        deadline = request.deadline
        wait = min(first_wait(deadline - monotonic()), _FIRST_LOOK)
        most = self.limits.max_in_flight
        return connection.exchange(request.packed, request.commands, request.started, deadline, wait, most)

    def _is_full(self) -> bool:
        """Whether the in-flight limit is reached. The limits cover all shared connections together."""
        limits, lanes = self.limits, list(self.lanes.open)
        callers, size = sum([len(each.queue) for each in lanes]), sum([each.bytes_in_flight for each in lanes])
        return bool(callers >= limits.max_in_flight or size >= limits.max_in_flight_bytes)

    def probe(self, packed: bytes, wanted: int, deadline: float) -> list[Any]:
        """Send ``wanted`` read-only commands without any health check or limit.

        They are sent again if the connection is cut. Return their replies, not decoded. Errors are values in the list.
        """
        if not mark[0]:
            fork.renew()
        began, cuts = monotonic(), 0
        while True:
            try:
                self.attempt_at_once()
                return self.exchange(packed, wanted, deadline)
            except redis_exceptions.ConnectionError as error:
                cuts += 1
                if not self.may_probe_again(error, cuts, began):
                    raise

    def exchange(self, packed: bytes, wanted: int, deadline: float) -> list[Any]:
        """Send a pipeline once, without any health check or limit. Return its replies; errors are values, not reported.

        Connects if no connection is open.
        """
        started, thread = monotonic(), get_ident()
        replies: list[Any]
        if thread in inside:
            replies = self._nested.attempt(Request(packed, wanted, False, started, deadline), quiet=True)
            return replies
        inside[thread] = self
        try:
            reads = reads_only(packed, wanted, own=True)
            while True:
                connection = self._connected(deadline, reads=reads)
                wait = min(first_wait(deadline - monotonic()), _FIRST_LOOK)
                try:
                    replies = connection.exchange(packed, wanted, started, deadline, wait, math.inf, quiet=True)
                    return replies
                except StalledError:
                    continue  # another connection is there
        finally:
            del inside[thread]

    def connect(self, deadline: float) -> None:
        """Make the connection unless it is open. Does nothing in a nested call, which connects when it sends."""
        thread = get_ident()
        if thread not in inside:
            inside[thread] = self
            try:
                self._connected(deadline)
            finally:
                del inside[thread]

    def _connected(self, deadline: float, *, reads: bool = True) -> SharedSocket:
        while (connection := self.lanes.choose(reads=reads)) is None or connection.closed:
            if self.closed:
                raise PoolClosed()
            self._connect(deadline)
        shared: SharedSocket = connection
        return shared

    # Waiting: for the connection, for room on it, and for the end of a pause.

    def _until_resumed(self) -> float:
        """Wait while the pool is paused. Return the seconds waited."""
        held_back = self.monitor.pause.wait_in_thread(self, self.ensure_available) if self.monitor is not None else 0.0
        self.attempt_at_once()
        return held_back

    def _place(self, request: Request) -> SharedSocket | None:
        """Wait for a place on a connection. Return None if the caller must wait for the end of a pause instead."""
        deadline = request.deadline
        connection: SharedSocket | None
        while True:
            self.ensure_available()
            if self.is_paused:
                return None
            connection = self.lanes.choose(reads=request.reads)
            if connection is None or connection.closed:
                try:
                    self._connect(deadline)
                except redis_exceptions.ConnectionError as error:
                    if not self.may_connect_again(error, deadline):
                        raise
                continue
            if self.connection is None:
                self._settle()  # two threads may have called ``_settle`` at once
            if not self._waiting and not self._is_full():
                return connection
            self._wait_for_room(deadline)
            if self.is_paused:
                self._let_next_in()  # an exception here takes the same path as in the other steps
                return None
            connection = self.lanes.choose(reads=request.reads)
            if connection is not None and not connection.closed:
                return connection

    def _wait_for_room(self, deadline: float) -> None:
        waiting, turn, admitted = self._waiting, ThreadWaiter(), False
        if len(waiting) >= self.limits.max_waiting:
            raise self.too_many(self.in_flight, len(waiting))
        try:
            waiting.append(turn)
            left = deadline - monotonic()
            while True:
                if lanes := list(self.lanes.open):
                    for connection in lanes:
                        connection.eager = True
                    # Room may have come before this caller was in the queue.
                    if not self._is_full():
                        self._let_next_in()
                # A caller that left the queue may send. The thread that removed it may have been interrupted before
                # waking it.
                admitted = turn.wait(min(LOOK_AGAIN, left)) or turn not in waiting
                left = deadline - monotonic()
                if admitted or left <= 0:
                    break
        finally:
            try:
                waiting.remove(turn)
            except ValueError:
                if not admitted:
                    self._let_next_in()  # the turn was given at the same moment; pass it on
        if not admitted:
            raise self.no_room()

    def _let_next_in(self) -> None:
        """Wake the first caller in the queue. Each caller that has sent wakes the next one."""
        with suppress(IndexError):  # no caller waits
            self._waiting.popleft().wake()

    # Connecting: one thread makes the attempt for all waiting callers.

    def _connect(self, deadline: float) -> None:
        refuse_unsupported_runtime()
        own: Flight[None] = Flight()
        attempt = self._attempts.lead(own, lambda: self._make_connection(deadline), self._is_for_all)
        if attempt is own:
            return
        # A nested call has its own connections. It must not wait for its own thread.
        left = 0.0 if own.is_nested_in(attempt) else deadline - monotonic()
        if not attempt.wait(left):
            raise self.too_late(left)
        if attempt.has_landed:
            attempt.result()  # raises the error of the attempt

    def _is_for_all(self, error: Exception) -> bool:
        """Whether the error of an attempt is raised for its waiting callers, too."""
        if isinstance(error, FAILURES) or self._accident is not None:
            return True
        # As from a signal handler: meant for the code that it interrupted, not for the waiting callers. A second
        # exception, such as one of a credential provider, is raised for them.
        self._accident = error
        return False

    def _make_connection(self, deadline: float) -> None:
        if (delay := self.attempt_delay()) > 0:
            left = deadline - monotonic()
            sleep(max(0.0, min(delay, left)))
            if delay > left:
                raise self.too_late(left)
        try:
            stamp, token = self.renewal.before_connecting(), self.latest_token()
            shared = self._open(deadline)
            # Other connections have been closed, or were made for a stall at the same moment.
            self.lanes.forget_closed()
            if self.lanes.open:
                self._surplus_at = monotonic() + 2 * SURPLUS_IDLE
            self.lanes.open.insert(0, shared)
            self._settle()
        except Exception:
            self.attempt_failed()
            raise
        self._accident = None
        self.attempt_succeeded()
        self.renewal.connected(stamp)
        if self.latest_token() is not token:  # it came meanwhile
            self.use_token(self.latest_token())

    def _open(self, deadline: float) -> SharedSocket:
        """Make a connection."""
        # Not through the pool, which would count it as lent.
        usual = self.pool.connection_class
        connection = BOUNDED.get(usual, usual)(**self.pool.connection_kwargs)
        try:
            began = monotonic()
            with shortened(connection, deadline):
                connection.connect()
            if self.closed:
                raise PoolClosed()
            return self._share(connection, monotonic() - began)
        except BaseException:
            connection.disconnect()
            raise

    def _share(self, connection: Any, connecting: float) -> SharedSocket:
        track(connection)
        shared = SharedSocket(
            connection,
            self.timeout,
            self.statistics,
            self._received,
            self.report_error,
            self._lost,
            self.slow_commands,
        )
        if self.lanes.most > 1:
            shared.stall_after = stall_after(connecting)
            shared.on_stalled, shared.on_recovered = self._stalled, self._recovered
        return shared

    # While a connection is stalled.

    def _settle(self) -> None:
        """Enable the fast path if there is exactly one connection to choose."""
        self.connection = self.lanes.usual()

    def _stalled(self, connection: SharedSocket) -> None:
        """No reply completes on a connection. Make another one, and send reads again on it."""
        lanes = self.lanes
        if connection not in lanes.open:
            return
        if lanes.free:
            self._settle()
            lanes.lead_past(connection)
        elif not self.closed and lanes.may_widen(monotonic()):
            own: Flight[None] = Flight()
            try:
                if lanes.may_lead_widening(own):
                    # In a thread, so that no caller waits for it. At interpreter shutdown no thread can start.
                    threads.start(self._widen_in_thread, connection.stalled, own, name="redispool-widening")
            except BaseException as error:
                own.ended = True
                if not isinstance(error, RuntimeError):
                    raise

    def _widen_in_thread(self, reason: str | None, own: Flight[None]) -> None:
        inside[thread := get_ident()] = self
        try:
            self._widen(reason, own)
        finally:
            own.ended = True
            del inside[thread]

    def _widen(self, reason: str | None, own: Flight[None]) -> None:
        """Make another connection. Close it when it has not been needed for a while."""
        lanes, connection = self.lanes, None
        try:
            usual = self.pool.connection_class
            connection = BOUNDED.get(usual, usual)(**self.pool.connection_kwargs)
            connection.is_spare, began = True, monotonic()  # no caller waits for it, so its errors are no verdict
            connection.connect()
            connection.is_spare = False
            if not lanes.usable or len(lanes.usable) >= lanes.most:
                raise PoolClosed()
            shared = self._share(connection, monotonic() - began)
            self._surplus_at = monotonic() + 2 * SURPLUS_IDLE
            lanes.add(shared)
            if self.closed:
                raise PoolClosed()
        except BaseException as error:
            lanes.widen_not_before = monotonic() + AGAIN_AFTER
            if connection is not None:
                connection.disconnect()
            if not isinstance(error, redis_exceptions.RedisError | OSError | PoolClosed):
                raise
            return
        finally:
            own.ended = True
        self.statistics.count_connection(reason)
        self._settle()
        for each in list(lanes.open):
            if each.stalled is not None:
                lanes.lead_past(each)
        # Again at the end: a connection may have been added a moment before.
        while self._keep_surplus():
            pass

    def _keep_surplus(self) -> bool:
        """Close what is not needed until one connection remains. Return False if there is nothing to do."""
        lanes = self.lanes
        own: Flight[None] = Flight()
        try:
            if len(lanes.open) < 2 or self.closed or lanes.keeping.join(own) is not own:
                return False
            while len(lanes.open) > 1 and not self.closed:
                sleep(SURPLUS_IDLE)
                self._close_surplus()
        finally:
            own.ended = True
        return True

    def _recovered(self, connection: SharedSocket) -> None:
        self._settle()

    def _close_surplus(self) -> None:
        """Close the connections beyond the first if none is stalled and no reply is pending on them."""
        lanes = self.lanes
        self._surplus_at = monotonic() + 2 * SURPLUS_IDLE  # first: after an interrupt a later call goes on
        for connection in lanes.usable:
            # Only its own callers read a stalled connection. After all of them have given up, no thread reads it.
            if connection.stalled is not None:
                connection.close_if_left()
        if not lanes.are_stalled:
            for connection in lanes.usable[1:]:
                if monotonic() - connection.last_received >= SURPLUS_IDLE / 2:
                    connection.close_if_left()
        lanes.forget_closed()
        self._settle()
        if len(lanes.open) < 2:
            self._surplus_at = math.inf

    # What the connection reports.

    def _received(self, count: int, at: float) -> None:
        lanes = self.lanes.open
        for connection in lanes:
            connection.eager = False  # before the check for callers that need it
        if self.monitor is not None:
            self.monitor.reply(at)
        if at >= self._surplus_at:
            self._close_surplus()
        if at >= self.renewal.look_at and self.renewal.is_due():
            # In a thread, so that no caller waits for it. At interpreter shutdown no thread can start.
            with suppress(RuntimeError):
                threads.start(self._renew_in_thread, name="redispool-renewal")
        if self.budget.tokens < self.budget.size:
            self.budget.succeeded(count)
        if self._waiting:
            for _ in range(min(count, len(self._waiting))):
                self._let_next_in()
        if self._leaving:
            self._close_empty()
        if self._emptied is not None and self.in_flight == 0:
            self._emptied.set()
        if self._waiting:
            for connection in lanes:
                connection.eager = True

    def _lost(self, connection: SharedSocket, error: BaseException, oldest: float | None) -> None:
        if self.connection is connection:
            self.connection = None
        if self.lanes.remove(connection) and self.lanes.open:
            self._settle()
        self._drop(connection)
        held_back = self.lanes.is_held_back(connection, self.timeout)
        self.report_loss(error, oldest, was_passed=self.lanes.have_passed(connection), held_back=held_back)
        if self._emptied is not None and not self._leaving:
            self._emptied.set()
        # In an outage each waiting caller finds that there is nothing to wait for.
        for _ in range(len(self._waiting) if self.monitor is not None and self.monitor.health.now.blocked else 1):
            self._let_next_in()

    def close_stale_idle(self, since: float) -> None:
        """Close a connection that is idle and has received nothing since ``since`` (monotonic seconds)."""
        if not mark[0]:
            fork.renew()
        for connection in list(self.lanes.open):
            if is_silent(connection, since):
                connection.close()
                self.lanes.remove(connection)
                self._settle()
        self._nested.close_stale_idle(since)

    def use_token(self, token: Any) -> None:
        with suppress(RuntimeError):  # at interpreter shutdown no thread can start
            threads.start(self._log_in, token, name="redispool-login")

    def _log_in(self, token: Any) -> None:
        mark_dedicated(self.pool, token)
        self._nested.retire_free()
        for connection in [each for each in self.lanes.open if not each.closed]:
            self._log_in_on(connection, token)

    def _log_in_on(self, connection: SharedSocket, token: Any) -> None:
        started, patience = monotonic(), self.timeout or _LOGIN_PATIENCE
        packed = pack(auth_of(token), self.encoder)
        try:
            (reply,) = connection.exchange(
                packed, 1, started, started + patience, first_wait(patience), math.inf, quiet=True
            )
        except LOST:
            return  # the next connection asks for its own credentials
        if isinstance(reply, Exception):
            if connection in self.lanes.open:
                self.replace()
            self.login_failed(reply)

    # Replacing.

    def replace(self) -> None:
        for connection in list(self.lanes.open):
            self._retire(connection)
        self._settle()
        self._close_empty()
        self._nested.retire_free()

    def _retire(self, connection: SharedSocket) -> None:
        self._leaving.append(connection)  # first: an interrupt leaves it in both lists, and not in none
        if not self.lanes.remove(connection):
            self._drop(connection)  # another thread was faster

    def _renew_in_thread(self) -> None:
        inside[thread := get_ident()] = self
        try:
            self._renew()
        finally:
            del inside[thread]

    def _renew(self) -> None:
        """Make a new connection, then use it in place of the current one."""
        former, stamp = self.connection, self.renewal.before_connecting()
        if self.renewal.has_new_files() and self.monitor is not None:
            self.monitor.retire_connections()
        usual = self.pool.connection_class
        connection = BOUNDED.get(usual, usual)(**self.pool.connection_kwargs)
        connection.is_spare = True
        try:
            began = monotonic()
            connection.connect()
            connection.is_spare = False
            spare = self._share(connection, monotonic() - began)
        except redis_exceptions.RedisError:
            connection.disconnect()  # the current connection stays
            return
        except BaseException:
            connection.disconnect()
            raise
        takes_over = False
        if former is not None and self._attempts.latest.is_over:
            self._leaving.append(former)
            self.lanes.forget_closed()
            # An attempt to connect means that the former one is lost. No call between the comparison and the store.
            if not self.closed and self.connection is former and self.lanes.open[:1] == [former]:
                self.lanes.open[:1], self.connection, takes_over = [spare], spare, True
            else:
                self._drop(former)
        if not takes_over:
            spare.close()
            return
        self.renewal.connected(stamp)
        self._close_empty()
        self._nested.retire_free()

    def _close_empty(self) -> None:
        """Close connections after their last reply."""
        for connection in list(self._leaving):
            connection.eager = True  # its leader reports the next batch, too
            if connection.close_if_left():
                self._drop(connection)

    def _drop(self, connection: SharedSocket) -> None:
        with suppress(ValueError):  # another thread was faster
            self._leaving.remove(connection)

    # The end.

    def drain(self, timeout: float) -> None:
        """Take no more commands, wait up to ``timeout`` seconds for pending replies, then close."""
        if not mark[0]:
            fork.renew()
        self.closed = True
        self._emptied = emptied = threading.Event()
        self.connection = None
        for connection in list(self.lanes.open):
            self._retire(connection)
        for _ in range(len(self._waiting)):
            self._let_next_in()  # each finds the closed state
        self._nested.close()
        if self.monitor is not None:
            self.monitor.pause.release(self)
        try:
            for each in list(self._leaving):
                each.eager = True
            deadline = monotonic() + timeout
            # A nested call would wait for its own thread.
            while not is_nested() and (left := deadline - monotonic()) > 0:
                for each in list(self._leaving):
                    each.close_if_left()  # no thread reads there any more
                if not self.in_flight or emptied.wait(min(left, _FIRST_LOOK)):
                    break
        finally:
            for each in list(self._leaving):
                self._drop(each)
                each.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: the connections belong to the parent, whose threads do not run here."""
        connections = [*self._leaving, *self.lanes.open, *self._nested.all]
        attempt, waiting = self._attempts.latest, self._waiting
        _graveyard.extend(connections)
        for connection in connections:
            connection.after_fork_in_child()
        if self.monitor is None:
            let_go_of_pool(self.pool)
        self._start_anew()
        # The thread that forked may be waiting for one of these, and goes on in the child.
        attempt.fail(redis_exceptions.ConnectionError("The process was forked while it connected."))
        waiting.wake_all()


_graveyard: list[SharedSocket] = []
"""What a forked child must neither use nor finalise."""


def sync_multiplexer_of(pool: Any) -> SyncMultiplexer | None:
    """Return what all threads share of ``pool``; made on first use. None if nothing may be shared."""
    sharing: SyncMultiplexer | None = getattr(pool, "_sharing", None)
    # A managed pool that was drained stays closed. A pool of redis-py may be used again.
    if sharing is not None and not (sharing.closed and sharing.monitor is None):
        return sharing
    limits = limits_of(pool)
    if limits is None:
        return None
    if not mark[0]:
        fork.renew()
    made = SyncMultiplexer(pool, getattr(pool, "monitor", None), limits)
    # The first one stored serves all. No lock: a signal handler that runs here could wait for its own thread.
    sharing = pool.__dict__.setdefault("_sharing", made)
    while sharing.closed and sharing.monitor is None:
        sharing = pool._sharing = sharing.successor.setdefault(0, made)
    return sharing


def close_sync_multiplexer(pool: Any) -> None:
    """Close the shared connection of ``pool``. The next command makes another one."""
    sharing: SyncMultiplexer | None = getattr(pool, "_sharing", None)
    if sharing is not None:
        sharing.drain(0)
