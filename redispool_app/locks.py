"""redis-py's locks on a manager's client of the moment: a reset of the pool ends neither holding nor waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Self
from uuid import uuid4

import redis.asyncio.lock
import redis.lock
from redis import exceptions as redis_exceptions

from .engine import AsyncRedis, SyncRedis
from .redis_pool import RedisConnectionManager


class SyncLock(redis.lock.Lock):
    """``redis.lock.Lock`` that asks its manager for the client with every command.

    ``arguments`` are those of redis-py's lock; times are in seconds. Raises ``RedisUnavailable`` and its kin.
    """

    def __init__(self, manager: RedisConnectionManager, arguments: dict[str, Any]) -> None:
        self._manager = manager
        super().__init__(manager.get_sync_client(), **arguments)

    @property
    def redis(self) -> SyncRedis:
        """The manager's blocking client of the moment."""
        return self._manager.get_sync_client()

    @redis.setter
    def redis(self, client: SyncRedis) -> None:
        # redis-py's constructor sets what would be the client for good.
        pass


class AsyncLock(redis.asyncio.lock.Lock):
    """The twin of ``SyncLock``; ``client`` is the running event loop's, which only a coroutine can ask for."""

    def __init__(self, manager: RedisConnectionManager, client: AsyncRedis, arguments: dict[str, Any]) -> None:
        self._manager = manager
        super().__init__(client, **arguments)

    async def do_acquire(self, token: str | bytes) -> bool:
        await self._find_client()
        return await super().do_acquire(token)

    async def do_release(self, expected_token: bytes) -> None:
        await self._find_client()
        await super().do_release(expected_token)

    async def do_extend(self, additional_time: Any, replace_ttl: Any) -> Any:
        await self._find_client()
        return await super().do_extend(additional_time, replace_ttl)

    async def do_reacquire(self) -> Any:
        await self._find_client()
        return await super().do_reacquire()

    async def locked(self) -> bool:
        await self._find_client()
        return await super().locked()

    async def owned(self) -> bool:
        await self._find_client()
        return await super().owned()

    async def _find_client(self) -> None:
        self.redis = await self._manager.get_client()


class AsyncCacheLock:
    """A lock for ``async with``; its methods are those of ``redis.asyncio.lock.Lock``.

    Making one does no I/O. ``await`` on the object itself returns it, so that both ``cache.alock(...)`` and
    ``await cache.alock(...)`` are locks.
    """

    def __init__(self, manager: RedisConnectionManager, arguments: dict[str, Any]) -> None:
        self._manager = manager
        self._arguments = arguments
        self._lock: AsyncLock | None = None

    def __await__(self) -> Generator[Any, Any, Self]:
        return self
        yield  # never reached; it makes a generator of this

    async def __aenter__(self) -> Self:
        if await self.acquire():
            return self
        name, waited = self._arguments["name"], self._arguments["blocking_timeout"]
        raise redis_exceptions.LockError(
            f"The lock {name!r:.80} was not free within {waited} s: try again later or raise blocking_timeout.",
            lock_name=name,
        )

    async def __aexit__(self, *error: object) -> None:
        await self.release()

    async def acquire(
        self, blocking: bool | None = None, blocking_timeout: float | None = None, token: str | bytes | None = None
    ) -> bool:
        """Return whether the lock was got; times are in seconds. Cancelled callers leave none behind."""
        lock = await self._current()
        token = token or uuid4().hex
        try:
            acquired: bool = await lock.acquire(blocking=blocking, blocking_timeout=blocking_timeout, token=token)
        except asyncio.CancelledError:
            # The server may have granted what this caller no longer wants.
            with suppress(redis_exceptions.RedisError):
                await lock.do_release(token.encode() if isinstance(token, str) else token)
            raise
        return acquired

    async def release(self) -> None:
        """Give the lock back. Raises ``LockNotOwnedError`` when it expired meanwhile, ``LockError`` when not held."""
        await (await self._current()).release()

    async def extend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Add seconds to the time that the server keeps the lock, or set that time again."""
        return await (await self._current()).extend(additional_time, replace_ttl)

    async def reacquire(self) -> bool:
        """Set the lock's time to its ``timeout`` again."""
        return await (await self._current()).reacquire()

    async def locked(self) -> bool:
        """Return whether anybody holds the lock."""
        return await (await self._current()).locked()

    async def owned(self) -> bool:
        """Return whether this object holds the lock."""
        return await (await self._current()).owned()

    async def _current(self) -> AsyncLock:
        if self._lock is None:
            self._lock = AsyncLock(self._manager, await self._manager.get_client(), self._arguments)
        return self._lock
