"""redis-py's asyncio connections. They report each reply and failure to the monitor."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import warnings
import weakref
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import redis
import redis.asyncio
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import UnansweredHandshakeError
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .addresses import AddressedAsync
from .blocking import keep_alive
from .credentials import redact_credentials
from .handshake_errors import HandshakeErrors
from .lifecycle import (
    _SETINFO,
    _SETNAME,
    Observed,
    _adopt_login,
    _count_closed,
    _count_opened,
    _name_for,
    _not_ours,
    _raise_reported,
    _refuse_if_forked,
)


class ObservedAsync(Observed):
    """Mixin for a ``redis.asyncio`` connection class. Put it before that class."""

    _made_on: tuple[Callable[[], Any], int] | None = None
    """A weak reference to the event loop of its last attempt to connect, and the fork generation then."""

    async def _connect(self) -> None:
        loop, generation = fork.use_running_loop(), self._begin_connecting()
        self._made_on = (weakref.ref(loop), generation)
        try:
            await super()._connect()  # type: ignore[misc]
        except (OSError, TimeoutError, redis_exceptions.RedisError) as error:
            self.monitor.failure(error, self._started)
            raise
        _refuse_if_forked(self, generation)
        _count_opened(self)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        transport = getattr(getattr(self, "_writer", None), "transport", None)
        try:
            # A clean TLS shutdown could wait for a peer that no longer answers.
            if isinstance(self, redis.asyncio.SSLConnection) and transport is not None:
                transport.abort()
            await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        finally:
            _count_closed(self)

    async def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        _adopt_login(self)
        try:
            await self._shake_hands(*args, **kwargs)
            return
        except redis_exceptions.AuthenticationError as error:
            if not _adopt_login(self):
                raise
            refusal = error
        # The password was changed while the former one was being sent.
        await self.disconnect(nowait=True)
        try:
            await self._connect()
        except OSError:
            raise refusal from None
        await self._shake_hands(*args, **kwargs)

    async def _shake_hands(self, *args: Any, **kwargs: Any) -> None:
        self._name = _name_for(self)
        try:
            with HandshakeErrors(self) as self._handshake_errors, redact_credentials(self):
                await super().on_connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self.monitor.times.create.add(monotonic() - self._asked_at)
        finally:
            self._handshake_errors, self.replies_due = None, 0

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self._name is not None and args[:2] == _SETINFO:
            # Sent together with redis-py's own commands, so that setting a name costs no round trip.
            name, self._name, self._named = self._name, None, True
            await super().send_command(*_SETNAME, name, **kwargs)  # type: ignore[misc]
        self.note_command(args)
        try:
            await super().send_command(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._known = None

    async def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            await self.disconnect(nowait=True)
            raise _not_ours(self)
        command, spoilt, count = self._account(command)
        try:
            await super().send_packed_command(command, *args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError) as error:
            _raise_reported(self, error)
        finally:
            if spoilt:
                self.is_outdated = True  # the call itself may have connected
            self.replies_due += count

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            await self.disconnect(nowait=True)
            raise _not_ours(self)
        if self._named:
            self._named = False
            # A server or proxy without client names is acceptable.
            with contextlib.suppress(redis_exceptions.ResponseError):
                await self.read_response()
        timeout = args[1] if len(args) > 1 else kwargs.get("timeout")
        if timeout == math.inf:
            keep_alive(self)
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.RedisError, MemoryError) as error:
            self.replies_due -= isinstance(error, redis_exceptions.ResponseError)
            _raise_reported(self, error)
        # With a timeout given by the caller, None means no reply.
        if response is not None or timeout is None:
            self.replies_due -= 1
            self.monitor.reply()
        return response

    def __del__(self, _warnings: Any = warnings) -> None:
        if not mark[0]:
            fork.renew()
        try:
            if (made_on := self._made_on) is not None and made_on[0]() is None and made_on[1] == fork.generation:
                abandon([self])  # its event loop is garbage, too, and asyncio would warn about that
            super().__del__()  # type: ignore[misc]
        finally:
            _count_closed(self)  # its borrower has lost it


def forget_stream(connection: Any) -> None:
    """Tell a connection that its transport, which other code took over, is closed."""
    connection._parser.on_disconnect()
    connection._reader = connection._writer = None
    if isinstance(connection, ObservedAsync):
        _count_closed(connection)


def cut(connection: Any) -> None:
    """Close an asyncio connection at once. Without a task around it, redis-py does not wait for the other side."""
    transport = getattr(connection._writer, "transport", None)
    with contextlib.suppress(Exception):
        if isinstance(connection, redis.asyncio.SSLConnection) and transport is not None:
            transport.abort()  # a clean shutdown could wait for a peer that no longer answers
        connection._close()
    forget_stream(connection)


class AsyncTCPConnection(ObservedAsync, AddressedAsync):
    """An observed TCP connection for asyncio."""


class _AsyncTLS(redis.asyncio.SSLConnection):
    async def _connect(self) -> None:
        # Read the files again, as the blocking class does: a certificate may have been replaced.
        self.ssl_context.context = None
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (TimeoutError, asyncio.CancelledError) as error:
            # Also when a health check's deadline cancels it: the cause names what was being waited for.
            raise error from UnansweredHandshakeError()


class AsyncTLSConnection(ObservedAsync, AddressedAsync, _AsyncTLS):
    """An observed TLS connection for asyncio."""


class AsyncUnixConnection(ObservedAsync, redis.asyncio.UnixDomainSocketConnection):
    """An observed Unix socket connection for asyncio."""


ASYNC_CLASSES: dict[str, type[Any]] = {
    "tcp": AsyncTCPConnection,
    "tls": AsyncTLSConnection,
    "unix": AsyncUnixConnection,
}


def abandon(connections: Iterable[Any]) -> None:
    """Close the sockets of connections whose event loop has ended without closing them: closed, or garbage."""
    for connection in connections:
        writer = getattr(connection, "_writer", None)
        connection._reader = connection._writer = None
        if isinstance(connection, ObservedAsync):
            _count_closed(connection)
        transport = getattr(writer, "transport", None)
        if transport is None:
            continue
        # An event loop that has ended runs no callbacks, so this calls the transport's own last step.
        ssl_protocol = getattr(transport, "_ssl_protocol", None)
        lower = getattr(ssl_protocol, "_transport", None) or transport
        for step in ("abort", "close"):
            with contextlib.suppress(RuntimeError, AttributeError, OSError, ssl.SSLError):
                getattr(transport if step == "abort" else lower, step)()
        with contextlib.suppress(RuntimeError, AttributeError, OSError, ssl.SSLError):
            lower._call_connection_lost(None)
