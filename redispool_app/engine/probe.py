"""One real PING, through the pool that callers use where it can be had, within one deadline."""

from __future__ import annotations

import asyncio
import math
import socket
from time import monotonic, perf_counter
from typing import Any

import redis
import redis.asyncio
from redis import exceptions as redis_exceptions

from . import names
from .async_pool import AsyncPool
from .deadlines import shortened
from .sharing import sharing_of
from .sync_pool import SyncPool
from .thread_sharing import thread_sharing_of

_PING = b"*1\r\n$4\r\nPING\r\n"


def _check(answer: Any) -> None:
    if answer not in (b"PONG", "PONG"):
        raise redis_exceptions.InvalidResponse(f"PING was answered with {answer!r:.80}")


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
        started = perf_counter()
        _check(await sharing.probe(_PING))
        return perf_counter() - started
    connection = pool.state.take_at_once()
    if connection is None:
        # All are in use, perhaps by commands that block: that says nothing about the server.
        return await _ping_on_new(pool)
    try:
        was_connected = connection.is_connected
        await pool.ready(connection)
        return await _ping(connection)
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
        return await _ping(connection)
    finally:
        await connection.disconnect(nowait=True)


async def _ping(connection: Any) -> float:
    started = perf_counter()
    await connection.send_command("PING", check_health=False)
    _check(await connection.read_response())
    return perf_counter() - started


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
        started = perf_counter()
        _check(sharing.probe(_PING, deadline))
        return perf_counter() - started
    connection = pool.take_at_once()
    if connection is None:
        return _ping_on_new_sync(pool, deadline)
    try:
        was_connected = connection._sock is not None
        with shortened(connection, deadline):
            pool.ready(connection)
            return _ping_sync(connection, deadline)
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
            return _ping_sync(connection, deadline)
    finally:
        connection.disconnect()


def _ping_sync(connection: Any, deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise redis_exceptions.TimeoutError("The health check's time was used up by connecting")
    started = perf_counter()
    connection._sock.settimeout(left)
    connection.send_command("PING", check_health=False)
    _check(connection.read_response())
    return perf_counter() - started


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
