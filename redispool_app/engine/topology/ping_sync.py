"""The health check's PING for threads."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.deadline_sync import shortened
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.multiplex.multiplexer_sync import sync_multiplexer_of
from redispool_app.engine.pool.pool_sync import SyncPool

from .ping_target import Replies, questions


def ping_sync(pool: SyncPool, timeout: float) -> float:
    """The same for threads. A connection's own timeouts are shortened to what is left of ``timeout``."""
    return _ping_through_sync(pool, monotonic() + timeout)


def _ping_through_sync(pool: SyncPool, deadline: float) -> float:
    sharing = sync_multiplexer_of(pool)
    if sharing is not None:
        return _ask_sync(pool.monitor, lambda packed, wanted: sharing.probe(packed, wanted, deadline))
    connection = pool.take_at_once()
    if connection is None:
        return _ping_on_new_sync(pool, deadline)
    try:
        was_connected = connection._sock is not None
        with shortened(connection, deadline):
            pool.ready(connection)
            return _ping_sync(connection, deadline, pool)
    except (redis_exceptions.ConnectionError, redis_exceptions.InvalidResponse) as error:
        if not was_connected or isinstance(error, redis_exceptions.AuthenticationError):
            raise
        connection.disconnect()
    finally:
        pool.release(connection)
    return _ping_on_new_sync(pool, deadline)


def _ping_on_new_sync(pool: SyncPool, deadline: float) -> float:
    connection = pool.make_connection()
    try:
        with shortened(connection, deadline):
            connection.connect()
            return _ping_sync(connection, deadline, pool)
    finally:
        connection.disconnect()


def _ping_sync(connection: Any, deadline: float, pool: SyncPool) -> float:
    def exchange(packed: bytes, wanted: int) -> Replies:
        left = deadline - monotonic()
        if left <= 0:
            raise redis_exceptions.TimeoutError("Connecting took the whole time of the health check")
        return exchange_on(connection, packed, wanted, left)

    return _ask_sync(pool.monitor, exchange)


def exchange_on(connection: Any, packed: bytes, wanted: int, timeout: float) -> Replies:
    """Send packed commands on a dedicated connection and read so many replies, each within ``timeout`` seconds."""
    connection._sock.settimeout(timeout)
    connection.send_packed_command([packed], check_health=False)
    replies: Replies = []
    for _ in range(wanted):
        try:
            replies.append(connection.read_response(disable_decoding=True))
        except redis_exceptions.ResponseError as error:
            replies.append(error)
    return replies


def _ask_sync(monitor: Monitor, exchange: Callable[[bytes, int], Replies]) -> float:
    """Blocking version of ``_ask``."""
    check = questions(monitor)
    asked = next(check)
    while True:
        replies = exchange(*asked)
        try:
            asked = check.send(replies)
        except StopIteration as end:
            return float(end.value)
