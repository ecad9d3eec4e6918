"""The blocking connections of a process: one that all threads share, and a pool of those that serve one at a time."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import redis
from redis import exceptions as redis_exceptions
from redis.event import AfterConnectionReleasedEvent

from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout

from .connections import borrowed, given_back, is_worn_out
from .monitor import Monitor
from .pool_state import PoolState
from .sharing_rules import SharingLimits
from .thread_sharing import ThreadSharing, thread_sharing_of


class _ThreadWaiter:
    """An event that comes with a connection or an error; all but the wait happens under the pool's lock."""

    __slots__ = ("connection", "error", "event", "left")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.connection: Any = None
        self.error: Exception | None = None
        self.left = False

    def give(self, connection: Any) -> bool:
        if self.left:
            return False
        self.connection = connection
        self.event.set()
        return True

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.event.set()


class SyncPool(redis.ConnectionPool):
    """redis-py's pool interface over the same fair queue as ``AsyncPool``, for threads.

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
        # A plain lock: an interrupt in the Python code around a condition's own would leave that held for ever.
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        # The shared connection counts towards the limit.
        exclusive = max_connections - 1 if sharing_limits is not None and max_connections > 1 else max_connections
        self.state: PoolState[Any] = PoolState(self.make_connection, exclusive, max_waiting)
        self.sharing_limits = sharing_limits
        self._sharing: ThreadSharing | None = None
        super().__init__(max_connections=max_connections, monitor=monitor, **kwargs)
        self.monitor = monitor
        self.timeout = timeout
        self._max_idle_time = max_idle_time
        self._max_lifetime = max_lifetime
        self._look_at = 0.0
        # redis-py renews credentials on this event.
        self._dispatcher: Any = self._event_dispatcher

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Borrow a connected connection; give it back with ``release``."""
        asked_at = monotonic()
        pause = self.monitor.pause
        while True:
            self.monitor.gate()
            if pause.is_on:
                pause.wait_in_thread(self, self._gate)
                continue
            waiter = connection = None
            try:
                with self._guard:
                    connection = self.state.take()
                    if connection is None:
                        waiter = _ThreadWaiter()
                        self.state.waiters.append(waiter)
                if waiter is not None:
                    connection = self._wait(waiter)
                if not pause.is_on:
                    self.ready(connection)
                    borrowed(connection, asked_at)
                    return connection
            except BaseException as error:
                if connection is not None:
                    self._give_back(connection)
                elif isinstance(error, PoolQueueFull | PoolTimeout):
                    self.monitor.exhausted(error)
                raise
            self._give_back(connection)  # the next who waits for one goes the same way

    def _gate(self) -> None:
        self.monitor.gate()
        if self.state.closed:
            raise PoolClosed()

    def release(self, connection: Any) -> None:
        """Give a connection back."""
        try:
            given_back(connection)
            if connection.should_reconnect() or is_worn_out(connection, self._max_lifetime):
                connection.disconnect()
            self._dispatcher.dispatch(AfterConnectionReleasedEvent(connection))  # type: ignore[no-untyped-call]
        finally:
            if not self._give_back(connection):
                connection.disconnect()
            self.shrink()

    def take_at_once(self) -> Any:
        """Borrow a connection, perhaps not connected yet; None when all are in use."""
        with self._guard:
            return self.state.take_at_once()

    def make_connection(self) -> Any:
        """Create a connection object; it connects on first use."""
        return self.connection_class(**self.connection_kwargs)

    def ready(self, connection: Any) -> None:
        """Connect if need be; what the server closed, holds unread data or is worn out is replaced."""
        if connection._sock is not None and not is_worn_out(connection, self._max_lifetime):
            try:
                if not connection.can_read(timeout=0):
                    return
            except (redis_exceptions.RedisError, OSError):
                pass
        if connection._sock is not None:
            connection.disconnect()
        connection.connect()

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for a reply or holds a connection."""
        return bool(self.state.in_use) or (self._sharing is not None and self._sharing.in_flight > 0)

    def drain(self, timeout: float) -> None:
        """Refuse new work, wait up to ``timeout`` seconds for what is in use, then cut it."""
        deadline = monotonic() + timeout
        with self._guard:
            idle = self.state.close()
        self.monitor.pause.release(self)
        for connection in idle:
            connection.disconnect()
        # Made here if nobody has, so that who comes late finds it closed.
        if (sharing := thread_sharing_of(self)) is not None:
            sharing.drain(timeout)
        with self._guard:
            while self.state.in_use and (left := deadline - monotonic()) > 0:
                self._changed.wait(left)
            in_use = list(self.state.in_use)
        for connection in in_use:
            connection.disconnect()

    def reset(self) -> None:
        """Forget all connections without closing them (redis-py's interface)."""
        super().reset()
        self.state.idle.clear()
        self.state.in_use.clear()
        # The inherited methods walk these two names.
        self._available_connections = self.state.idle
        self._in_use_connections = self.state.in_use

    def _checkpid(self) -> None:
        """Nothing to do: a forked child drops the whole pool (see ``PoolSet.after_fork_in_child``)."""

    def shrink(self) -> None:
        """Close what has lain idle too long. Whoever gives a connection back, or uses the shared one, looks."""
        if self._max_idle_time is None or not self.state.idle or monotonic() < self._look_at:
            return
        with self._guard:
            self._look_at = monotonic() + self._max_idle_time / 4
            old = self.state.shrink(self._max_idle_time)
        for connection in old:
            connection.disconnect()

    def _wait(self, waiter: _ThreadWaiter) -> Any:
        try:
            waiter.event.wait(self.timeout)
        except BaseException:
            if (connection := self._leave(waiter)) is not None:
                self._give_back(connection)
            raise
        connection = self._leave(waiter)
        if connection is not None:
            return connection
        if waiter.error is not None:
            raise waiter.error
        raise PoolTimeout(
            f"No Redis connection became free within {self.timeout:.1f} s "
            f"({self.state.max_connections} in use): raise MAX_CONNECTIONS or hold connections for less long."
        )

    def _leave(self, waiter: _ThreadWaiter) -> Any:
        """End the wait; return the connection if one was given after all."""
        with self._guard:
            waiter.left = True
            self.state.leave(waiter)
            return waiter.connection

    def _give_back(self, connection: Any) -> bool:
        with self._guard:
            kept = self.state.give_back(connection)
            self._changed.notify_all()
            return kept
