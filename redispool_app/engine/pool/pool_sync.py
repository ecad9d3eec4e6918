"""The blocking connections of a process: a shared one, and a pool of dedicated ones that serve one caller at a time."""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any

import redis
from redis import exceptions as redis_exceptions
from redis.event import AfterConnectionReleasedEvent

from redispool_app.engine.connection.connection_sync import ObservedSync
from redispool_app.engine.connection.lifecycle import borrowed, given_back, has_listeners, is_expired
from redispool_app.engine.multiplex.connection_sync import SharedSocket
from redispool_app.engine.multiplex.multiplexer_sync import SyncMultiplexer, sync_multiplexer_of
from redispool_app.engine.runtime import fork, idle_timer
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.nesting import serve_calls, waits_for_itself
from redispool_app.engine.runtime.socket_look import has_unread
from redispool_app.engine.runtime.stack_room import ensure_room
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, ThreadWaiter
from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout

from .base import FairPool
from .state import Lease


class SyncPool(FairPool, redis.ConnectionPool):
    """redis-py's pool interface over the same fair queue as ``AsyncPool``, for threads.

    ``timeout`` is how long a caller waits for a connection, in seconds. Raises ``RedisUnavailable`` and ``PoolClosed``
    without any I/O, ``PoolQueueFull`` at once, ``PoolTimeout`` after ``timeout``.

    A call can be nested in another call on the same thread, by a signal handler, a finalizer or a hook. It does not
    wait for a connection. It gets one from the reserve, beyond ``max_connections``. ``NestedCalls`` explains why that
    has other connections.
    """

    _sharing: SyncMultiplexer | None = None

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Borrow a connected connection. Return it with ``release``."""
        if not mark[0]:
            fork.renew()
        asked_at = monotonic()
        pause = self.monitor.pause
        while True:
            self.monitor.ensure_available()
            if pause.is_on:
                pause.wait_in_thread(self, self._gate)
                continue
            ensure_room()
            lease, connection = Lease(self.state), None
            try:
                connection = self.state.take(lease)
                if connection is None:
                    nested = waits_for_itself()
                    connection = self.state.take_reserve(lease) if nested else self._wait(lease)
                if not pause.is_on:
                    if self.state.closed:
                        raise PoolClosed()
                    self.ready(connection)
                    borrowed(connection, asked_at)
                    return connection
            except BaseException as error:
                # It may have been interrupted between a command of the handshake and its reply.
                with suppress(Exception):
                    if connection is not None:
                        connection.disconnect()
                self.state.put_back(lease, connection)
                if isinstance(error, PoolQueueFull | PoolTimeout):
                    self.monitor.exhausted(error)
                raise
            self._put_back(lease, connection)  # the next waiting caller takes the same path

    def release(self, connection: Any) -> None:
        """Return a connection to the pool. A second call, or a call after ``reset``, has no effect on the pool."""
        if not mark[0]:
            fork.renew()
        lease = self.state.lease_of(connection)
        if lease is None:
            connection.disconnect()
            return
        try:
            if lease.slots:
                given_back(connection)
                if connection.should_reconnect() or is_expired(connection, self._max_lifetime):
                    connection.disconnect()
                if has_listeners(self._dispatcher, AfterConnectionReleasedEvent, connection):
                    self._dispatcher.dispatch(AfterConnectionReleasedEvent(connection))  # type: ignore[no-untyped-call]
        finally:
            self._put_back(lease, connection)

    def _put_back(self, lease: Lease[Any], connection: Any) -> None:
        try:
            if self.state.put_back(lease, connection):
                connection.disconnect()
        except BaseException:
            self.state.put_back(lease, connection)  # interrupted; repeating it is harmless
            raise
        if self._max_idle_time is not None and not self.state.closed:
            idle_timer.watch(self)

    def take_at_once(self) -> Any:
        """Borrow a connection that may not be connected yet; None if all are in use. Raises ``PoolClosed``."""
        if not mark[0]:
            fork.renew()
        return self.state.take_at_once(Lease(self.state))

    def make_connection(self) -> Any:
        """Create a connection object. It connects on first use."""
        return self.connection_class(**self.connection_kwargs)

    def ready(self, connection: Any) -> None:
        """Connect if needed. Replace a connection that is closed, expired, or has unread data."""
        if connection._sock is not None and not is_expired(connection, self._max_lifetime):
            try:
                if not has_unread(connection):
                    return
            except (redis_exceptions.RedisError, OSError):
                pass
        if connection._sock is not None:
            connection.disconnect()
        connection.connect()

    @property
    def is_busy(self) -> bool:
        """Whether any caller waits for a reply or holds a connection."""
        return bool(self.state.in_use) or (self._sharing is not None and self._sharing.in_flight > 0)

    def drain(self, timeout: float) -> None:
        """Refuse new work, wait up to ``timeout`` seconds for connections in use, then cut them.

        A signal handler does not wait for the call that it has interrupted.
        """
        if not mark[0]:
            fork.renew()
        state, deadline = self.state, monotonic() + timeout
        idle = state.close()
        self.monitor.pause.release(self)
        for connection in idle:
            connection.disconnect()
        # Created here if it does not exist, so that a later caller finds it closed.
        if (sharing := sync_multiplexer_of(self)) is not None:
            sharing.drain(timeout)
        own = get_ident() if waits_for_itself(is_call=False) else None
        waiter = ThreadWaiter()
        try:
            for connection in state.reclaim():
                connection.disconnect()
            state.drainers.append(waiter)
            while state.lent_except_to(own) and (left := deadline - monotonic()) > 0:
                waiter.wait(min(left, LOOK_AGAIN))
        finally:
            state.drainers.remove(waiter)
        # Connections returned at the moment of closing are idle.
        for connection in [*state.close(), *state.in_use]:
            connection.disconnect()
        idle_timer.forget(self)

    def reset(self) -> None:
        """Forget all connections without closing them (redis-py's interface)."""
        super().reset()
        self.state.forget()

    def re_auth_callback(self, token: Any) -> None:
        """redis-py's callback for a new token: each connection is replaced when it is free."""
        self.monitor.retire_connections()

    def _checkpid(self) -> None:
        """Does nothing: see ``after_fork_in_child``."""

    def close_idle(self) -> float | None:
        """Close connections idle for longer than ``max_idle_time``, and connections that their borrower has lost.

        Return the seconds until the next one is due; None if no connection is idle.
        """
        if self._max_idle_time is None:
            return None
        for connection in [*self.state.take_out_expired(self._max_idle_time), *self.state.reclaim()]:
            connection.disconnect()
        return self.state.next_expiry(self._max_idle_time)

    def _wait(self, lease: Lease[Any]) -> Any:
        state, waiter = self.state, ThreadWaiter()
        deadline = monotonic() + self.timeout
        try:
            state.waiters.append(waiter)
            state.check_room(waiter)
            while True:
                if state.waiters[0] is waiter:  # one waiting caller is enough
                    for connection in state.reclaim():
                        connection.disconnect()
                state.admit()  # a slot may have come before this caller was in the queue
                left = deadline - monotonic()
                woken = waiter.wait(min(left, LOOK_AGAIN))
                if state.closed:
                    raise PoolClosed("The connection pool was closed while this caller waited.")
                if (woken or left <= 0) and (connection := state.take_at_once(lease)) is not None:
                    return connection
                if left <= 0:
                    raise self._too_late(self.timeout)
        finally:
            state.leave(waiter)


# Below a call that is not nested, none of these is on the stack.
serve_calls(SyncPool, ObservedSync, SharedSocket, SyncMultiplexer)
