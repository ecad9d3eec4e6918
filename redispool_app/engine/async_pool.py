"""The connections of one event loop: one that is shared, and a pool of those that serve one caller at a time."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import redis.asyncio
from redis import exceptions as redis_exceptions
from redis.event import AsyncAfterConnectionReleasedEvent

from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout

from .connections import abandon, borrowed, forget_stream, given_back, is_worn_out
from .monitor import Monitor
from .pool_state import PoolState
from .sharing import Sharing
from .sharing_rules import SharingLimits


class _LoopWaiter:
    """A future that can be given a connection, or has been cancelled and refuses it."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def give(self, connection: Any) -> bool:
        if self.future.done():
            return False
        self.future.set_result(connection)
        return True

    def refuse(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AsyncPool(redis.asyncio.ConnectionPool):
    """redis-py's pool interface over a fair queue without a condition variable.

    ``timeout`` is how long a caller waits for a connection, in seconds. Raises
    ``RedisUnavailable`` and ``PoolClosed`` without any I/O, ``PoolQueueFull`` at once,
    ``PoolTimeout`` after ``timeout``.
    """

    def __init__(
        self,
        *,
        monitor: Monitor,
        max_connections: int,
        max_waiting: int,
        timeout: float,
        sharing_limits: SharingLimits | None = None,
        max_idle_time: float | None = None,
        max_lifetime: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_connections=max_connections, monitor=monitor, **kwargs)
        self.monitor = monitor
        self.timeout = timeout
        self.sharing_limits = sharing_limits
        self._sharing: Sharing | None = None
        # The shared connection counts towards the limit.
        exclusive = max_connections - 1 if sharing_limits is not None and max_connections > 1 else max_connections
        self.state: PoolState[Any] = PoolState(self.make_connection, exclusive, max_waiting)
        # The inherited methods walk these two names.
        self._available_connections = self.state.idle
        self._in_use_connections = self.state.in_use
        self._emptied: asyncio.Future[None] | None = None
        self._max_idle_time = max_idle_time
        self._max_lifetime = max_lifetime
        self._shrinking: asyncio.TimerHandle | None = None
        # redis-py renews credentials on this event.
        self._dispatcher: Any = self._event_dispatcher

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Borrow a connected connection; give it back with ``release``."""
        asked_at = monotonic()
        connection = await self._borrowed()
        try:
            await self.ready(connection)
            borrowed(connection, asked_at)
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    async def _borrowed(self) -> Any:
        pause = self.monitor.pause
        while True:
            self.monitor.gate()
            if pause.is_on:
                await pause.wait(self, self._gate)
                continue
            try:
                connection = self.state.take() or await self._wait()
            except (PoolQueueFull, PoolTimeout) as error:
                self.monitor.exhausted(error)
                raise
            if not pause.is_on:
                return connection
            self._give_back(connection)  # the next who waits for one goes the same way

    def _gate(self) -> None:
        self.monitor.gate()
        if self.state.closed:
            raise PoolClosed()

    async def release(self, connection: Any) -> None:
        """Give a connection back."""
        try:
            given_back(connection)
            if connection.should_reconnect() or is_worn_out(connection, self._max_lifetime):
                await connection.disconnect(nowait=True)
            event = AsyncAfterConnectionReleasedEvent(connection)  # type: ignore[no-untyped-call]
            await self._dispatcher.dispatch_async(event)
        finally:
            if not self._give_back(connection):
                await connection.disconnect(nowait=True)

    async def ready(self, connection: Any) -> None:
        """Connect if need be; what the server closed, holds unread data or is worn out is replaced."""
        if connection.is_connected and not is_worn_out(connection, self._max_lifetime):
            try:
                if not await connection.can_read():
                    return
            except (redis_exceptions.RedisError, OSError):
                pass
        if connection.is_connected:
            await connection.disconnect(nowait=True)
        await connection.connect()

    async def drain(self, timeout: float) -> None:
        """Refuse new work, wait up to ``timeout`` seconds for what is in use, then cut it."""
        if self._shrinking is not None:
            self._shrinking.cancel()
        deadline = monotonic() + timeout
        idle = self.state.close()
        self.monitor.pause.release(self)
        try:
            for connection in idle:
                await connection.disconnect(nowait=True)
            if self._sharing is not None:
                await self._sharing.drain(timeout)
            if self.state.in_use and (left := deadline - monotonic()) > 0:
                self._emptied = self._emptied or asyncio.get_running_loop().create_future()
                await asyncio.wait([self._emptied], timeout=left)
        finally:
            # Also when the caller is cancelled: nobody else would cut them.
            for connection in list(self.state.in_use):
                await connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """Close every socket without the event loop, which is closed."""
        if self._sharing is not None:
            self._sharing.leave_loop()
        connections = [*self.state.close(), *self.state.in_use]
        self.state.in_use.clear()
        abandon(connections)

    def reset(self) -> None:
        """Forget all connections without closing them (redis-py's interface)."""
        self.state.idle.clear()
        self.state.in_use.clear()

    async def _wait(self) -> Any:
        started = monotonic()
        waiter = _LoopWaiter()
        self.state.waiters.append(waiter)
        try:
            # asyncio.wait never cancels the future, so a connection given at the last moment is seen.
            await asyncio.wait([waiter.future], timeout=self.timeout)
            if waiter.future.done():
                return waiter.future.result()
        except BaseException:
            self._leave(waiter)
            raise
        self._leave(waiter)
        raise PoolTimeout(
            f"No Redis connection became free within {monotonic() - started:.1f} s "
            f"({self.state.max_connections} in use): raise MAX_CONNECTIONS or hold connections for less long."
        )

    def _leave(self, waiter: _LoopWaiter) -> None:
        future = waiter.future
        if not future.done():
            future.cancel()
            self.state.leave(waiter)
        elif not future.cancelled() and future.exception() is None:
            self._give_back(future.result())

    def _give_back(self, connection: Any) -> bool:
        kept = self.state.give_back(connection)
        if self.state.closed and not self.state.in_use and self._emptied and not self._emptied.done():
            self._emptied.set_result(None)
        if kept and self._shrinking is None and self._max_idle_time is not None and self.state.idle:
            self._shrinking = asyncio.get_running_loop().call_later(self._max_idle_time, self._shrink)
        return kept

    def _shrink(self) -> None:
        """Close what has lain idle too long, and look again while something is left."""
        self._shrinking = None
        longest = self._max_idle_time
        if longest is None:
            return
        for connection in self.state.shrink(longest):
            # Without a task around it, redis-py closes at once instead of waiting.
            connection._close()
            forget_stream(connection)
        if self.state.idle:
            self._shrinking = asyncio.get_running_loop().call_later(longest, self._shrink)
