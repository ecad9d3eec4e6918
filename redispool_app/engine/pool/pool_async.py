"""The connections of one event loop: a shared one, and a pool of dedicated ones that serve one caller at a time."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import redis.asyncio
from redis import exceptions as redis_exceptions
from redis.event import AsyncAfterConnectionReleasedEvent

from redispool_app.engine.connection.connection_async import abandon, cut
from redispool_app.engine.connection.lifecycle import borrowed, given_back, has_listeners, is_expired
from redispool_app.engine.multiplex.multiplexer_async import AsyncMultiplexer
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.socket_look import has_ended
from redispool_app.engine.runtime.stack_room import ensure_room
from redispool_app.engine.runtime.wait_queue import LOOK_AGAIN, LoopWaiter
from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout

from .base import FairPool
from .state import Lease


class AsyncPool(FairPool, redis.asyncio.ConnectionPool):
    """redis-py's pool interface over a fair queue without a condition variable.

    ``timeout`` is how long a caller waits for a connection, in seconds. Raises ``RedisUnavailable`` and ``PoolClosed``
    without any I/O, ``PoolQueueFull`` at once, ``PoolTimeout`` after ``timeout``.
    """

    _sharing: AsyncMultiplexer | None = None
    _shrinking: asyncio.TimerHandle | None = None

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Borrow a connected connection. Return it with ``release``.

        Raises ``RuntimeError`` on an event loop that existed before the process was forked.
        """
        fork.use_running_loop()
        asked_at = monotonic()
        pause = self.monitor.pause
        while True:
            self.monitor.ensure_available()
            if pause.is_on:
                await pause.wait(self, self._gate)
                continue
            ensure_room()
            lease, connection = Lease(self.state), None
            try:
                connection = self.state.take(lease) or await self._wait(lease)
                if not pause.is_on:
                    if self.state.closed:
                        raise PoolClosed()
                    await self.ready(connection)
                    borrowed(connection, asked_at)
                    return connection
            except BaseException as error:
                # It may have been interrupted between a command of the handshake and its reply.
                if connection is not None:
                    cut(connection)
                self._put_back(lease, connection)
                if isinstance(error, PoolQueueFull | PoolTimeout):
                    self.monitor.exhausted(error)
                raise
            self._put_back(lease, connection)  # the next waiting caller takes the same path

    async def release(self, connection: Any) -> None:
        """Return a connection to the pool. A second call, or a call after ``reset``, has no effect on the pool."""
        if not mark[0]:
            fork.renew()
        lease = self.state.lease_of(connection)
        if lease is None:
            await connection.disconnect(nowait=True)
            return
        try:
            if lease.slots:
                given_back(connection)
                if connection.should_reconnect() or is_expired(connection, self._max_lifetime):
                    await connection.disconnect(nowait=True)
                if has_listeners(self._dispatcher, AsyncAfterConnectionReleasedEvent, connection):
                    event = AsyncAfterConnectionReleasedEvent(connection)  # type: ignore[no-untyped-call]
                    await self._dispatcher.dispatch_async(event)
        finally:
            if self._put_back(lease, connection):
                await connection.disconnect(nowait=True)

    def _put_back(self, lease: Lease[Any], connection: Any) -> bool:
        """Take the slot back. Return whether the connection must be disconnected."""
        try:
            unwanted = self.state.put_back(lease, connection, here=True)
        except BaseException:
            self.state.put_back(lease, connection)  # interrupted; repeating it is harmless
            raise
        if (
            self._shrinking is None
            and self._max_idle_time is not None
            and self.state.has_idle
            and not self.state.closed
        ):
            self._shrinking = asyncio.get_running_loop().call_later(self._max_idle_time, self._shrink)
        return unwanted

    def take_at_once(self) -> Any:
        """Borrow a connection that may not be connected yet; None if all are in use. Raises ``PoolClosed``."""
        return self.state.take_at_once(Lease(self.state))

    async def ready(self, connection: Any) -> None:
        """Connect if needed. Replace a connection that is closed, expired, or has unread data."""
        if connection.is_connected and not is_expired(connection, self._max_lifetime):
            try:
                if not await connection.can_read() and not has_ended(connection):
                    return
            except (redis_exceptions.RedisError, OSError):
                pass
        if connection.is_connected:
            await connection.disconnect(nowait=True)
        await connection.connect()

    async def drain(self, timeout: float) -> None:
        """Refuse new work, wait up to ``timeout`` seconds for connections in use, then cut them."""
        if not mark[0]:
            fork.renew()
        if self._shrinking is not None:
            self._shrinking.cancel()
        state, deadline = self.state, monotonic() + timeout
        idle = state.close()
        self.monitor.pause.release(self)
        waiter = LoopWaiter()
        try:
            state.drainers.append(waiter)
            for connection in [*idle, *state.reclaim()]:
                await connection.disconnect(nowait=True)
            if self._sharing is not None:
                await self._sharing.drain(timeout)
            while state.in_use and (left := deadline - monotonic()) > 0:
                await waiter.wait(min(left, LOOK_AGAIN))
        finally:
            state.drainers.remove(waiter)
            # Also if the caller is cancelled: nothing else would cut them. Connections returned just now are idle.
            for connection in [*state.close(), *state.in_use]:
                await connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """Close every socket without the event loop, which is closed."""
        if not mark[0]:
            fork.renew()
        if self._sharing is not None:
            self._sharing.detach()
        connections = [*self.state.close(), *self.state.in_use]
        self.state.forget()
        abandon(connections)

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._shrinking = None

    def reset(self) -> None:
        """Forget all connections without closing them (redis-py's interface)."""
        self.state.forget()

    async def re_auth_callback(self, token: Any) -> None:
        """redis-py's callback for a new token: each connection is replaced when it is free."""
        self.monitor.retire_connections()

    async def _wait(self, lease: Lease[Any]) -> Any:
        state, started = self.state, monotonic()
        waiter = LoopWaiter()
        try:
            state.waiters.append(waiter)
            state.check_room(waiter)
            while True:
                if state.waiters[0] is waiter or state.waiters[0].is_lost:  # one waiting caller is enough
                    for lost in state.reclaim():
                        cut(lost)
                state.admit(here=True)  # a slot may have come before this caller was in the queue
                left = started + self.timeout - monotonic()
                woken = await waiter.wait(min(left, LOOK_AGAIN))
                if state.closed:
                    raise PoolClosed("The connection pool was closed while this caller waited.")
                if (woken or left <= 0) and (connection := state.take_at_once(lease)) is not None:
                    return connection
                if left <= 0:
                    raise self._too_late(monotonic() - started)
        finally:
            state.leave(waiter, here=True)

    def _shrink(self) -> None:
        """Close connections that were idle too long. Schedule the next call while any are left."""
        if not mark[0]:
            fork.renew()
        self._shrinking = None
        longest = self._max_idle_time
        if longest is None:
            return
        for connection in [*self.state.take_out_expired(longest), *self.state.reclaim()]:
            cut(connection)
        if (seconds := self.state.next_expiry(longest)) is not None:
            self._shrinking = asyncio.get_running_loop().call_later(seconds, self._shrink)
