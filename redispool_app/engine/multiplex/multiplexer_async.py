"""Keeps one shared connection per event loop.

Callers share one attempt to connect, and limits bound what is in flight. A caller whose command is not written yet
waits for the connection, at most until its own deadline. Above ``max_in_flight`` commands or ``max_in_flight_bytes`` it
waits for room. Above ``max_waiting`` waiting callers it is refused at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.connection_async import abandon, cut
from redispool_app.engine.connection.credentials import auth_of, mark_dedicated
from redispool_app.engine.connection.lifecycle import let_go_of_pool, track
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.protocol.packing import pack
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.attempts import Attempt
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.runtime.hooks import tell_all
from redispool_app.engine.runtime.lost_callbacks import note_strike, schedule_lost_callbacks
from redispool_app.engine.runtime.single_flight import Flight, copy_of
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, LoopWaiter, WaitQueue
from redispool_app.engine.stats.counters import Statistics
from redispool_app.exceptions import PoolClosed

from .base import FAILURES, MultiplexerBase, MultiplexerLimits, Request, is_silent, limits_of
from .connection_async import SharedConnection, share
from .retry import FAILED, FailedCommandError, StalledError
from .stalls import AGAIN_AFTER, SURPLUS_IDLE, Lanes, stall_after


class AsyncMultiplexer(MultiplexerBase):
    """The shared connection of one pool on one event loop, open or not yet made."""

    def __init__(self, pool: Any, monitor: Monitor | None, limits: MultiplexerLimits) -> None:
        super().__init__(pool, monitor, limits)
        self.loop = fork.use_running_loop()
        self._patience = math.inf if self.timeout is None else self.timeout
        self.connection: SharedConnection | None = None
        """The connection that every caller may use. None if several are open (see ``stalls``), or none."""
        self.lanes = Lanes(limits.max_connections)
        self._widening: asyncio.Task[None] | None = None
        self._surplus_at = math.inf
        """When a batch of replies checks for connections that are not needed. Their timer may have been lost."""
        self._surplus_timers: list[asyncio.TimerHandle] = []
        self._leaving: list[SharedConnection] = []
        """Connections that take no new commands and close after their last pending reply."""
        self._connecting: Attempt | None = None
        self._usual_connect: float | None = None
        """Seconds that the last connect took."""
        self._spare: asyncio.Task[None] | None = None
        """Makes the next connection in advance."""
        self._attempt_ended: BaseException | None = None
        self._waiting = WaitQueue()
        self._emptied: asyncio.Future[None] | None = None
        fork.register(self.after_fork_in_child)

    @property
    def in_flight(self) -> int:
        """Number of commands without a reply."""
        return sum([each.in_flight for each in (*self._leaving, *self.lanes.open)])

    @property
    def connections(self) -> int:
        """Open connections that take new commands."""
        return len(self.lanes.usable)

    @property
    def waiting(self) -> int:
        """Callers that wait for room."""
        return len(self._waiting)

    # Sending. The client contains the fast path of a single command, and calls ``open_connection`` and ``send`` itself.

    def open_connection(self) -> SharedConnection | None:
        """Return the connection if it can take one more command now."""
        connection = self.connection
        if (
            connection is None
            or connection.in_flight >= self.limits.max_in_flight
            or connection.bytes_in_flight >= self.limits.max_in_flight_bytes
            or self._waiting
        ):
            return None
        if self.monitor is not None and self.monitor.health.now.blocked:
            self.monitor.ensure_available()
            if self.monitor.pause.is_on:
                return None
        return connection

    def reply(
        self,
        packed: bytes,
        decode: bool,
        *,
        reads: bool,
        lost: FailedCommandError | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send one packed command and return its reply.

        Retry where that is safe. ``lost`` is the loss of a first attempt.
        """
        started: float = getattr(lost, "started", None) or monotonic()
        return self._carry_out(Request(packed, 0, reads, started, started + self._patience, decode), lost)

    def replies(self, packed: bytes, decode: Sequence[bool], *, reads: bool) -> Coroutine[Any, Any, list[Any]]:
        """Send several packed commands together and return all their replies."""
        started = monotonic()
        return self._carry_out(Request(packed, len(decode), reads, started, started + self._patience, decode))

    async def _carry_out(self, request: Request, lost: FailedCommandError | None = None) -> Any:
        """Make attempts until one brings the reply. Each attempt chooses its connection."""
        if lost is not None:
            self.decide_retry(request, lost)
        try:
            while True:
                if request.looks_up:
                    request.looks_up = False
                    await self.look_up(request.deadline)
                connection = self.open_connection() or await self._admit(request)
                future, limit = self._send(request, connection)
                try:
                    reply = await future
                    if request.was_refused:
                        self.read_only.accepted()
                    return reply
                except FAILED as error:
                    self.decide_retry(request, error)
                finally:
                    if limit is not None:
                        limit.cancel()
        except BaseException as error:
            schedule_lost_callbacks(self.loop, error)
            raise
        finally:
            if self._waiting:
                self._let_next_in()  # this caller may have been interrupted between its turn and its sending
            self.note_slow(request)

    async def look_up(self, deadline: float) -> None:
        """Look up the host name for a refused command before it is sent again."""

        async def replace() -> None:
            self.replace()

        await self.read_only.look_up_async(deadline, replace)

    async def _admit(self, request: Request) -> SharedConnection:
        """Wait until the request may be sent. Return its connection.

        Raises ``PoolClosed``, ``RedisUnavailable``, ``PoolQueueFull``, ``PoolTimeout``, and connection errors.
        """
        while True:
            connection = await self._place(request)
            if connection is not None:
                return connection
            request.was_held_back(await self._until_resumed())

    def _send(
        self, request: Request, connection: SharedConnection
    ) -> tuple[asyncio.Future[Any], asyncio.TimerHandle | None]:
        """Send the request.

        Return the future of its reply, and the timer that ends the wait at the request's deadline.
        """
        decode = request.decode
        future: asyncio.Future[Any]
        if isinstance(decode, bool):
            future = connection.send(request.packed, decode)
        else:
            future = connection.send_pipeline(request.packed, decode)
        request.sent_at = monotonic()
        # Subtract the time that waiting and a first attempt have used.
        deadline = request.deadline
        return future, None if deadline == math.inf else connection.limit(future, deadline, request.sent)

    async def probe(self, packed: bytes, wanted: int) -> list[Any]:
        """Send ``wanted`` read-only commands without any health check or limit.

        They are sent again if the connection is cut. Return their replies, not decoded. Errors are values in the list.
        """
        began, cuts = monotonic(), 0
        while True:
            try:
                while (connection := self.lanes.choose(reads=True)) is None:
                    if self.closed:
                        raise PoolClosed()
                    self.attempt_at_once()
                    await self._connect(math.inf)
                replies: list[Any] = await connection.send_pipeline(packed, [False] * wanted, quiet=True)
                return replies
            except StalledError:
                continue  # nothing was cut, and another connection is there
            except redis_exceptions.ConnectionError as error:
                cuts += 1
                if not self.may_probe_again(error, cuts, began):
                    raise

    # Waiting: for the connection, for room on it, and for the end of a pause.

    async def _until_resumed(self) -> float:
        """Wait while the pool is paused. Return the seconds waited."""
        held_back = await self.monitor.pause.wait(self, self.ensure_available) if self.monitor is not None else 0.0
        self.attempt_at_once()
        return held_back

    async def _place(self, request: Request) -> SharedConnection | None:
        """Wait for a place on the connection. Return None if the caller must wait for the end of a pause instead."""
        deadline = request.deadline
        while True:
            self.ensure_available()
            if self.is_paused:
                return None
            if self._choose(request) is None:
                try:
                    await self._connect(deadline)
                except redis_exceptions.ConnectionError as error:
                    if not self.may_connect_again(error, deadline):
                        raise
                continue
            if not self._waiting and self._has_room():
                return self._choose(request)
            await self._wait_for_room(deadline)
            if self.is_paused:
                self._let_next_in()  # an exception here takes the same path as in the other steps
                return None
            if (connection := self._choose(request)) is not None and not connection.closed:
                return connection

    def _choose(self, request: Request) -> SharedConnection | None:
        connection: SharedConnection | None = self.lanes.choose(reads=request.reads)
        return connection

    def _has_room(self) -> bool:
        """Whether one more command may be in flight. The limits cover all shared connections together."""
        lanes = self.lanes.open
        commands, size = sum([each.in_flight for each in lanes]), sum([each.bytes_in_flight for each in lanes])
        return bool(commands < self.limits.max_in_flight and size < self.limits.max_in_flight_bytes)

    async def _wait_for_room(self, deadline: float) -> None:
        waiting, turn, woken = self._waiting, LoopWaiter(), False
        if len(waiting) >= self.limits.max_waiting:
            raise self.too_many(self.in_flight, len(waiting))
        try:
            try:
                waiting.append(turn)
                left = deadline - monotonic()
                while not woken and left > 0:
                    # There may be room behind callers that have not used their turn, or that an interrupt has left in
                    # the queue.
                    self._let_next_in()
                    woken = await turn.wait(min(LOOK_AGAIN, left))
                    left = deadline - monotonic()
            finally:
                # Not before this point: a caller with a turn still counts as waiting, so that no newcomer takes its
                # place.
                try:  # noqa: SIM105 (see wait_queue: the first call must be this one)
                    waiting.remove(turn)
                except ValueError:
                    pass
            if not woken:
                raise self.no_room()
        except BaseException:
            if turn in waiting:
                waiting.remove(turn)  # again: after ``RecursionError`` or ``MemoryError`` the first call did not begin
            self._let_next_in()  # the turn may have been given at the same moment; pass it on
            raise

    def _let_next_in(self) -> None:
        """Wake as many callers as there is room for, in order. Callers woken before may still be among them."""
        lanes = self.lanes.open
        room = self.limits.max_in_flight - sum([each.in_flight for each in lanes]) if lanes else 1
        if lanes and not self._has_room():
            return
        self._give_turns(max(0, room))

    # Connecting: all callers share one attempt.

    async def _connect(self, deadline: float) -> None:
        """Wait for an attempt to connect. Raise its error.

        The first foreign exception, such as an interrupt, is not raised: it was meant for other code. A second one is.
        """
        refuse_unsupported_runtime()
        fork.use_running_loop()
        attempt = self._connecting
        if attempt is None or attempt.has_ended:
            attempt = self._connecting = Attempt(
                self.loop, self._make_connection, self._attempted, cut, self._usual_connect
            )
            try:
                attempt.begin()
            except BaseException:
                attempt.give_up()
                raise
        # The attempt outlives any single caller. ``SingleFlight`` does not fit: there a caller leads, and the flight
        # ends with that caller. Here no caller leads, and a health check or a close cancels the attempt.
        left = deadline - monotonic()
        if not await attempt.wait(left):
            raise self.too_late(left)
        error = attempt.error
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError):
            raise redis_exceptions.ConnectionError("The connection attempt was given up.")
        if not isinstance(error, FAILURES) and self._accident in (None, error):
            self._accident = error
            return
        if not isinstance(error, Exception):
            raise redis_exceptions.ConnectionError(f"{type(error).__name__} ended the attempt to connect.") from error
        raise copy_of(error) from error

    async def give_up_connecting(self) -> BaseException | None:
        """End an attempt that takes too long for a health check. Return an exception that names the cause.

        If the attempt has just ended, or waits for its next start, return the error of the last attempt.
        """
        attempt = self._connecting
        if attempt is not None:
            await self._end_attempt(attempt, 0.1)
        return self._attempt_ended

    async def _end_attempt(self, attempt: Attempt, seconds: float) -> None:
        """Cancel an attempt. Go on without it if it has not ended after this many seconds."""
        try:
            attempt.cancel()
            await attempt.wait(seconds)
        finally:
            attempt.give_up()

    async def _make_connection(self, attempt: Attempt | None = None, number: int = 0) -> None:
        """Make a connection that callers share. For ``number`` see ``Attempt``."""
        if (delay := self.attempt_delay()) > 0:
            if attempt is not None:
                attempt.not_before = monotonic() + delay
            await asyncio.sleep(delay)
        connection: Any = None
        stamp, token = self.renewal.before_connecting(), self.latest_token()
        try:
            connection, began = self.pool.make_connection(), monotonic()
            if attempt is not None and attempt.is_current(number):
                attempt.connection = connection
            await connection.connect()
            if self.closed or not (attempt is None or attempt.is_current(number)):
                raise PoolClosed()
            self._usual_connect = monotonic() - began
            shared = self._share(connection, self._usual_connect)
            self._attempt_ended = self._accident = None
            self.attempt_succeeded()
            self.renewal.connected(stamp)
            # Other connections have been closed, or were made for a stall at the same moment.
            self.lanes.forget_closed()
            if self.lanes.open:
                self._close_surplus_later()
            self.lanes.open.insert(0, shared)
            self._settle()
        except GeneratorExit:
            if connection is not None:
                cut(connection)  # the task was garbage collected, so nothing can be awaited
            raise
        except BaseException as error:
            if attempt is None or attempt.is_current(number):
                self._attempt_ended = error
                self.attempt_failed()
                note_strike(error)
            if connection is not None:
                await connection.disconnect(nowait=True)
            raise
        if self.latest_token() is not token:  # it came meanwhile
            self._log_in(self.latest_token())

    def _share(self, connection: Any, connecting: float) -> SharedConnection:
        track(connection)
        shared = share(
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

    def _stalled(self, connection: SharedConnection) -> None:
        """No reply completes on a connection. Make another one, and send reads again on it."""
        lanes = self.lanes
        if connection not in lanes.open:
            return
        if lanes.free:
            self._settle()
            lanes.lead_past(connection)
        elif not self.closed and lanes.may_widen(monotonic()):
            self._widening = self.loop.create_task(self._widen(connection.stalled))

    async def _widen(self, reason: str | None) -> None:
        lanes, connection = self.lanes, None
        own: Flight[None] = Flight()
        try:
            if not lanes.may_lead_widening(own):
                return
            connection, began = self.pool.make_connection(), monotonic()
            connection.is_spare = True  # no caller waits for this connection, so its errors do not change the health
            await connection.connect()
            connection.is_spare = False
            if self.closed or not lanes.usable or len(lanes.usable) >= lanes.most:
                raise PoolClosed()
            shared = self._share(connection, monotonic() - began)
            self._close_surplus_later()  # first: an interrupt then leaves no connection open for ever
            lanes.add(shared)
        except BaseException as error:
            lanes.widen_not_before = monotonic() + AGAIN_AFTER
            schedule_lost_callbacks(self.loop, error)
            if connection is not None:
                await connection.disconnect(nowait=True)
            if not isinstance(error, FAILURES):
                raise
            return
        finally:
            own.ended = True
        self.statistics.count_connection(reason)
        self._settle()
        for each in list(lanes.open):
            if each.stalled is not None:
                lanes.lead_past(each)

    def _recovered(self, connection: SharedConnection) -> None:
        self._settle()

    def _close_surplus_later(self) -> None:
        self._surplus_at = monotonic() + 2 * SURPLUS_IDLE
        # Two timers, in case an interrupt loses one. The earlier timers end last.
        former, delays = self._surplus_timers, (SURPLUS_IDLE, 1.5 * SURPLUS_IDLE)
        try:
            self._surplus_timers = [self.loop.call_later(delay, self._close_surplus) for delay in delays]
        except BaseException as error:
            schedule_lost_callbacks(self.loop, error)
            self.loop.call_later(SURPLUS_IDLE, self._close_surplus)
            raise
        for timer in former:
            timer.cancel()

    def _close_surplus(self) -> None:
        """Close the connections beyond the first if none is stalled and no reply is pending on them."""
        lanes, now = self.lanes, monotonic()
        if len(lanes.open) < 2 or self.closed:
            self._surplus_at = math.inf
            return
        self._close_surplus_later()  # first: after an interrupt the next check goes on with it
        if not lanes.are_stalled:
            for connection in lanes.usable[1:]:
                if not connection.in_flight and now - connection.last_received >= SURPLUS_IDLE / 2:
                    connection.close()
        lanes.forget_closed()
        self._settle()

    def _attempted(self, attempt: Attempt) -> None:
        if self._connecting is attempt:
            self._connecting = None
        self._let_next_in()

    # What the connection reports.

    def _received(self, count: int, at: float) -> None:
        if count:
            self.budget.succeeded(count)
            if self._waiting:
                self._let_next_in()
            if self._leaving:
                self._close_empty()
            if self._emptied is not None and self.in_flight == 0 and not self._emptied.done():
                self._emptied.set_result(None)
        if at >= self._surplus_at:
            self._close_surplus()
        if at >= self.renewal.look_at and self.renewal.is_due():
            self._spare = self.loop.create_task(self._renew())
        if self.monitor is not None:
            self.monitor.reply(at)

    def _lost(self, connection: SharedConnection, error: BaseException, oldest: float | None) -> None:
        if self.connection is connection:
            self.connection = None
        self.lanes.remove(connection)
        if self.lanes.open:
            self._settle()
        if connection in self._leaving:
            self._leaving.remove(connection)
        if isinstance(error, MemoryError):
            self.attempt_failed()  # the next connection would fail in the same way, so delay it
        try:
            held_back = self.lanes.is_held_back(connection, self.timeout)
            self.report_loss(error, oldest, was_passed=self.lanes.have_passed(connection), held_back=held_back)
        finally:
            if self._emptied is not None and not self._emptied.done() and not self._leaving:
                self._emptied.set_result(None)
            if self.monitor is not None and self.monitor.health.now.blocked:
                self._dismiss()
            else:
                self._let_next_in()

    def _left_untold(self) -> None:
        if untold := self.slow_commands.untold:
            self.loop.call_soon(tell_all, untold)

    def _dismiss(self) -> None:
        """Wake all waiting callers. Each finds that there is nothing to wait for."""
        self._give_turns(len(self._waiting))

    def _give_turns(self, count: int) -> None:
        try:
            self._waiting.wake_first_here(count)
        except BaseException as error:
            schedule_lost_callbacks(self.loop, error)
            raise

    def close_stale_idle(self, since: float) -> None:
        """Close a connection that is idle and has received nothing since ``since`` (monotonic seconds)."""
        for connection in list(self.lanes.open):
            if is_silent(connection, since):
                connection.close()
                self.lanes.remove(connection)
                self._settle()

    def use_token(self, token: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._log_in, token)

    def _log_in(self, token: Any) -> None:
        mark_dedicated(self.pool, token)
        for connection in [each for each in self.lanes.open if not each.closed]:
            sent = connection.send_pipeline(pack(auth_of(token), self.encoder), [False], quiet=True)
            sent.add_done_callback(partial(self._logged_in, connection))

    def _logged_in(self, connection: SharedConnection, sent: asyncio.Future[list[Any]]) -> None:
        if sent.cancelled() or sent.exception() is not None:
            return  # the connection is lost, and the next one asks for its own credentials
        (reply,) = sent.result()
        if isinstance(reply, Exception):
            if connection in self.lanes.open:
                self.replace()
            self.login_failed(reply)

    # Replacing.

    def replace(self) -> None:
        if self.lanes.open:
            leaving = [*self._leaving, *self.lanes.open]
            self._leaving, self.lanes.open, self.connection = leaving, [], None
            self._close_empty()

    async def _renew(self) -> None:
        """Make a new connection, then use it in place of the current one."""
        former, stamp = self.connection, self.renewal.before_connecting()
        if self.renewal.has_new_files() and self.monitor is not None:
            self.monitor.retire_connections()
        connection, began = self.pool.make_connection(), monotonic()
        connection.is_spare = True
        try:
            await connection.connect()
        except redis_exceptions.RedisError:
            await connection.disconnect(nowait=True)  # the current connection stays
            return
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        connection.is_spare = False
        if self.closed or former is None or self.connection is not former:
            await connection.disconnect(nowait=True)
            return
        try:
            spare = self._share(connection, monotonic() - began)
            self.renewal.connected(stamp)
            opened, leaving = [each for each in self.lanes.open if each is not former], [*self._leaving, former]
            self._leaving, self.lanes.open, self.connection = leaving, [spare, *opened], spare
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._settle()
        self._close_empty()

    def _close_empty(self) -> None:
        """Close connections after their last reply."""
        for connection in list(self._leaving):
            if not connection.in_flight:
                connection.close()
                self._leaving.remove(connection)

    # The end.

    async def drain(self, timeout: float) -> None:
        """Take no more commands, wait up to ``timeout`` seconds for pending replies, then close."""
        if not mark[0]:
            fork.renew()
        try:
            await self._drain(timeout)
        except BaseException:
            self.abandon()  # nothing else would close the rest
            raise

    async def _drain(self, timeout: float) -> None:
        self.closed = True
        leaving = [*self._leaving, *self.lanes.open]
        self._leaving, self.lanes.open, self.connection = leaving, [], None
        self._dismiss()
        if self.monitor is not None:
            self.monitor.pause.release(self)
        attempt, gone = self._connecting, [each.gone for each in leaving]
        for task in (self._spare, self._widening):
            if task is not None:
                task.cancel()
        if attempt is not None:
            await self._end_attempt(attempt, 1.0)
        if self.in_flight and timeout > 0:
            self._emptied = self._emptied or self.loop.create_future()
            await asyncio.wait([self._emptied], timeout=timeout)
        for each in list(self._leaving):
            each.close()
        self._leaving.clear()
        if gone:
            await asyncio.wait(gone, timeout=1.0)

    def detach(self) -> None:
        """Drop a connection whose event loop is not the running one, and is probably closed."""
        if not mark[0]:
            fork.renew()
        self.closed = True
        for connection in (*self.lanes.open, *self._leaving):
            connection.closed = True
            abandon([connection.connection])
        self.connection = None
        self.lanes.open.clear()
        self._leaving.clear()

    def abandon(self) -> None:
        """Close at once, without waiting."""
        if not mark[0]:
            fork.renew()
        self.closed = True
        leaving = [*self._leaving, *self.lanes.open]
        self._leaving, self.lanes.open, self.connection = [], [], None
        for connection in leaving:
            connection.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: the connection belongs to the parent, and so does the event loop's epoll.

        Waiting calls are notified, in case their loop goes on in the child.
        """
        connections = [*self._leaving, *self.lanes.open]
        _graveyard.append((connections, self._connecting, self._spare, self._widening, self._emptied))
        for connection in connections:
            connection.after_fork_in_child()
        if self.monitor is None:
            let_go_of_pool(self.pool)
        self._leaving, self.lanes, self.connection = [], Lanes(self.limits.max_connections), None
        self._connecting = self._spare = self._widening = self._emptied = None
        self.statistics = Statistics()
        for turn in list(self._waiting):
            with suppress(RuntimeError):  # its loop is closed
                turn.wake_here()


def async_multiplexer_of(pool: Any) -> AsyncMultiplexer | None:
    """Return what the running event loop shares of ``pool``; made on first use. None if nothing may be shared."""
    sharing: AsyncMultiplexer | None = getattr(pool, "_sharing", None)
    if (
        sharing is not None
        and sharing.loop is asyncio._get_running_loop()
        and not (sharing.closed and sharing.monitor is None)
    ):
        # A managed pool that was drained stays closed. A pool of redis-py may be used again.
        return sharing
    fork.use_running_loop()
    limits = limits_of(pool)
    if limits is None:
        return None
    if sharing is not None:
        sharing.detach()
    sharing = AsyncMultiplexer(pool, getattr(pool, "monitor", None), limits)
    pool._sharing = sharing
    return sharing


async def close_async_multiplexer(pool: Any) -> None:
    """Close the shared connection of ``pool``. The next command makes another one."""
    sharing: AsyncMultiplexer | None = getattr(pool, "_sharing", None)
    if sharing is not None:
        try:
            pool._sharing = None
            if sharing.loop is asyncio.get_running_loop():
                await sharing.drain(0)
            else:
                sharing.detach()
        except BaseException:
            pool._sharing = pool._sharing or sharing  # to be closed another time
            raise


_graveyard: list[Any] = []
"""What a forked child must neither use nor finalise."""
