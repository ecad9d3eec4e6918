"""Exceptions of the engine. This module imports no other module of the engine."""

from __future__ import annotations

from time import monotonic

from redis import exceptions as redis_exceptions


class ConnectionLostError(redis_exceptions.ConnectionError):
    """The shared connection ended before a command's reply.

    ``written`` says whether the command may have reached the server. ``started`` is when its caller asked (monotonic
    seconds). ``stuck`` says that the connection ended because no data came.
    """

    def __init__(self, message: str, *, written: bool, started: float, stuck: bool = False) -> None:
        super().__init__(message)
        self.written = written
        self.started = started
        self.stuck = stuck


class ReplyTimeoutError(redis_exceptions.TimeoutError):
    """A reply did not come in time. ``written`` and ``started`` are those of ``ConnectionLostError``."""

    def __init__(self, message: str, *, written: bool, started: float) -> None:
        super().__init__(message)
        self.written = written
        self.started = started


class ReplyTooLargeError(ConnectionLostError):
    """A command's reply does not fit in this process's memory.

    The connection is lost: its next reply cannot be found.
    """

    def __init__(
        self, message: str = "The reply does not fit in this process's memory: request less data at once."
    ) -> None:
        super().__init__(message, written=True, started=monotonic())


LostCommandError = ConnectionLostError | ReplyTimeoutError


LOST = (ConnectionLostError, ReplyTimeoutError)


class UnansweredHandshakeError(Exception):
    """A TLS handshake timed out. A server without TLS does not answer one."""


class UnansweredNameError(TimeoutError):
    """No name server has returned the addresses of a host in time."""


class CredentialProviderError(redis_exceptions.AuthenticationError):
    """The project's credential provider has failed. The message names only the type of its exception."""


class UnansweredCredentialsError(CredentialProviderError):
    """The project's credential provider has not answered in time."""
