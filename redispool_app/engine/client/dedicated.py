"""What redis-py carries out on a connection of its own: who loses the reply to a write is told so there, too.

redis-py would send it again, or say only that the connection was lost; either may be wrong. What only reads, or changes
nothing but its connection (WATCH), is left to redis-py's own policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.blocking import (
    AsyncMonitor,
    SyncMonitor,
    patient,
    patient_for_next,
    wait_of,
    waits_of,
)
from redispool_app.engine.protocol.commands import leaves_nothing, leaves_state, sent_words
from redispool_app.engine.protocol.refusals import WAITING, no_writes, refuse_silence
from redispool_app.engine.runtime.socket_look import connect
from redispool_app.exceptions import OutcomeUnknown

from .pipeline_base import PipelineUnit

_LOST = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError, redis_exceptions.InvalidResponse)
_REFUSED = (redis_exceptions.AuthenticationError, redis_exceptions.BusyLoadingError)
"""Answers of a server that has not carried it out; to redis-py they are connection errors."""


@contextmanager
def may_be_written(pool: Any, what: str = "command") -> Iterator[None]:
    """Raise ``OutcomeUnknown`` for what is lost in the block, which is entered once the connection is there."""
    try:
        yield
    except (OutcomeUnknown, *_REFUSED):
        raise
    except _LOST as error:
        raise _unknown(pool, error, what) from error


def _unknown(pool: Any, error: Exception, what: str) -> OutcomeUnknown:
    sharing = getattr(pool, "_sharing", None)
    if sharing is not None:
        sharing.count_unknown()
    return OutcomeUnknown(f"{error} (the {what} may or may not have been carried out)")


class OwnConnection:
    """What a client or pipeline knows of the one connection that it keeps for itself in ``connection``."""

    connection: Any
    parse_response: Any
    _is_spoilt = False
    """Whether a command left state there that no other caller may meet."""
    _ends_watch = False
    """Whether it ends by itself what WATCH begins, as pipelines do."""
    _wrote_on: Any = None
    """The socket on which it has changed data."""

    def _keeps_state(self) -> bool:
        """Whether the own connection has state that another one would lack."""
        return self.connection is not None and (self._is_spoilt or getattr(self.connection, "is_outdated", False))

    def _note_written(self, conn: Any) -> None:
        if self.connection is conn:
            self._wrote_on = socket_of(conn)

    def _check_written(self, conn: Any, args: Any) -> None:
        """Raise ``CommandRefused`` for a WAIT that would answer for no writes, or for those of a lost connection."""
        if self._wrote_on is None or self._wrote_on is not socket_of(conn):
            raise no_writes(sent_words(args, 1)[0])


def socket_of(connection: Any) -> Any:
    """Return what stands for the socket of a connection of redis-py, None while it has none."""
    connection = getattr(connection, "_conn", connection)
    return getattr(connection, "_sock", None) or getattr(connection, "_writer", None)


def _waits_for_writes(args: Any) -> bool:
    return any(word in WAITING for word in sent_words(args, 1))


def is_harmless(connection: Any, commands: Iterable[Any]) -> bool:
    """Whether losing these pipelined commands needs no verdict here: a unit that shares has had its own."""
    return isinstance(connection, PipelineUnit) or all(leaves_nothing(args[0]) for args, _ in commands)


class AloneSync(OwnConnection):
    """Mix into redis-py's client and its pipeline, before them."""

    connection_pool: Any

    def _send_command_parse_response(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        if not leaves_state(args):
            return self._send_once(conn, command_name, *args, **options)
        refuse_silence(sent_words(args))
        if self.connection is conn:
            conn.ends_watch = self._ends_watch
            self._is_spoilt = self._is_spoilt or not (self._ends_watch and command_name == "WATCH")
            return self._send_once(conn, command_name, *args, **options)
        try:
            return self._send_once(conn, command_name, *args, **options)
        finally:
            # It is not as other callers expect it.
            conn.disconnect()

    def _send_once(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        send: Any = super()._send_command_parse_response  # type: ignore[misc]
        if (wait := wait_of(args)) is not None:
            send = partial(self._send_and_wait, wait)
        if leaves_nothing(args[0]):
            if wait is not None and _waits_for_writes(args):
                self._check_written(conn, args)
            return send(conn, command_name, *args, **options)
        conn.connect()
        # As ``may_be_written`` does, in a fifth of the time.
        try:
            reply = send(conn, command_name, *args, **options)
        except (OutcomeUnknown, *_REFUSED):
            raise
        except _LOST as error:
            raise _unknown(self.connection_pool, error, "command") from error
        self._note_written(conn)
        return reply

    def _close_spoilt(self) -> None:
        """Close the own connection, before it is given back, if it is not as other callers expect it."""
        spoilt, self._is_spoilt, self._wrote_on = self._is_spoilt, False, None
        if spoilt and (conn := self.connection) is not None:
            conn.disconnect()

    def _send_and_wait(self, wait: float, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        """Do what redis-py does, with more patience for the reply: ``wait`` is in seconds."""
        conn.send_command(*args, **options)
        with patient(conn, wait):
            return self.parse_response(conn, command_name, **options)

    @contextmanager
    def _waiting_in_turn(self, commands: Iterable[Any]) -> Iterator[None]:
        """Read the replies to pipelined commands each with its own patience."""
        waits = waits_of(commands)
        if waits is None:
            yield
            return
        parse: Any = super().parse_response

        def parse_response(connection: Any, command_name: Any, **options: Any) -> Any:
            with patient_for_next(connection, waits, command_name):
                return parse(connection, command_name, **options)

        # On this object and for this time only: other pipelines make no additional call for a reply.
        self.parse_response = parse_response
        try:
            yield
        finally:
            del self.parse_response

    def monitor(self) -> SyncMonitor:
        return SyncMonitor(self.connection_pool)  # type: ignore[no-untyped-call]

    # What redis-py does before it tries again. Not after that.

    def _close_connection(self, conn: Any, error: Any = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            conn.disconnect()
            raise error
        super()._close_connection(conn, error, *args, **kwargs)  # type: ignore[misc]

    def _disconnect_raise_on_watching(self, conn: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        # WatchError would say that nothing has been done, and ``transaction()`` would do it again.
        if isinstance(error, OutcomeUnknown):
            conn.disconnect()
            raise error
        super()._disconnect_raise_on_watching(conn, error, *args, **kwargs)  # type: ignore[misc]

    def _disconnect_reset_raise_on_watching(self, conn: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            conn.disconnect()
            self.reset()  # type: ignore[attr-defined]
            raise error
        super()._disconnect_reset_raise_on_watching(conn, error, *args, **kwargs)  # type: ignore[misc]


class AloneAsync(OwnConnection):
    """The twin for ``redis.asyncio``."""

    connection_pool: Any

    async def _send_command_parse_response(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        if not leaves_state(args):
            return await self._send_once(conn, command_name, *args, **options)
        refuse_silence(sent_words(args))
        if self.connection is conn:
            conn.ends_watch = self._ends_watch
            self._is_spoilt = self._is_spoilt or not (self._ends_watch and command_name == "WATCH")
            return await self._send_once(conn, command_name, *args, **options)
        try:
            return await self._send_once(conn, command_name, *args, **options)
        finally:
            # It is not as other callers expect it.
            await conn.disconnect(nowait=True)

    async def _send_once(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        send: Any = super()._send_command_parse_response  # type: ignore[misc]
        if (wait := wait_of(args)) is not None:
            send = partial(self._send_and_wait, wait)
        if leaves_nothing(args[0]):
            if wait is not None and _waits_for_writes(args):
                self._check_written(conn, args)
            return await send(conn, command_name, *args, **options)
        # What was borrowed from a pool of ours has been looked at just now.
        looked_at = self.connection is not conn and hasattr(self.connection_pool, "monitor")
        await (conn.connect() if looked_at else connect(conn))
        try:
            reply = await send(conn, command_name, *args, **options)
        except (OutcomeUnknown, *_REFUSED):
            raise
        except _LOST as error:
            raise _unknown(self.connection_pool, error, "command") from error
        self._note_written(conn)
        return reply

    async def _close_spoilt(self) -> None:
        """Close the own connection, before it is given back, if it is not as other callers expect it."""
        spoilt, self._is_spoilt, self._wrote_on = self._is_spoilt, False, None
        if spoilt and (conn := self.connection) is not None:
            await conn.disconnect(nowait=True)

    async def _send_and_wait(self, wait: float, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        await conn.send_command(*args)
        with patient(conn, wait):
            return await self.parse_response(conn, command_name, **options)

    @contextmanager
    def _waiting_in_turn(self, commands: Iterable[Any]) -> Iterator[None]:
        waits = waits_of(commands)
        if waits is None:
            yield
            return
        parse: Any = super().parse_response

        async def parse_response(connection: Any, command_name: Any, **options: Any) -> Any:
            with patient_for_next(connection, waits, command_name):
                return await parse(connection, command_name, **options)

        self.parse_response = parse_response
        try:
            yield
        finally:
            del self.parse_response

    def monitor(self) -> AsyncMonitor:
        return AsyncMonitor(self.connection_pool)

    async def _close_connection(self, conn: Any, error: Any = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            await conn.disconnect(nowait=True)
            raise error
        await super()._close_connection(conn, error, *args, **kwargs)  # type: ignore[misc]

    async def _disconnect_raise_on_watching(self, conn: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            await conn.disconnect(nowait=True)
            raise error
        await super()._disconnect_raise_on_watching(conn, error, *args, **kwargs)  # type: ignore[misc]

    async def _disconnect_reset_raise_on_watching(self, conn: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            await conn.disconnect(nowait=True)
            await self.reset()  # type: ignore[attr-defined]
            raise error
        await super()._disconnect_reset_raise_on_watching(conn, error, *args, **kwargs)  # type: ignore[misc]
