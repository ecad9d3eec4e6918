"""redis-py's connections, observed: each reply and failure is reported to the server's monitor.

redis-py connects, authenticates and parses; this module adds what a pool must know about a connection and what
must be done to it when its process forks or its event loop ends without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import ssl
import stat
import warnings
import weakref
from collections.abc import Callable, Iterable
from itertools import repeat
from time import monotonic
from typing import Any

import redis
import redis.asyncio
from redis import exceptions as redis_exceptions
from redis.event import AsyncReAuthConnectionListener, EventDispatcher, ReAuthConnectionListener

from .addresses import AddressedAsync, AddressedSync
from .blocking import keep_alive
from .connection_state import TracksState
from .credentials import discreet
from .exhaust import exhaust
from .faults import UnansweredHandshakeError, UnansweredNameError, without_arguments
from .last_words import LastWords
from .monitor import Monitor
from .outcomes import ReplyTooLargeError
from .replies import is_out_of_memory
from .runtime import fork
from .runtime.fork import mark

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every connected connection of this process, async and sync, and those of unmanaged pools that are shared."""

_INHERITED = "This connection belongs to the process that this one was forked from; it was closed here."


class ObservedAsync(TracksState):
    """Mix into a ``redis.asyncio`` connection class, before it."""

    is_spare = False
    """Whether it is made in advance: that it fails is a reason to check, and no verdict."""
    life_share = 1.0
    """The part of the longest lifetime after which it is closed."""
    _login: Any = None
    """The AUTH of a client whose password it logs in with, if that is not the one it was made with."""
    is_patient = False
    """Whether the reply that is read now waits for another client, so that a time-out is no verdict."""

    def __init__(self, *, monitor: Monitor, **kwargs: Any) -> None:
        self.monitor = monitor
        self._counted = False
        self._opened_at = 0.0
        self._asked_at = 0.0
        self._borrowed_at: float | None = None
        self._returned_at = 0.0
        self._started = monotonic()
        self._last_words: LastWords | None = None
        self._name: str | None = None
        """What is still to be sent as its name ..."""
        self._named = False
        """... and whether the answer to that is still to be read."""
        self._inherited = False
        """Whether its socket is that of the process that this one was forked from."""
        self._made_on: tuple[Callable[[], Any], int] | None = None
        """A weak reference to the event loop of its last attempt to connect, and the fork generation then."""
        super().__init__(**kwargs)

    async def _connect(self) -> None:
        loop = fork.use_running_loop()
        self._inherited, generation = False, fork.generation
        self._made_on = (weakref.ref(loop), generation)
        self._asked_at = monotonic()
        self._started = -math.inf if self.is_spare else self._asked_at
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
            # A farewell over TLS could wait for a peer that no longer answers.
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
        # The password was changed while the former one was on its way.
        await self.disconnect(nowait=True)
        try:
            await self._connect()
        except OSError:
            raise refusal from None
        await self._shake_hands(*args, **kwargs)

    async def _shake_hands(self, *args: Any, **kwargs: Any) -> None:
        self._name = _name_for(self)
        try:
            with LastWords(self) as self._last_words, discreet(self):
                await super().on_connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self.monitor.times.create.add(monotonic() - self._asked_at)
        finally:
            self._last_words, self.replies_due = None, 0

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self._name is not None and args[:2] == _SETINFO:
            # Beside what redis-py sends without awaiting each answer, so that a name costs no round trip.
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
        self._started = -math.inf if self.is_spare else monotonic()
        if not isinstance(command, str | bytes | list | tuple):
            command = list(command)  # it may be read only once
        spoilt, count = (False, 0) if self._last_words is not None else self.account_for(command)
        if spoilt:
            self.is_outdated = True  # before it is sent: an interrupt must not hide it
        try:
            await super().send_packed_command(command, *args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError) as error:
            told = _reported(self, error)
            if told is not error:
                raise told from _cause_of(told, error)
            raise
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
            # A server, or a proxy, that gives no names is as good as any.
            with contextlib.suppress(redis_exceptions.ResponseError):
                await self.read_response()
        timeout = args[1] if len(args) > 1 else kwargs.get("timeout")
        if timeout == math.inf:
            keep_alive(self)
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.RedisError, MemoryError) as error:
            self.replies_due -= isinstance(error, redis_exceptions.ResponseError)
            told = _reported(self, error)
            if told is not error:
                raise told from _cause_of(told, error)
            raise
        # With a time-out of its caller, nothing stands for no reply.
        if response is not None or timeout is None:
            self.replies_due -= 1
            self.monitor.reply()
        return response

    def __del__(self, _warnings: Any = warnings) -> None:
        if not mark[0]:
            fork.renew()
        try:
            if (made_on := self._made_on) is not None and made_on[0]() is None and made_on[1] == fork.generation:
                abandon([self])  # its event loop is garbage, too, and asyncio warns about that
            super().__del__()  # type: ignore[misc]
        finally:
            _count_closed(self)  # its borrower has lost it


class ObservedSync(TracksState):
    """Mix into a ``redis`` connection class, before it."""

    _connect_callbacks: Any
    _parser: Any
    _sock: Any

    is_hurried = False
    """Whether it connects for somebody who has little time left."""
    is_spare = False
    """Whether it is made in advance: that it fails is a reason to check, and no verdict."""
    life_share = 1.0
    """The part of the longest lifetime after which it is closed."""
    _login: Any = None
    is_patient = False
    """Whether the reply that is read now waits for another client, so that a time-out is no verdict."""

    def __init__(self, *, monitor: Monitor, **kwargs: Any) -> None:
        self.monitor = monitor
        self._counted = False
        self._opened_at = 0.0
        self._asked_at = 0.0
        self._borrowed_at: float | None = None
        self._returned_at = 0.0
        self._started = monotonic()
        self._last_words: LastWords | None = None
        self._name: str | None = None
        self._named = False
        self._inherited = False
        super().__init__(**kwargs)

    @property
    def is_subscribed(self) -> bool:
        """Whether a subscription holds it, which redis-py renews after each connect."""
        return bool(self._connect_callbacks)

    def _connect(self) -> Any:
        self._inherited, generation = False, fork.generation
        self._asked_at = monotonic()
        self._started = -math.inf if self.is_spare else self._asked_at
        try:
            connected = super()._connect()  # type: ignore[misc]
        except (OSError, TimeoutError, redis_exceptions.RedisError) as error:
            self.monitor.failure(error, self._started, hurried=self.is_hurried)
            raise
        try:
            if isinstance(self, AddressedSync):
                self.shorten(connected)  # TLS has taken a part of the time
            _refuse_if_forked(self, generation)
            _count_opened(self)
        except BaseException:  # interrupted
            connected.close()
            raise
        return connected

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        try:
            super().disconnect(*args, **kwargs)  # type: ignore[misc]
        finally:
            _count_closed(self)

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        _adopt_login(self)
        try:
            self._shake_hands(*args, **kwargs)
            return
        except redis_exceptions.AuthenticationError as error:
            if not _adopt_login(self):
                raise
            refusal = error
        # The password was changed while the former one was on its way.
        self.disconnect()
        try:
            self._sock = self._connect()
        except OSError:
            raise refusal from None
        self._shake_hands(*args, **kwargs)

    def _shake_hands(self, *args: Any, **kwargs: Any) -> None:
        self._name = _name_for(self)
        try:
            with LastWords(self) as self._last_words, discreet(self):
                super().on_connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self.monitor.times.create.add(monotonic() - self._asked_at)
        finally:
            self._last_words, self.replies_due = None, 0

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self._name is not None and args[:2] == _SETINFO:
            name, self._name, self._named = self._name, None, True
            super().send_command(*_SETNAME, name, **kwargs)  # type: ignore[misc]
        self.note_command(args)
        try:
            super().send_command(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._known = None

    def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            self.disconnect()
            raise _not_ours(self)
        self._started = -math.inf if self.is_spare else monotonic()
        if not isinstance(command, str | bytes | list | tuple):
            command = list(command)  # it may be read only once
        spoilt, count = (False, 0) if self._last_words is not None else self.account_for(command)
        if spoilt:
            self.is_outdated = True  # before it is sent: an interrupt must not hide it
        try:
            super().send_packed_command(command, *args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError) as error:
            told = _reported(self, error)
            if told is not error:
                raise told from _cause_of(told, error)
            raise
        except BaseException:
            self.disconnect()  # interrupted: nobody may read what was meant for this caller
            raise
        finally:
            if spoilt:
                self.is_outdated = True  # the call itself may have connected
            self.replies_due += count

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            self.disconnect()
            raise _not_ours(self)
        if self._named:
            self._named = False
            with contextlib.suppress(redis_exceptions.ResponseError):
                self.read_response()
        timeout = kwargs.get("timeout", 0.0)
        if timeout is None:
            keep_alive(self)
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
            self.replies_due -= 1
            self.monitor.reply()
            return response
        except (redis_exceptions.RedisError, MemoryError) as error:
            self.replies_due -= isinstance(error, redis_exceptions.ResponseError)
            told = _reported(self, error, hurried="timeout" in kwargs)
            if told is not error:
                raise told from _cause_of(told, error)
            raise
        except BaseException:
            self.disconnect()
            raise


def _reported(
    connection: Any, raised: redis_exceptions.RedisError | MemoryError, *, hurried: bool = False
) -> redis_exceptions.RedisError:
    """Report an error to the monitor; return it, or in its place what it means or the server said.

    ``hurried``: its caller chose the time-out, which therefore says nothing about the server.
    """
    if connection._inherited:
        return _not_ours(connection)  # which says nothing about the server
    error = ReplyTooLargeError() if isinstance(raised, MemoryError) or is_out_of_memory(raised) else raised
    if connection._last_words is not None:
        error = connection._last_words.explain(error)
        if (shown := without_arguments(str(error))) != str(error):
            error = redis_exceptions.ResponseError(shown)
    if isinstance(error, redis_exceptions.AuthenticationError) and _is_overtaken(connection):
        return error
    if isinstance(error, redis_exceptions.ResponseError):
        connection.monitor.reply()
        # During the handshake servers before version 7 deny CLIENT as a whole: they give the connection no name.
        if connection._last_words is None or "'client' command" not in str(error):
            connection.monitor.error_reply(error)
    else:
        hurried = hurried or connection.is_patient or getattr(connection, "is_hurried", False)
        connection.monitor.failure(error, connection._started, hurried=hurried)
    return error


def _adopt_login(connection: Any) -> bool:
    """Let a connection log in with the last password that AUTH has set; return False if it has done so."""
    login = connection.monitor.login
    if login is connection._login:
        return False
    connection._login = login
    login.give(connection)
    return True


def _is_overtaken(connection: Any) -> bool:
    """Whether a connection logs in with a password that has been replaced meanwhile: it will do so again."""
    return connection._last_words is not None and connection._login is not connection.monitor.login


_SETINFO = ("CLIENT", "SETINFO")
_SETNAME = ("CLIENT", "SETNAME")


def _name_for(connection: Any) -> str | None:
    """Return the name of a connection that is made now, in this process: a forked child has a name of its own."""
    connection._named = False
    name: Callable[[], str] | None = connection.monitor.client_name
    return None if name is None else name()


def _cause_of(told: Exception, error: Exception) -> Exception | None:
    """Return ``error`` unless it repeats what ``told`` leaves out."""
    return None if without_arguments(str(error)) != str(error) else error


def forget_stream(connection: Any) -> None:
    """Tell a connection that its transport, which somebody else took over, is closed."""
    connection._parser.on_disconnect()
    connection._reader = connection._writer = None
    if isinstance(connection, ObservedAsync):
        _count_closed(connection)


def cut(connection: Any) -> None:
    """Close an asyncio connection at once. Without a task around it, redis-py does not wait for the other side."""
    transport = getattr(connection._writer, "transport", None)
    with contextlib.suppress(Exception):
        if isinstance(connection, redis.asyncio.SSLConnection) and transport is not None:
            transport.abort()  # a farewell could wait for a peer that no longer answers
        connection._close()
    forget_stream(connection)


def _refuse_if_forked(connection: Any, generation: int) -> None:
    """Raise ``ConnectionError`` if the process was forked while ``connection`` connected: both have its socket."""
    if not mark[0]:
        fork.renew()
    if fork.generation != generation:
        _let_go([connection])
        raise _not_ours(connection)


def require_own(connection: Any) -> None:
    """Raise ``ConnectionError`` if a blocking connection belongs to the process that this one was forked from."""
    if not mark[0]:
        fork.renew()
    if getattr(connection, "_inherited", False):
        connection.disconnect()
        raise _not_ours(connection)


def _not_ours(connection: Any) -> redis_exceptions.ConnectionError:
    """Return the exception for a connection of the parent process, which is closed here and may connect again."""
    connection._inherited = False
    return redis_exceptions.ConnectionError(_INHERITED)


def let_go_of_pool(pool: Any) -> None:
    """In a forked child: let go of what one of redis-py's own pools inherited."""
    inherited = [*pool._available_connections, *pool._in_use_connections]
    if inherited:
        _let_go(inherited)
    pool.reset()


def track(connection: Any) -> None:
    """Let a forked child let go of this connection's socket. For those that are not observed."""
    _open.add(connection)


def _count_opened(connection: Any) -> None:
    connection._opened_at = opened_at = monotonic()
    # The same for as long as the connection lives, and no two alike, so that they do not end together.
    connection.life_share = 0.9 + (hash((id(connection), opened_at)) % 1000) / 10_000
    connection.is_outdated = False
    _open.add(connection)
    connection.monitor.opened(connection)


def borrowed(connection: Any, asked_at: float) -> None:
    """Count how long a caller that asked at ``asked_at`` (monotonic seconds) waited; its use begins."""
    connection._borrowed_at = now = monotonic()
    connection.ends_watch = False
    connection.monitor.times.wait.add(now - asked_at)


def given_back(connection: Any) -> None:
    """Count how long a caller kept the connection, once."""
    if (since := getattr(connection, "_borrowed_at", None)) is not None:
        connection._borrowed_at, connection._returned_at = None, (now := monotonic())
        connection.monitor.times.use.add(now - since)


def is_worn_out(connection: Any, max_lifetime: float | None) -> bool:
    """Whether a connection was retired, has seen an outage, or lived ``max_lifetime`` seconds, or up to a tenth less.

    The packets that ended it may have been lost, too, and then only its next user would find out.
    """
    if not connection._counted:
        return False
    monitor, opened_at = connection.monitor, connection._opened_at
    known = monitor.health.now
    if known.successor:
        known = monitor.health.newest()
    if connection.is_spoilt or opened_at <= known.last_outage or opened_at <= monitor.retired_before:
        return True
    if max_lifetime is None:
        return False
    return bool(monotonic() - opened_at > max_lifetime * connection.life_share)


def has_listeners(dispatcher: Any, event: type[Any], connection: Any) -> bool:
    """Whether an event about a connection that is given back has a listener with something to do.

    redis-py's own listener logs in with a new token, if there is one.
    """
    if dispatcher.__class__ is not EventDispatcher:
        return True
    listeners = dispatcher._event_listeners_mapping.get(event)
    if not listeners:
        return False
    return (
        connection._re_auth_token is not None
        or len(listeners) > 1
        or listeners[0].__class__ not in _REDIS_PYS_LISTENERS
    )


_REDIS_PYS_LISTENERS = (ReAuthConnectionListener, AsyncReAuthConnectionListener)


def _count_closed(connection: Any) -> None:
    if connection._counted:
        connection.monitor.disconnected(connection)
        _open.discard(connection)


class AsyncTCPConnection(ObservedAsync, AddressedAsync):
    """An observed TCP connection for asyncio."""


class _AsyncTLS(redis.asyncio.SSLConnection):
    async def _connect(self) -> None:
        # Read the files again, as the blocking class does: a certificate may have been replaced.
        self.ssl_context.context = None
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (TimeoutError, asyncio.CancelledError) as error:
            # Also when a health check's deadline cancels it: the cause tells what was being waited for.
            raise error from UnansweredHandshakeError()


class AsyncTLSConnection(ObservedAsync, AddressedAsync, _AsyncTLS):
    """An observed TLS connection for asyncio."""


class AsyncUnixConnection(ObservedAsync, redis.asyncio.UnixDomainSocketConnection):
    """An observed Unix-socket connection for asyncio."""


class SyncTCPConnection(ObservedSync, AddressedSync):
    """An observed blocking TCP connection."""


class _SyncTLS(redis.SSLConnection, AddressedSync):
    def _connect(self) -> Any:
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        except UnansweredNameError:
            raise  # no handshake has begun
        except TimeoutError as error:
            raise error from UnansweredHandshakeError()


class SyncTLSConnection(ObservedSync, _SyncTLS):
    """An observed blocking TLS connection."""


class SyncUnixConnection(ObservedSync, redis.UnixDomainSocketConnection):
    """An observed blocking Unix-socket connection."""


ASYNC_CLASSES: dict[str, type[Any]] = {
    "tcp": AsyncTCPConnection,
    "tls": AsyncTLSConnection,
    "unix": AsyncUnixConnection,
}
SYNC_CLASSES: dict[str, type[Any]] = {
    "tcp": SyncTCPConnection,
    "tls": SyncTLSConnection,
    "unix": SyncUnixConnection,
}

BOUNDED: dict[type[Any], type[Any]] = {redis.Connection: AddressedSync, redis.SSLConnection: _SyncTLS}
"""What to use in place of redis-py's own blocking classes, which leave the name server out of their time-outs."""


def _after_fork_in_child() -> None:
    """In a forked child: let go of the parent's sockets without speaking on them or shutting them down.

    Each inherited descriptor is pointed at /dev/null. The number stays taken, so
    nothing can be closed twice, and whatever still holds the socket object
    (a transport, an epoll registration, a finaliser) can no longer touch the parent's connection.
    """
    if inherited := list(_open):
        _let_go(inherited)
        _open.difference_update(inherited)


def _let_go(inherited: list[Any]) -> None:
    _graveyard.extend(inherited)
    descriptors = [descriptor for descriptor in map(_descriptor, inherited) if descriptor >= 0]
    if descriptors:
        null = _open_null(descriptors)
        others = [descriptor for descriptor in descriptors if descriptor != null]
        # One C call: nothing that is made meanwhile, as by a signal handler, can be hit.
        exhaust(map(os.dup2, repeat(null), others, repeat(False)))
        if len(others) == len(descriptors):
            os.close(null)
    for connection in inherited:
        connection._inherited = True
        if not isinstance(connection, ObservedAsync | ObservedSync):
            continue
        connection._counted = False
        if connection._last_words is not None:
            connection._last_words.close()
        if isinstance(connection, ObservedSync) and connection.is_subscribed:
            # It subscribes again by itself. Others must raise: what they watched or began is lost.
            connection._parser.on_disconnect()
            connection._sock, connection._inherited = None, False


def _open_null(descriptors: list[int]) -> int:
    """Open /dev/null; at the limit of open files in place of the first of ``descriptors``."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        os.close(descriptors[0])
        return os.open(os.devnull, os.O_RDWR)


fork.register(_after_fork_in_child, first=True)

_graveyard: list[Any] = []
"""Connections inherited through a fork; kept so that no finaliser warns about, or closes, what is the parent's."""


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
        # An event loop that has ended runs no callbacks, so the transport's own last step is taken here.
        ssl_protocol = getattr(transport, "_ssl_protocol", None)
        lower = getattr(ssl_protocol, "_transport", None) or transport
        for step in ("abort", "close"):
            with contextlib.suppress(RuntimeError, AttributeError, OSError, ssl.SSLError):
                getattr(transport if step == "abort" else lower, step)()
        with contextlib.suppress(RuntimeError, AttributeError, OSError, ssl.SSLError):
            lower._call_connection_lost(None)


def _descriptor(connection: Any) -> int:
    """Return the number of a connection's socket, -1 when it has none that is real."""
    writer = getattr(connection, "_writer", None)
    try:
        held: Any = writer.get_extra_info("socket") if writer is not None else getattr(connection, "_sock", None)
        descriptor = int(held.fileno()) if held is not None else -1
        return descriptor if descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode) else -1
    except (AttributeError, OSError, ValueError):
        return -1
