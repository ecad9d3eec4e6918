"""Asks a credential provider without delaying other callers, and does not repeat the text of its errors.

A provider's own text may contain secrets, so only the type of its exception is reported. A provider that blocks runs in
a thread of its own, within the connection's timeout. If it takes longer, the error names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from time import monotonic
from typing import Any, cast

from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from redispool_app.engine.errors import CredentialProviderError, UnansweredCredentialsError
from redispool_app.engine.runtime import blocking_call
from redispool_app.engine.runtime.token_stream import ListenedProvider, TokenStream, listened

Credentials = tuple[str] | tuple[str, str]


class _RedactingProvider(CredentialProvider):
    """Wraps a provider. It has ``timeout`` seconds for each answer; None: no limit."""

    def __init__(self, provider: Any, timeout: float | None) -> None:
        if isinstance(provider, ListenedProvider):
            provider.stream.listen()
            provider = provider.provider
        self._provider = provider
        self._timeout = timeout

    def get_credentials(self) -> Credentials:
        if type(self._provider) is UsernamePasswordCredentialProvider:
            return self._known()
        call = blocking_call.begin(id(self._provider), self._provider.get_credentials)
        return self._result(call, call.wait(self._timeout))

    async def get_credentials_async(self) -> Credentials:
        if type(self._provider) is UsernamePasswordCredentialProvider:
            return self._known()
        try:
            if _answers_async(self._provider):
                return await self._await_credentials()
            call = blocking_call.begin(id(self._provider), self._provider.get_credentials)
            has_ended = await call.wait_async(self._timeout)
        except asyncio.CancelledError as error:
            # Also when a health check's deadline cancels it: the cause names what was being waited for.
            raise error from self._unanswered()
        return self._result(call, has_ended)

    def _known(self) -> Credentials:
        """Return credentials that need no waiting."""
        return self._provider.get_credentials()  # type: ignore[no-any-return]

    async def _await_credentials(self) -> Credentials:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                answer = await self._provider.get_credentials_async()
        except Exception as error:
            failure = self._unanswered() if limit.expired() else _told(type(error))
        else:
            return _checked(answer)
        raise failure  # raised here, where it has no context that could be shown

    def _result(self, call: blocking_call.BlockingCall, has_ended: bool) -> Credentials:
        if not has_ended:
            raise self._unanswered()
        if call.error is not None:
            raise _told(type(call.error))
        return _checked(call.value)

    def _unanswered(self) -> UnansweredCredentialsError:
        within = "in time" if self._timeout is None else f"within {self._timeout:.3g} s"
        return UnansweredCredentialsError(f"The credential provider has not answered {within}.")


def redacting_provider(provider: Any, timeout: float | None) -> CredentialProvider:
    """Return a provider that asks ``provider`` within ``timeout`` seconds and repeats no text of its errors."""
    return _RedactingProvider(provider, timeout)


def _answers_async(provider: Any) -> bool:
    """Whether a provider has its own async method. The one of the base class blocks."""
    return getattr(type(provider), "get_credentials_async", None) is not CredentialProvider.get_credentials_async


def _checked(answer: Any) -> Credentials:
    """Return a provider's answer if redis-py can log in with it, or needs no login.

    Raises ``CredentialProviderError``, which names types only: the server's error may repeat a secret.
    """
    if not answer:
        return cast(Credentials, answer)  # redis-py then logs in without credentials
    if isinstance(answer, tuple | list) and len(answer) <= 2 and all(map(_is_word, answer)):
        return cast(Credentials, answer)
    found = type(answer).__name__
    if isinstance(answer, tuple | list):
        found += f" of {', '.join(type(each).__name__ for each in answer)}"
    raise CredentialProviderError(
        f"The credential provider returned a {found}: it must return (password,) or (user, password), as str or bytes."
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview | int | float) and not isinstance(value, bool)


def _told(raised: type[BaseException]) -> CredentialProviderError:
    """Return the exception that callers may see in place of a provider's exception."""
    return CredentialProviderError(f"The credential provider raised {raised.__name__}.")


def unanswered(provider: Any, seconds: float) -> UnansweredCredentialsError | None:
    """Return the exception for a caller that waits for a connection, if it waits for this provider's answer.

    That is so once the provider was asked ``seconds`` ago. A younger question is not what took the time.
    """
    if isinstance(provider, ListenedProvider):
        provider = provider.provider
    began = blocking_call.oldest(id(provider)) if provider is not None else None
    if began is None or began > monotonic() - seconds:
        return None
    return UnansweredCredentialsError("The credential provider has not answered yet.")


@contextlib.contextmanager
def redact_credentials(connection: Any) -> Iterator[None]:
    """Let a connection ask its provider only through a wrapper with a timeout that repeats no text of its errors."""
    # Only for this time: redis-py's pool checks whether the provider is one that streams.
    provider = connection.credential_provider
    if provider:
        left = min(
            connection.socket_connect_timeout or math.inf, getattr(connection, "give_up_at", math.inf) - monotonic()
        )
        connection.credential_provider = _RedactingProvider(provider, None if left == math.inf else max(0.001, left))
    try:
        yield
    except CredentialProviderError as error:
        connection.monitor.failure(error, connection._started)
        raise
    finally:
        connection.credential_provider = provider


# Tokens that arrive while connections are in use.


def tokens_of(pool: Any) -> TokenStream | None:
    """Return the stream of new tokens for ``pool``; None if its provider has none."""
    kwargs = pool.connection_kwargs
    provider = kwargs.get("credential_provider")
    if provider is None:
        return None
    kwargs["credential_provider"] = provider = listened(provider)
    return provider.stream if isinstance(provider, ListenedProvider) else None


def auth_of(token: Any) -> tuple[str, ...]:
    """Return the AUTH command for a token, with the user that it names."""
    user, value = token.try_get("oid"), token.get_value()
    return ("AUTH", user, value) if user else ("AUTH", value)


def mark_dedicated(pool: Any, token: Any) -> None:
    """Let dedicated connections of redis-py's own pool use a token when they are returned.

    This package's are replaced.
    """
    if getattr(pool, "monitor", None) is not None:
        pool.monitor.retire_connections()
        return
    for connection in [*list(pool._available_connections), *list(pool._in_use_connections)]:
        connection.set_re_auth_token(token)
