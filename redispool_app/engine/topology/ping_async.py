"""One real PING within one deadline, if possible through the pool that callers use.

A check of a server that is not known to be healthy also asks what kind of server it is, in the same round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.multiplex.multiplexer_async import async_multiplexer_of
from redispool_app.engine.pool.pool_async import AsyncPool

from .ping_target import Replies, questions


async def ping(pool: AsyncPool, timeout: float) -> float:
    """PING on a connection of ``pool``, or on an extra one if the pool is exhausted. Return the round trip in seconds.

    Raises redis-py's errors, among them ``TimeoutError`` after ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _ping_through(pool)
    except TimeoutError as error:
        sharing = async_multiplexer_of(pool)
        cause = await sharing.give_up_connecting() if sharing is not None else None
        raise redis_exceptions.TimeoutError(f"PING was not answered within {timeout} s") from cause or error


async def _ping_through(pool: AsyncPool) -> float:
    sharing = async_multiplexer_of(pool)
    if sharing is not None:
        return await _ask(pool.monitor, sharing.probe)
    connection = pool.take_at_once()
    if connection is None:
        # All are in use, perhaps by commands that block. That says nothing about the server.
        return await _ping_on_new(pool)
    try:
        was_connected = connection.is_connected
        await pool.ready(connection)
        return await _ping(connection, pool)
    except (redis_exceptions.ConnectionError, redis_exceptions.InvalidResponse) as error:
        # An idle connection may have died unnoticed. Only a new one tells about the server.
        if not was_connected or isinstance(error, redis_exceptions.AuthenticationError):
            raise
        await connection.disconnect(nowait=True)
    finally:
        await pool.release(connection)
    return await _ping_on_new(pool)


async def _ping_on_new(pool: AsyncPool) -> float:
    connection = pool.make_connection()
    try:
        await connection.connect()
        return await _ping(connection, pool)
    finally:
        await connection.disconnect(nowait=True)


async def _ping(connection: Any, pool: AsyncPool) -> float:
    async def exchange(packed: bytes, wanted: int) -> Replies:
        await connection.send_packed_command([packed], check_health=False)
        replies: Replies = []
        for _ in range(wanted):
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except redis_exceptions.ResponseError as error:
                replies.append(error)
        return replies

    return await _ask(pool.monitor, exchange)


async def _ask(monitor: Monitor, exchange: Callable[[bytes, int], Awaitable[Replies]]) -> float:
    """Run a check with ``exchange``. Return the first round trip in seconds."""
    check = questions(monitor)
    asked = next(check)
    while True:
        replies = await exchange(*asked)
        try:
            asked = check.send(replies)
        except StopIteration as end:
            return float(end.value)
