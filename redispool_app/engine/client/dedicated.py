"""Commands that redis-py runs on a dedicated connection. Raises ``OutcomeUnknown`` when a write's reply is lost there.

redis-py would send the write again, or report only a lost connection. Both may be wrong. Commands that only read, or
that change nothing but their connection (WATCH), follow redis-py's own policy.
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
from redispool_app.engine.protocol.commands import is_ephemeral, leaves_state, sent_words
from redispool_app.engine.protocol.refusals import WAITING, no_writes, refuse_in_pipeline, refuse_silence
from redispool_app.engine.runtime.socket_look import connect
from redispool_app.exceptions import OutcomeUnknown

from .pipeline_base import PipelineAdapter

_LOST = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError, redis_exceptions.InvalidResponse)
_REFUSED = (redis_exceptions.AuthenticationError, redis_exceptions.BusyLoadingError)
"""Errors of a server that has not run the command. redis-py treats them as connection errors."""


@contextmanager
def outcome_unknown_on_loss(pool: Any, what: str = "command") -> Iterator[None]:
    """Raise ``OutcomeUnknown`` for a loss in the block. Enter the block after the connection is made."""
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
    """State of a client or pipeline that keeps one dedicated connection in ``connection``."""

    connection: Any
    parse_response: Any
    _is_spoilt = False
    """Whether a command left state that no other caller may see."""
    _ends_watch = False
    """Whether it ends WATCH by itself, as pipelines do."""
    _wrote_on: Any = None
    """The socket on which it has changed data."""

    def _keeps_state(self) -> bool:
        """Whether the dedicated connection has state that a new one would lack."""
        return self.connection is not None and (self._is_spoilt or getattr(self.connection, "is_outdated", False))

    def _note_written(self, conn: Any) -> None:
        if self.connection is conn:
            self._wrote_on = socket_of(conn)

    def _check_written(self, conn: Any, args: Any) -> None:
        """Raise ``CommandRefused`` for a WAIT that would count no writes, or only those of a lost connection."""
        if self._wrote_on is None or self._wrote_on is not socket_of(conn):
            raise no_writes(sent_words(args, 1)[0])

    def _refuse_pipelined(self, stack: Any, transaction: bool) -> None:
        """Raise ``CommandRefused`` for commands without a valid answer here. Note commands that leave state."""
        own = self.connection
        has_written = own is not None and self._wrote_on is socket_of(own)
        refuse_in_pipeline(stack, transaction=transaction, has_written=has_written)
        self._is_spoilt = self._is_spoilt or any(leaves_state(args) for args, _ in stack)


class ClientConnection:
    """Mixin for a client, before ``OwnConnection``. With another ``connection`` it looks for a shared one again."""

    _shared: Any = None

    @property
    def connection(self) -> Any:
        """The dedicated connection that carries all commands of this client; None if it has none."""
        try:
            return self.__dict__["connection"]
        except KeyError:
            raise AttributeError("connection") from None

    @connection.setter
    def connection(self, connection: Any) -> None:
        self.__dict__["connection"] = connection
        self._shared = None


def socket_of(connection: Any) -> Any:
    """Return an object that identifies the socket of a redis-py connection; None without a socket."""
    connection = getattr(connection, "_conn", connection)
    return getattr(connection, "_sock", None) or getattr(connection, "_writer", None)


def _waits_for_writes(args: Any) -> bool:
    return any(word in WAITING for word in sent_words(args, 1))


def is_harmless(connection: Any, commands: Iterable[Any]) -> bool:
    """Whether losing these pipelined commands needs no decision here.

    A pipeline on a shared connection is decided there.
    """
    return isinstance(connection, PipelineAdapter) or all(is_ephemeral(args[0]) for args, _ in commands)


class DedicatedSync(OwnConnection):
    """Mixin for redis-py's client and its pipeline. Put it before them."""

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
            # The connection is not in the state that other callers expect.
            conn.disconnect()

    def _send_once(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        send: Any = super()._send_command_parse_response  # type: ignore[misc]
        if (wait := wait_of(args)) is not None:
            send = partial(self._send_and_wait, wait)
        if is_ephemeral(args[0]):
            if wait is not None and _waits_for_writes(args):
                self._check_written(conn, args)
            return send(conn, command_name, *args, **options)
        conn.connect()
        # The same as ``outcome_unknown_on_loss``, in a fifth of the time.
        try:
            reply = send(conn, command_name, *args, **options)
        except (OutcomeUnknown, *_REFUSED):
            raise
        except _LOST as error:
            raise _unknown(self.connection_pool, error, "command") from error
        self._note_written(conn)
        return reply

    def _close_spoilt(self) -> None:
        """Close the dedicated connection before it is returned, if it is not in the state that other callers expect."""
        spoilt, self._is_spoilt, self._wrote_on = self._is_spoilt, False, None
        if spoilt and (conn := self.connection) is not None:
            conn.disconnect()

    def _send_and_wait(self, wait: float, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        """Do what redis-py does, but wait up to ``wait`` seconds longer for the reply."""
        conn.send_command(*args, **options)
        with patient(conn, wait):
            return self.parse_response(conn, command_name, **options)

    @contextmanager
    def _waiting_in_turn(self, commands: Iterable[Any]) -> Iterator[None]:
        """Read the replies to pipelined commands, each with its own additional wait."""
        waits = waits_of(commands)
        if waits is None:
            yield
            return
        parse: Any = super().parse_response

        def parse_response(connection: Any, command_name: Any, **options: Any) -> Any:
            with patient_for_next(connection, waits, command_name):
                return parse(connection, command_name, **options)

        # Only on this object and only meanwhile: other pipelines make no additional call per reply.
        self.parse_response = parse_response
        try:
            yield
        finally:
            del self.parse_response

    def monitor(self) -> SyncMonitor:
        return SyncMonitor(self.connection_pool)  # type: ignore[no-untyped-call]

    # redis-py calls this before it tries again. After this error it does not.

    def _close_connection(self, conn: Any, error: Any = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            conn.disconnect()
            raise error
        super()._close_connection(conn, error, *args, **kwargs)  # type: ignore[misc]

    def _disconnect_raise_on_watching(self, conn: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        # WatchError would say that nothing was done, and ``transaction()`` would do it again.
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


class DedicatedAsync(OwnConnection):
    """The same for ``redis.asyncio``."""

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
            # The connection is not in the state that other callers expect.
            await conn.disconnect(nowait=True)

    async def _send_once(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        send: Any = super()._send_command_parse_response  # type: ignore[misc]
        if (wait := wait_of(args)) is not None:
            send = partial(self._send_and_wait, wait)
        if is_ephemeral(args[0]):
            if wait is not None and _waits_for_writes(args):
                self._check_written(conn, args)
            return await send(conn, command_name, *args, **options)
        # A connection borrowed from this package's pool has just been checked.
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
        """Close the dedicated connection before it is returned, if it is not in the state that other callers expect."""
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
