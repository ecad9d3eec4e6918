"""Keeps to itself what a credential provider says when it fails: its words are the project's own, secrets perhaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from redis.credentials import CredentialProvider

from .faults import CredentialProviderError


class _DiscreetProvider(CredentialProvider):
    """Stands in for a provider; of an exception that it raises only the type is told."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            return self._provider.get_credentials()  # type: ignore[no-any-return]
        except Exception as error:
            raised = type(error)
        raise _told(raised)  # out here, where it has no context that could be shown

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        try:
            return await self._provider.get_credentials_async()  # type: ignore[no-any-return]
        except Exception as error:
            raised = type(error)
        raise _told(raised)  # out here, where it has no context that could be shown


def _told(raised: type[Exception]) -> CredentialProviderError:
    """Return what callers may see of a provider's exception."""
    return CredentialProviderError(f"The credential provider raised {raised.__name__}.")


@contextlib.contextmanager
def discreet(connection: Any) -> Iterator[None]:
    """Let a connection ask its provider only through one that repeats nothing."""
    # Not for good: redis-py's pool asks whether the provider is one that streams.
    provider = connection.credential_provider
    if provider:
        connection.credential_provider = _DiscreetProvider(provider)
    try:
        yield
    except CredentialProviderError as error:
        connection.monitor.failure(error, connection._started)
        raise
    finally:
        connection.credential_provider = provider
