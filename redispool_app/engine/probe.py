"""One real PING, through the pool that callers use where it can be had, within one deadline.

A check of a server that is not known to be healthy also asks what kind of server it is, in the same round trip.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any

import redis
import redis.asyncio
from redis import exceptions as redis_exceptions

from . import names
from .async_pool import AsyncPool
from .deadlines import shortened
from .faults import FaultKind, in_cluster_mode
from .monitor import Monitor
from .server_mode import CLUSTER_NODES, HELLO, PING, check_ping, check_slots, is_in_cluster_mode, is_primary
from .sharing import sharing_of
from .sync_pool import SyncPool
from .thread_sharing import thread_sharing_of

_Replies = list[Any]


async def ping(pool: AsyncPool, timeout: float) -> float:
    """PING on a connection of ``pool``, or beside it when it is exhausted; return the round trip in seconds.

    Raises redis-py's errors, ``TimeoutError`` after ``timeout`` seconds included.
    """
    aside = _time_for_strangers(pool, timeout)
    try:
        async with asyncio.timeout(timeout - aside):
            return await _ping_through(pool)
    except TimeoutError as error:
        if aside and await asyncio.to_thread(_speaks_http, pool, aside):
            raise redis_exceptions.InvalidResponse("HTTP is spoken there") from error
        sharing = sharing_of(pool)
        cause = await sharing.give_up_connecting() if sharing is not None else None
        raise redis_exceptions.TimeoutError(f"PING was not answered within {timeout} s") from cause or error


async def _ping_through(pool: AsyncPool) -> float:
    sharing = sharing_of(pool)
    if sharing is not None:
        return await _ask(pool.monitor, sharing.probe)
    connection = pool.take_at_once()
    if connection is None:
        # All are in use, perhaps by commands that block: that says nothing about the server.
        return await _ping_on_new(pool)
    try:
        was_connected = connection.is_connected
        await pool.ready(connection)
        return await _ping(connection, pool)
    except (redis_exceptions.ConnectionError, redis_exceptions.InvalidResponse) as error:
        # An idle connection may have died unnoticed: only a new one tells about the server.
        if not was_connected or isinstance(error, redis_exceptions.AuthenticationError):
            raise
        await connection.disconnect(nowait=True)
    finally:
        await pool.release(connection)
    return await _ping_on_new(pool)


async def _ping_on_new(pool: AsyncPool) -> float:
    connection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()
        return await _ping(connection, pool)
    finally:
        await connection.disconnect(nowait=True)


async def _ping(connection: Any, pool: AsyncPool) -> float:
    async def exchange(packed: bytes, wanted: int) -> _Replies:
        await connection.send_packed_command([packed], check_health=False)
        replies: _Replies = []
        for _ in range(wanted):
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except redis_exceptions.ResponseError as error:
                replies.append(error)
        return replies

    return await _ask(pool.monitor, exchange)


async def _ask(monitor: Monitor, exchange: Callable[[bytes, int], Awaitable[_Replies]]) -> float:
    """Carry out a check by ``exchange``, which returns errors as values; return the first round trip in seconds."""
    asks_mode = not monitor.health.is_healthy or monitor.shows(FaultKind.READONLY)
    started = perf_counter()
    replies = await (exchange(PING + HELLO, 2) if asks_mode else exchange(PING, 1))
    latency = perf_counter() - started
    check_ping(replies[0])
    if asks_mode:
        is_clustered = is_in_cluster_mode(replies[1])
        if is_clustered:
            (nodes,) = await exchange(CLUSTER_NODES, 1)
            check_slots(nodes, was_moved=monitor.was_moved)
        _warn(monitor, replies[1], is_clustered)
    return latency


def _warn(monitor: Monitor, hello: Any, is_clustered: bool) -> None:
    if is_primary(hello):
        monitor.warn(FaultKind.READONLY, None)
    monitor.warn(FaultKind.CLUSTER, in_cluster_mode(monitor.where) if is_clustered else None)


def ping_sync(pool: SyncPool, timeout: float) -> float:
    """The same for threads; a connection's own timeouts are shortened to what is left of ``timeout``."""
    aside = _time_for_strangers(pool, timeout)
    try:
        return _ping_through_sync(pool, monotonic() + timeout - aside)
    except redis_exceptions.TimeoutError as error:
        if aside and _speaks_http(pool, aside):
            raise redis_exceptions.InvalidResponse("HTTP is spoken there") from error
        raise


def _ping_through_sync(pool: SyncPool, deadline: float) -> float:
    sharing = thread_sharing_of(pool)
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
    def exchange(packed: bytes, wanted: int) -> _Replies:
        left = deadline - monotonic()
        if left <= 0:
            raise redis_exceptions.TimeoutError("The health check's time was used up by connecting")
        connection._sock.settimeout(left)
        connection.send_packed_command([packed], check_health=False)
        replies: _Replies = []
        for _ in range(wanted):
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except redis_exceptions.ResponseError as error:
                replies.append(error)
        return replies

    return _ask_sync(pool.monitor, exchange)


def _ask_sync(monitor: Monitor, exchange: Callable[[bytes, int], _Replies]) -> float:
    """The twin of ``_ask``."""
    asks_mode = not monitor.health.is_healthy or monitor.shows(FaultKind.READONLY)
    started = perf_counter()
    replies = exchange(PING + HELLO, 2) if asks_mode else exchange(PING, 1)
    latency = perf_counter() - started
    check_ping(replies[0])
    if asks_mode:
        is_clustered = is_in_cluster_mode(replies[1])
        if is_clustered:
            (nodes,) = exchange(CLUSTER_NODES, 1)
            check_slots(nodes, was_moved=monitor.was_moved)
        _warn(monitor, replies[1], is_clustered)
    return latency


# Some web servers wait in silence for the rest of what they take for a request. Only who has never answered is
# suspected of that, so an outage costs a server no strange request.


def _time_for_strangers(pool: AsyncPool | SyncPool, timeout: float) -> float:
    """Seconds of ``timeout`` to keep for the question who is there."""
    if issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection)):
        return 0.0  # nothing is sent there in the clear
    never_answered = pool.monitor.health.last_reply == -math.inf
    return timeout * 0.1 if never_answered and pool.connection_kwargs.get("host") else 0.0


def _speaks_http(pool: AsyncPool | SyncPool, timeout: float) -> bool:
    """Whether a web server answers at the address of ``pool``."""
    host, port = pool.connection_kwargs["host"], pool.connection_kwargs["port"]
    try:
        address = names.resolve_sync(host, port, timeout)[0]
        with socket.create_connection((address, port), timeout) as peer:
            peer.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return peer.recv(5) == b"HTTP/"
    except OSError:
        return False
