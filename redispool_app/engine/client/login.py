"""AUTH on a client that many callers share: it changes the password of the same user for all connections of the pool.

The command is first sent on the shared connection. A password is kept for later connections only if the server accepts
it. No command ever runs as another user: AUTH for another user is refused here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from redis.credentials import UsernamePasswordCredentialProvider

from redispool_app.engine.connection.connection_sync import BOUNDED
from redispool_app.engine.connection.credentials import redacting_provider
from redispool_app.engine.errors import LOST
from redispool_app.engine.multiplex.request_sync import first_wait
from redispool_app.engine.protocol.commands import words_of
from redispool_app.engine.protocol.packing import pack
from redispool_app.engine.runtime import threads
from redispool_app.exceptions import CommandRefused

_PATIENCE = 5.0
"""Seconds for AUTH on a shared connection that has no timeout of its own."""


@dataclass(frozen=True)
class Login:
    """Arguments of one AUTH. ``user`` is ``"default"`` if it names none."""

    user: str
    password: Any = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)

    @property
    def words(self) -> tuple[Any, ...]:
        """The command as it is sent."""
        return ("AUTH", *self.args)

    @property
    def names_user(self) -> bool:
        """Whether to name the user.

        A server without a password accepts any password for ``default``, but only with the name.
        """
        return len(self.args) == 2

    def keep(self, kwargs: dict[str, Any]) -> None:
        """Make connections created from ``kwargs`` use the password.

        A project's own provider knows its own password.
        """
        provider = kwargs.get("credential_provider")
        if provider is None:
            kwargs["password"] = self.password
            if self.names_user:
                kwargs["username"] = self.user
        elif type(provider) is UsernamePasswordCredentialProvider:
            provider.password = self.password

    def give(self, connection: Any) -> None:
        """Make ``connection`` use the password when it connects next."""
        if connection.credential_provider is None:
            connection.password = self.password
            if self.names_user:
                connection.username = self.user

    def adopt(self, pool: Any) -> None:
        """Use the password for each new connection of ``pool``, and close existing ones after their use."""
        self.keep(pool.connection_kwargs)
        idle, in_use = getattr(pool, "_available_connections", ()), getattr(pool, "_in_use_connections", ())
        for connection in [*list(idle), *list(in_use)]:
            self.give(connection)
            if hasattr(connection, "is_outdated"):
                connection.is_outdated = True
            else:
                connection.mark_for_reconnect()


def login_of(args: Sequence[Any]) -> Login | None:
    """Return the arguments of an AUTH, name first; None for another command, or one that the server will refuse."""
    words = words_of(args[0])
    if not words or words[0].upper() != b"AUTH":
        return None
    given = (*words[1:], *args[1:])
    if len(given) == 1:
        return Login("default", given[0], given)
    return Login(_text(given[0]), given[1], given) if len(given) == 2 else None


def _text(value: Any) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _user_of(kwargs: dict[str, Any], credentials: Sequence[str] | None) -> str:
    if credentials is not None:
        return credentials[0] if len(credentials) > 1 else "default"
    return kwargs.get("username") or "default"


def _check_user(login: Login, user: str) -> None:
    if login.user != user:
        raise CommandRefused(
            f"AUTH as {login.user!r} would change the user of every caller of this client, which is {user!r}: "
            "use a client, or an alias of REDIS_POOL, for each user."
        )


def _announce(pool: Any, login: Login) -> None:
    monitor = getattr(pool, "monitor", None)
    if monitor is not None:
        monitor.login = login
    login.adopt(pool)
    if monitor is not None:
        monitor.on_login(login, pool)


def _kwargs_with(login: Login, pool: Any) -> dict[str, Any]:
    kwargs = dict(pool.connection_kwargs)
    if kwargs.pop("credential_provider", None) is not None or login.names_user:
        kwargs["username"] = login.user
    kwargs["password"] = login.password
    return kwargs


def _keep_password(connection: Any) -> None:
    """Let a connection try the password it was created with, and not the last accepted one."""
    monitor = getattr(connection, "monitor", None)
    if monitor is not None:
        connection._login = monitor.login


# Blocking.


def log_in(pool: Any, sharing: Any, login: Login) -> Any:
    """Run AUTH for every connection of ``pool``. Return the server's reply.

    Raises ``CommandRefused`` for another user, redis-py's ``AuthenticationError`` for a wrong password, and connection
    errors if no shared connection is open.
    """
    kwargs = pool.connection_kwargs
    provider = kwargs.get("credential_provider")
    asked = None if provider is None else redacting_provider(provider, kwargs.get("socket_timeout")).get_credentials()
    _check_user(login, _user_of(kwargs, asked))
    reply = ask_shared(sharing, login)
    if reply is None:
        connection = BOUNDED.get(pool.connection_class, pool.connection_class)(**_kwargs_with(login, pool))
        _keep_password(connection)
        try:
            connection.connect()
            connection.send_command(*login.words)
            reply = connection.read_response()
        finally:
            connection.disconnect()
    if isinstance(reply, Exception):
        raise reply
    _announce(pool, login)
    return reply


def ask_shared(sharing: Any, login: Login) -> Any:
    """Send AUTH on the threads' shared connection.

    Return its reply, an error as a value; None if no connection is open.
    """
    socket = sharing.connection if sharing is not None else None
    if socket is None or socket.closed:
        return None
    now = monotonic()
    left = sharing.timeout or _PATIENCE
    packed = pack(login.words, sharing.encoder)
    with suppress(*LOST):
        return socket.exchange(packed, 1, now, now + left, first_wait(left), math.inf, quiet=True)[0]
    return None


def ask_shared_soon(sharing: Any, login: Login) -> None:
    """Do the same in a new thread, for a caller that must not wait."""
    if sharing is not None and sharing.connection is not None:
        with suppress(RuntimeError):  # without a thread the connection stays logged in as it is
            threads.start(ask_shared, sharing, login, name="redispool-login")


# For an event loop.


async def log_in_async(pool: Any, sharing: Any, login: Login) -> Any:
    """Async version of ``log_in``."""
    kwargs = pool.connection_kwargs
    provider = kwargs.get("credential_provider")
    asked = None
    if provider is not None:
        asked = await redacting_provider(provider, kwargs.get("socket_timeout")).get_credentials_async()
    _check_user(login, _user_of(kwargs, asked))
    reply = None
    if (sent := send_shared(sharing, login)) is not None:
        with suppress(*LOST):
            (reply,) = await sent
    if reply is None:
        connection = pool.connection_class(**_kwargs_with(login, pool))
        _keep_password(connection)
        try:
            await connection.connect()
            await connection.send_command(*login.words)
            reply = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
    if isinstance(reply, Exception):
        raise reply
    _announce(pool, login)
    return reply


def send_shared(sharing: Any, login: Login) -> asyncio.Future[list[Any]] | None:
    """Send AUTH on the running event loop's shared connection, if there is one."""
    connection = sharing.connection if sharing is not None else None
    if connection is None or connection.closed:
        return None
    future: asyncio.Future[list[Any]] = connection.send_pipeline(
        pack(login.words, sharing.encoder), [False], quiet=True
    )
    return future


def send_shared_soon(sharing: Any, login: Login) -> None:
    """Do the same for a caller that does not wait for the reply."""
    if (sent := send_shared(sharing, login)) is not None:
        sent.add_done_callback(_forget)


def _forget(sent: asyncio.Future[list[Any]]) -> None:
    if not sent.cancelled():
        sent.exception()  # if the connection is lost, the next one uses the new password
