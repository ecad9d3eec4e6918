"""The pool of connections of one event loop."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import redis.asyncio
from redis import exceptions as redis_exceptions
from redis.event import AsyncAfterConnectionReleasedEvent

from redispool_app.exceptions import PoolTimeout

from .connections import abandon
from .monitor import Monitor
from .pool_state import PoolState


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
        self, *, monitor: Monitor, max_connections: int, max_waiting: int, timeout: float, **kwargs: Any
    ) -> None:
        super().__init__(max_connections=max_connections, monitor=monitor, **kwargs)
        self.monitor = monitor
        self.timeout = timeout
        self.state: PoolState[Any] = PoolState(self.make_connection, max_connections, max_waiting)
        # The inherited methods walk these two names.
        self._available_connections = self.state.idle
        self._in_use_connections = self.state.in_use
        self._emptied: asyncio.Future[None] | None = None
        # redis-py renews credentials on this event.
        self._dispatcher: Any = self._event_dispatcher

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Borrow a connected connection; give it back with ``release``."""
        self.monitor.gate()
        connection = self.state.take()
        if connection is None:
            connection = await self._wait()
        try:
            await self.ready(connection)
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Give a connection back."""
        try:
            if connection.should_reconnect():
                await connection.disconnect()
            event = AsyncAfterConnectionReleasedEvent(connection)  # type: ignore[no-untyped-call]
            await self._dispatcher.dispatch_async(event)
        finally:
            if not self._give_back(connection):
                await connection.disconnect(nowait=True)

    async def ready(self, connection: Any) -> None:
        """Connect if need be; a connection that the server closed, or that holds unread data, is replaced."""
        if connection.is_connected:
            try:
                if not await connection.can_read():
                    return
            except (redis_exceptions.RedisError, OSError):
                pass
            await connection.disconnect(nowait=True)
        await connection.connect()

    async def drain(self, timeout: float) -> None:
        """Refuse new work, wait up to ``timeout`` seconds for what is in use, then cut it."""
        idle = self.state.close()
        for connection in idle:
            await connection.disconnect(nowait=True)
        if self.state.in_use and timeout > 0:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=timeout)
        for connection in list(self.state.in_use):
            await connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """Close every socket without the event loop, which is closed."""
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
        return kept
