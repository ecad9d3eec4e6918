"""Sends a few of the app's own commands on an existing connection of the process.

That is the threads' shared connection if it is open, otherwise that of an event loop in another thread. If none is
open, the threads' connection is made. Errors here do not change the health: no caller of the pool waited for the
commands.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.deadline_sync import shortened
from redispool_app.engine.errors import LOST
from redispool_app.engine.multiplex.connection_async import SharedConnection
from redispool_app.engine.multiplex.multiplexer_sync import SyncMultiplexer, sync_multiplexer_of
from redispool_app.engine.multiplex.stalls import reads_only
from redispool_app.engine.pool.pool_sync import SyncPool
from redispool_app.engine.protocol.packing import pack_utf8
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.exceptions import PoolTimeout

from .event_loops import LoopClient, running_loop
from .ping_sync import exchange_on
from .standalone import PoolSet

Command = Sequence[bytes | str | int | float]


class NotConnectedError(redis_exceptions.ConnectionError):
    """No connection is open, and the caller did not allow a new one."""


def carry(pool_set: PoolSet, commands: Sequence[Command], timeout: float, *, connect: bool = True) -> list[Any]:
    """Send ``commands`` together, not atomic. Return their replies undecoded; errors are values in the list.

    May send them twice if a connection was lost, so repeating them must be safe. Blocks its thread for up to about
    ``timeout`` seconds. Raises ``PoolClosed``, ``RedisUnavailable`` (without I/O), and redis-py's ``ConnectionError``
    and ``TimeoutError``. With ``connect=False`` it raises ``NotConnectedError`` if no connection is open.
    """
    if not mark[0]:
        fork.renew()
    monitor = pool_set.monitor
    monitor.ensure_available()
    packed, wanted = b"".join([pack_utf8(command) for command in commands]), len(commands)
    deadline = monotonic() + timeout
    for last in (False, True):
        try:
            return _carried(pool_set, packed, wanted, deadline, connect)
        except redis_exceptions.TimeoutError:
            raise
        except LOST as error:
            if last:
                raise redis_exceptions.ConnectionError(str(error)) from error
        finally:
            # Closed meanwhile: the connection that this call opened is not needed.
            if monitor.closed and (late := pool_set._retire_sync()) is not None:
                late.drain(0)
    raise AssertionError("unreachable")


def _carried(pool_set: PoolSet, packed: bytes, wanted: int, deadline: float, connect: bool) -> list[Any]:
    sharing, reads = _open_sharing(pool_set), reads_only(packed, wanted, own=True)
    if sharing is not None:
        return sharing.exchange(packed, wanted, deadline)
    for entry in _entries(pool_set):
        with suppress(concurrent.futures.TimeoutError):
            # Half of the time: a blocked loop must leave some for the threads' connection.
            return _by_loop(entry, packed, wanted, reads, (deadline - monotonic()) / 2)
    pool = pool_set._sync_pair()[1]
    sharing = sync_multiplexer_of(pool)
    if sharing is None:
        return _on_borrowed(pool, packed, wanted, deadline, connect)
    if not connect:
        raise NotConnectedError("No connection is open.")
    with pool_set.monitor.quietly():
        sharing.connect(deadline)
    return sharing.exchange(packed, wanted, deadline)


def _open_sharing(pool_set: PoolSet) -> SyncMultiplexer | None:
    pair = pool_set._sync
    sharing = pair[1]._sharing if pair is not None else None
    return sharing if sharing is not None and sharing.lanes.usable else None


# An event loop of another thread.


def _entries(pool_set: PoolSet) -> list[LoopClient]:
    """Return the loops whose shared connection is open, the oldest first: it is the least likely to end now."""
    here = running_loop()
    found = []
    for entry in pool_set.loops.all():
        loop, connection = entry.loop_ref(), _open_connection(entry, reads=True)
        if loop is not None and loop is not here and loop.is_running() and connection is not None:
            found.append((connection.connection._opened_at, id(entry), entry))
    return [entry for *_, entry in sorted(found)][:1]


def _open_connection(entry: LoopClient, *, reads: bool) -> SharedConnection | None:
    sharing = entry.pool._sharing
    connection: SharedConnection | None = sharing.lanes.choose(reads=reads) if sharing is not None else None
    return connection


def _by_loop(entry: LoopClient, packed: bytes, wanted: int, reads: bool, timeout: float) -> list[Any]:
    """Send on an event loop.

    Raises ``concurrent.futures.TimeoutError`` if the loop or its connection is slow or ends.
    """
    answer: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
    loop = entry.loop_ref()

    def begin() -> None:
        connection = _open_connection(entry, reads=reads)
        if connection is None or answer.cancelled():
            answer.cancel()
            return
        connection.send_pipeline(packed, [False] * wanted, quiet=True).add_done_callback(hand_over)

    def hand_over(reply: asyncio.Future[list[Any]]) -> None:
        error = reply.exception() if not reply.cancelled() else asyncio.CancelledError()
        if not answer.set_running_or_notify_cancel():
            return  # no caller waits
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(reply.result())

    try:
        if loop is None:
            raise concurrent.futures.TimeoutError
        loop.call_soon_threadsafe(begin)
        return answer.result(timeout)
    except (RuntimeError, concurrent.futures.CancelledError, asyncio.CancelledError) as error:
        raise concurrent.futures.TimeoutError from error  # the loop, or its connection, has ended
    finally:
        answer.cancel()


# If nothing is shared.


def _on_borrowed(pool: SyncPool, packed: bytes, wanted: int, deadline: float, connect: bool) -> list[Any]:
    """Send on an idle connection of the pool. Raises ``PoolTimeout`` if there is none: no caller may wait for this."""
    connection = pool.take_at_once()
    if connection is None:
        raise PoolTimeout("All connections of the pool are in use.")
    try:
        if connection._sock is None and not connect:
            raise NotConnectedError("No connection is open.")
        with pool.monitor.quietly(), shortened(connection, deadline):
            pool.ready(connection)
            return exchange_on(connection, packed, wanted, max(0.001, deadline - monotonic()))
    finally:
        pool.release(connection)
