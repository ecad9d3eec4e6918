"""Exceptions of the engine. They depend on no other module of it."""

from __future__ import annotations

from time import monotonic

from redis import exceptions as redis_exceptions


class ConnectionLostError(redis_exceptions.ConnectionError):
    """The shared connection ended before a command's reply.

    ``written`` says whether the command may have reached the server, ``started``
    when its caller asked (monotonic seconds), ``stuck`` that it ended because nothing came.
    """

    def __init__(self, message: str, *, written: bool, started: float, stuck: bool = False) -> None:
        super().__init__(message)
        self.written = written
        self.started = started
        self.stuck = stuck


class ReplyTimeoutError(redis_exceptions.TimeoutError):
    """A reply did not come in time; ``written`` and ``started`` are those of ``ConnectionLostError``."""

    def __init__(self, message: str, *, written: bool, started: float) -> None:
        super().__init__(message)
        self.written = written
        self.started = started


class ReplyTooLargeError(ConnectionLostError):
    """This process has no memory for a command's reply, which cost the connection: its next reply begins nowhere."""

    def __init__(self, message: str = "This process has no memory for the reply: ask for less at once.") -> None:
        super().__init__(message, written=True, started=monotonic())


LostCommandError = ConnectionLostError | ReplyTimeoutError


LOST = (ConnectionLostError, ReplyTimeoutError)


class UnansweredHandshakeError(Exception):
    """Marks a time-out while a TLS connection was being made: a server without TLS keeps its client waiting."""


class UnansweredNameError(TimeoutError):
    """No name server has said in time which addresses a host has."""


class CredentialProviderError(redis_exceptions.AuthenticationError):
    """The project's credential provider has failed; the message names the type of its exception and nothing else."""


class UnansweredCredentialsError(CredentialProviderError):
    """The project's credential provider has not answered in time."""
