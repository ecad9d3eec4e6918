"""Additions to redis-py's connections: each reply and failure is reported to the server's monitor.

redis-py connects, authenticates and parses. This module adds what a pool must know about a connection. It also handles
connections after their process forks, or after their event loop ends without closing them.
"""

from __future__ import annotations

import math
import os
import stat
import weakref
from collections.abc import Callable
from itertools import repeat
from time import monotonic
from typing import Any, NoReturn

from redis import exceptions as redis_exceptions
from redis.event import AsyncReAuthConnectionListener, EventDispatcher, ReAuthConnectionListener

from redispool_app.engine.errors import ReplyTooLargeError
from redispool_app.engine.health.faults import without_arguments
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.protocol.replies import consume, is_out_of_memory
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .handshake_errors import HandshakeErrors
from .state import TracksState

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every connected connection of this process, async and sync, and shared connections of unmanaged pools."""

_INHERITED = "This connection belongs to the process that this one was forked from; it was closed here."


class Observed(TracksState):
    """What the asyncio and the blocking connections have in common. Put it before a connection class of redis-py."""

    is_spare = False
    """Whether it is made in advance. Its failure is a reason to check, and no proof of an outage."""
    life_share = 1.0
    """The share of the maximum lifetime after which it is closed."""
    _login: Any = None
    """The AUTH of a client whose password it uses, if that is not the one it was created with."""
    is_patient = False
    """Whether the reply being read waits for another client. A timeout then says nothing about the server."""

    def __init__(self, *, monitor: Monitor, **kwargs: Any) -> None:
        self.monitor = monitor
        self._counted = False
        self._opened_at = 0.0
        self._asked_at = 0.0
        self._borrowed_at: float | None = None
        self._started = monotonic()
        self._handshake_errors: HandshakeErrors | None = None
        self._name: str | None = None
        """The name that is still to be sent ..."""
        self._named = False
        """... and whether the reply to that is still to be read."""
        self._inherited = False
        """Whether its socket belongs to the process that this one was forked from."""
        super().__init__(**kwargs)

    def _begin_connecting(self) -> int:
        """Return the fork generation in which the attempt to connect begins."""
        self._inherited, generation = False, fork.generation
        self._asked_at = monotonic()
        self._started = -math.inf if self.is_spare else self._asked_at
        return generation

    def _account(self, command: Any) -> tuple[Any, bool, int]:
        """Return packed commands to send, whether they leave state, and how many replies they get."""
        self._started = -math.inf if self.is_spare else monotonic()
        if not isinstance(command, str | bytes | list | tuple):
            command = list(command)  # an iterator can be read only once
        spoilt, count = (False, 0) if self._handshake_errors is not None else self.account_for(command)
        if spoilt:
            self.is_outdated = True  # before the command is sent: an interrupt must not hide it
        return command, spoilt, count


def _raise_reported(
    connection: Any, error: redis_exceptions.RedisError | MemoryError, *, hurried: bool = False
) -> NoReturn:
    """Report an error to the monitor. Raise it, or a more precise error in its place."""
    told = _reported(connection, error, hurried=hurried)
    if told is error:
        raise error
    # Without a cause that repeats what the new error leaves out.
    raise told from None if without_arguments(str(error)) != str(error) else error


def _reported(
    connection: Any, raised: redis_exceptions.RedisError | MemoryError, *, hurried: bool = False
) -> redis_exceptions.RedisError:
    """Report an error. Return it, or a more precise error in its place.

    ``hurried``: the caller chose the timeout, which therefore says nothing about the server.
    """
    if connection._inherited:
        return _not_ours(connection)  # a fork says nothing about the server
    error = ReplyTooLargeError() if isinstance(raised, MemoryError) or is_out_of_memory(raised) else raised
    if connection._handshake_errors is not None:
        error = connection._handshake_errors.explain(error)
        if (shown := without_arguments(str(error))) != str(error):
            error = redis_exceptions.ResponseError(shown)
    if isinstance(error, redis_exceptions.AuthenticationError) and _is_overtaken(connection):
        return error
    if isinstance(error, redis_exceptions.ResponseError):
        connection.monitor.reply()
        # During the handshake, servers before version 7 deny CLIENT as a whole. The connection then gets no name.
        if connection._handshake_errors is None or "'client' command" not in str(error):
            connection.monitor.error_reply(error)
    else:
        hurried = hurried or connection.is_patient or getattr(connection, "is_hurried", False)
        connection.monitor.failure(error, connection._started, hurried=hurried)
    return error


def _adopt_login(connection: Any) -> bool:
    """Let a connection log in with the last password that AUTH has set. Return False if it has done so already."""
    login = connection.monitor.login
    if login is connection._login:
        return False
    connection._login = login
    login.give(connection)
    return True


def _is_overtaken(connection: Any) -> bool:
    """Whether a connection logs in with a password that has been replaced meanwhile. It must then log in again."""
    return connection._handshake_errors is not None and connection._login is not connection.monitor.login


_SETINFO = ("CLIENT", "SETINFO")
_SETNAME = ("CLIENT", "SETNAME")


def _name_for(connection: Any) -> str | None:
    """Return the name of a new connection of this process. A forked child has its own name."""
    connection._named = False
    name: Callable[[], str] | None = connection.monitor.client_name
    return None if name is None else name()


def _refuse_if_forked(connection: Any, generation: int) -> None:
    """Raise ``ConnectionError`` if the process was forked while ``connection`` connected.

    Parent and child then share its socket.
    """
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
    """Return the exception for a connection of the parent process. It is closed here and may connect again."""
    connection._inherited = False
    return redis_exceptions.ConnectionError(_INHERITED)


def let_go_of_pool(pool: Any) -> None:
    """In a forked child: drop what one of redis-py's own pools inherited."""
    inherited = [*pool._available_connections, *pool._in_use_connections]
    if inherited:
        _let_go(inherited)
    pool.reset()


def track(connection: Any) -> None:
    """Let a forked child drop this connection's socket. For connections that are not observed."""
    _open.add(connection)


def _count_opened(connection: Any) -> None:
    connection._opened_at = opened_at = monotonic()
    # Constant for the life of a connection. It differs between connections, so that they do not end together.
    connection.life_share = 0.9 + (hash((id(connection), opened_at)) % 1000) / 10_000
    connection.is_outdated = False
    _open.add(connection)
    connection.monitor.opened(connection)


def borrowed(connection: Any, asked_at: float) -> None:
    """Count how long a caller waited that asked at ``asked_at`` (monotonic seconds). Its use begins."""
    connection._borrowed_at = now = monotonic()
    connection.ends_watch = False
    connection.monitor.times.wait.add(now - asked_at)


def given_back(connection: Any) -> None:
    """Count how long a caller kept the connection, once."""
    if (since := getattr(connection, "_borrowed_at", None)) is not None:
        connection._borrowed_at = None
        connection.monitor.times.use.add(monotonic() - since)


def is_expired(connection: Any, max_lifetime: float | None) -> bool:
    """Whether a connection was retired, has seen an outage, or has reached its lifetime.

    The lifetime is ``max_lifetime`` seconds, or up to a tenth less. After an outage the packets that ended the
    connection may have been lost, and only its next user would notice.
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
    """Whether an event about a returned connection has a listener with work to do.

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


def _after_fork_in_child() -> None:
    """In a forked child: drop the parent's sockets without writing to them or shutting them down.

    Each inherited descriptor is pointed at /dev/null. The number stays taken, so nothing can be closed twice. Objects
    that still hold the socket (a transport, an epoll registration, a finaliser) can no longer touch the parent's
    connection.
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
        # One C call, so that no descriptor opened meanwhile, for example by a signal handler, is affected.
        consume(map(os.dup2, repeat(null), others, repeat(False)))
        if len(others) == len(descriptors):
            os.close(null)
    for connection in inherited:
        connection._inherited = True
        if not hasattr(connection, "_counted"):
            continue  # the connection is not observed
        connection._counted = False
        if connection._handshake_errors is not None:
            connection._handshake_errors.close()
        if getattr(connection, "is_subscribed", False):
            # A subscription subscribes again by itself. Others must raise: their WATCH or transaction is lost.
            connection._parser.on_disconnect()
            connection._sock, connection._inherited = None, False


def _open_null(descriptors: list[int]) -> int:
    """Open /dev/null. At the limit of open files, reuse the first of ``descriptors``."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        os.close(descriptors[0])
        return os.open(os.devnull, os.O_RDWR)


fork.register(_after_fork_in_child, first=True)

_graveyard: list[Any] = []
"""Connections inherited through a fork. Kept so that no finaliser warns about, or closes, the parent's sockets."""


def _descriptor(connection: Any) -> int:
    """Return the number of a connection's socket; -1 if it has no real one."""
    writer = getattr(connection, "_writer", None)
    try:
        held: Any = writer.get_extra_info("socket") if writer is not None else getattr(connection, "_sock", None)
        descriptor = int(held.fileno()) if held is not None else -1
        return descriptor if descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode) else -1
    except (AttributeError, OSError, ValueError):
        return -1
