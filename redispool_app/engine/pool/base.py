"""Common parts of the asyncio and the blocking pool: their settings, and redis-py's view of the connections."""

from __future__ import annotations

from typing import Any

from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.multiplex.base import MultiplexerLimits
from redispool_app.engine.runtime import fork
from redispool_app.exceptions import PoolClosed, PoolTimeout

from .state import PoolState


class FairPool:
    """Mixin for redis-py's pools. Put it before them."""

    make_connection: Any
    _event_dispatcher: Any

    def __init__(
        self,
        *,
        monitor: Monitor,
        max_connections: int,
        max_waiting: int,
        timeout: float,
        sharing_limits: MultiplexerLimits | None = None,
        max_idle_time: float | None = None,
        max_lifetime: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.monitor = monitor
        self.timeout = timeout
        self.sharing_limits = sharing_limits
        # The shared connection counts towards the limit.
        exclusive = max_connections - 1 if sharing_limits is not None and max_connections > 1 else max_connections
        self.state: PoolState[Any] = PoolState(self.make_connection, exclusive, max_waiting)
        super().__init__(max_connections=max_connections, monitor=monitor, **kwargs)  # type: ignore[call-arg]
        self._max_idle_time = max_idle_time
        self._max_lifetime = max_lifetime
        # redis-py renews credentials on this event.
        self._dispatcher: Any = self._event_dispatcher
        fork.register(self.after_fork_in_child)

    def after_fork_in_child(self) -> None:
        """In a forked child: no caller here holds or awaits a connection, and the connections are the parent's."""
        self.state.after_fork_in_child()

    def _gate(self) -> None:
        self.monitor.ensure_available()
        if self.state.closed:
            raise PoolClosed()

    def _too_late(self, waited: float) -> PoolTimeout:
        return PoolTimeout(
            f"No Redis connection became free within {waited:.1f} s "
            f"({self.state.max_connections} in use): raise MAX_CONNECTIONS or return connections sooner."
        )

    # redis-py's methods read these two lists; its ``reset`` or ``__init__`` sets them.

    @property
    def _available_connections(self) -> list[Any]:
        return self.state.idle

    @_available_connections.setter
    def _available_connections(self, value: Any) -> None:
        pass

    @property
    def _in_use_connections(self) -> set[Any]:
        return set(self.state.in_use)

    @_in_use_connections.setter
    def _in_use_connections(self, value: Any) -> None:
        pass
