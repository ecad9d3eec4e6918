"""Reports commands of a shared connection to redis-py's own OpenTelemetry metrics (``redis.observability``).

A project that wants them sets them up before its first command, as redis-py requires.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Self, TypeVar

from redis.observability import recorder

from redispool_app.engine.runtime.hooks import tell

T = TypeVar("T")


class Telemetry:
    """Records as redis-py does for the commands that it runs itself."""

    __slots__ = ("_address", "_database", "_port")

    def __init__(self, pool: Any) -> None:
        kwargs = pool.connection_kwargs
        self._address = kwargs.get("host")
        self._port = kwargs.get("port")
        self._database = str(kwargs.get("db", 0))

    @classmethod
    def of(cls, pool: Any) -> Self | None:
        """Return the reporter for a pool; None, without any cost, while redis-py's metrics are off."""
        return cls(pool) if recorder.is_enabled() else None

    async def of_reply(self, name: Any, reply: Awaitable[T]) -> T:
        """Await a command and record its duration or its exception. ``MULTI`` and ``PIPELINE`` stand for pipelines."""
        started = monotonic()
        try:
            found = await reply
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded(name, started)
        return found

    def of_call(self, name: Any, call: Callable[[], T]) -> T:
        """The same for blocking code."""
        started = monotonic()
        try:
            found = call()
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded(name, started)
        return found

    def _succeeded(self, name: Any, started: float) -> None:
        tell(
            recorder.record_operation_duration,
            command_name=name.decode("latin-1") if isinstance(name, bytes) else str(name),
            duration_seconds=monotonic() - started,
            server_address=self._address,
            server_port=self._port,
            db_namespace=self._database,
        )

    def _failed(self, error: Exception) -> None:
        tell(
            recorder.record_error_count,
            server_address=self._address,
            server_port=self._port,
            network_peer_address=self._address,
            network_peer_port=self._port,
            error_type=error,
            retry_attempts=0,
            is_internal=False,
        )
