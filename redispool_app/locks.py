"""redis-py's locks on a manager's client of the moment: a reset of the pool ends neither holding nor waiting."""

from __future__ import annotations

from typing import Any

import redis.asyncio.lock
import redis.lock

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
