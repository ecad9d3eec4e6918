"""New tokens of a streaming credential provider, for all their users in this process.

Such a provider (Entra ID, IAM) keeps one callback. Each redis-py client sets its own, so only the last client would get
a token. Here the provider has one callback, which calls all.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Callable, Generator
from types import MethodType
from typing import Any

from redis.credentials import StreamingCredentialProvider

from .hooks import tell

logger = logging.getLogger("redispool_app.pool")

Callback = Callable[[Any], Any]


class _Done:
    """The result of a callback for a provider that may or may not await it."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class TokenStream:
    """The tokens of one provider. Bound methods that are added do not keep their objects alive."""

    def __init__(self, provider: StreamingCredentialProvider) -> None:
        self._provider = weakref.ref(provider)
        self._callbacks: dict[object, tuple[Callable[[], Callback | None], asyncio.AbstractEventLoop | None]] = {}
        self.latest: Any = None
        """The last token; None before the first."""

    def add(self, callback: Callback) -> None:
        """Call ``callback`` with each new token, in the thread that brings it. A coroutine runs on this event loop."""
        loop = asyncio._get_running_loop()
        if isinstance(callback, MethodType):
            key: object = (id(callback.__self__), callback.__func__)
            self._callbacks[key] = weakref.WeakMethod(callback, lambda _: self._callbacks.pop(key, None)), loop
        else:
            self._callbacks[callback] = (lambda: callback), loop
        self.listen()

    def listen(self) -> None:
        """Become the provider's callback, again if another client has replaced it."""
        provider = self._provider()
        if provider is not None:
            provider.on_next(self._receive)
            provider.on_error(self._report)

    def _receive(self, token: Any) -> Any:
        self.latest = token
        for find, loop in list(self._callbacks.values()):
            callback = find()
            if callback is None:
                continue
            try:
                result = callback(token)
                if inspect.iscoroutine(result):
                    _run(result, loop)
            except Exception as error:
                _log("A new token of the credential provider was not used: %s was raised.", error)
        return _DONE

    def _report(self, error: BaseException) -> Any:
        _log("The credential provider reports %s: its present token is used until it expires.", error)
        return _DONE


def _run(coroutine: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is None or not loop.is_running():
        coroutine.close()
        return
    asyncio.run_coroutine_threadsafe(coroutine, loop)


def _log(text: str, error: BaseException) -> None:
    # Only the type: its text may be a secret.
    tell(logger.warning, text, type(error).__name__, extra={"fault_kind": "auth"})


_streams: dict[int, TokenStream] = {}


def stream_of(provider: StreamingCredentialProvider) -> TokenStream:
    """Return the one stream of a provider."""
    key = id(provider)
    stream = _streams.get(key)
    if stream is None:
        weakref.finalize(provider, _streams.pop, key, None).atexit = False
        stream = _streams.setdefault(key, TokenStream(provider))
    return stream


class ListenedProvider(StreamingCredentialProvider):
    """Wraps a streaming provider. If redis-py sets its own callbacks, they are added to the others."""

    def __init__(self, provider: StreamingCredentialProvider) -> None:
        self.provider = provider
        self.stream = stream_of(provider)

    def get_credentials(self) -> Any:
        self.stream.listen()
        return self.provider.get_credentials()

    async def get_credentials_async(self) -> Any:
        self.stream.listen()
        return await self.provider.get_credentials_async()

    def on_next(self, callback: Callback) -> None:
        self.stream.add(callback)

    def on_error(self, callback: Callback) -> None:
        """Do nothing: errors are logged. redis-py's callback would raise them in the provider's thread."""

    def is_streaming(self) -> bool:
        return bool(self.provider.is_streaming())


def listened(provider: Any) -> Any:
    """Return a wrapper of a provider if it streams; otherwise the provider itself."""
    if isinstance(provider, StreamingCredentialProvider) and not isinstance(provider, ListenedProvider):
        return ListenedProvider(provider)
    return provider
