"""What is put to the test, each behind the same few operations: the engine for coroutines and for threads, the cache.

A subject is asked for a client as a view would ask, so that a caller also waits for whatever check that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar

import redis
import uvloop
from django.conf import settings
from django.core.cache import caches

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.redis_pool import RedisConnectionManager

CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache", "TIMEOUT": None}}


class AsyncEngine:
    """The manager's client of the running event loop."""

    name = "async engine"
    is_async = True
    managed = True
    """Whether a manager knows of the outage, so that callers fail at once while it lasts."""
    run: ClassVar[Any] = staticmethod(asyncio.run)
    """What runs the event loop of the callers."""

    def __init__(self, manager: RedisConnectionManager) -> None:
        self.manager = manager

    async def client(self) -> Any:
        return await self.manager.get_client()

    async def set(self, client: Any, key: str, value: str) -> None:
        assert await client.set(key, value) is True

    async def get(self, client: Any, key: str) -> str | None:
        return _text(await client.get(key))

    async def incr(self, client: Any, key: str) -> int:
        return await client.incr(key)

    async def leave(self) -> None:
        """Give back what the subject has opened; the manager closes its own."""

    def prepare(self, admin: redis.Redis, ledgers: Iterable[str]) -> None:
        """Let the server have what the subject needs there."""

    def final(self, admin: redis.Redis, keys: Iterable[str]) -> dict[str, Any]:
        """Return what the server holds, read without the subject's help."""
        keys = list(keys)
        return {key: _text(value) for key, value in zip(keys, admin.mget(keys), strict=True)} if keys else {}


class SyncEngine(AsyncEngine):
    """The manager's client for all threads."""

    name = "sync engine"
    is_async = False

    def client(self) -> Any:
        return self.manager.get_sync_client()

    def set(self, client: Any, key: str, value: str) -> None:
        assert client.set(key, value) is True

    def get(self, client: Any, key: str) -> str | None:
        return _text(client.get(key))

    def incr(self, client: Any, key: str) -> int:
        return client.incr(key)

    def leave(self) -> None:
        """Give back what the subject has opened."""


class AsyncCache(AsyncEngine):
    """Django's cache, its coroutines."""

    name = "async cache"

    async def client(self) -> Any:
        return caches["default"]

    async def set(self, client: Any, key: str, value: str) -> None:
        await client.aset(key, value)

    async def get(self, client: Any, key: str) -> str | None:
        return await client.aget(key)

    async def incr(self, client: Any, key: str) -> int:
        return await client.aincr(key)

    def prepare(self, admin: redis.Redis, ledgers: Iterable[str]) -> None:
        # A cache increments only what is there.
        admin.mset({caches["default"].make_key(key): 0 for key in ledgers})

    def final(self, admin: redis.Redis, keys: Iterable[str]) -> dict[str, Any]:
        return {**dict.fromkeys(keys), **caches["default"].get_many(keys)}


class SyncCache(AsyncCache):
    """Django's cache, from threads."""

    name = "sync cache"
    is_async = False

    def client(self) -> Any:
        return caches["default"]

    def set(self, client: Any, key: str, value: str) -> None:
        client.set(key, value)

    def get(self, client: Any, key: str) -> str | None:
        return client.get(key)

    def incr(self, client: Any, key: str) -> int:
        return client.incr(key)

    def leave(self) -> None:
        """The cache's connections are the pool's."""


class AsyncGetOrSet(AsyncCache):
    """The same, but what is stored is computed for whoever misses it: under a lock, and by the cache's own scripts."""

    name = "async get_or_set"

    async def set(self, client: Any, key: str, value: str) -> None:
        assert await client.aget_or_set(key, lambda: value) == value


class SyncGetOrSet(SyncCache):
    """The same from threads."""

    name = "sync get_or_set"

    def set(self, client: Any, key: str, value: str) -> None:
        assert client.get_or_set(key, lambda: value) == value


class AsyncScripts(AsyncEngine):
    """The same, but what counts is a script that the server is to know by its digest."""

    name = "async scripts"

    async def incr(self, client: Any, key: str) -> int:
        return await client.register_script(_COUNT)(keys=[key])


class SyncScripts(SyncEngine):
    """The same from threads."""

    name = "sync scripts"

    def incr(self, client: Any, key: str) -> int:
        return client.register_script(_COUNT)(keys=[key])


class AsyncTransactions(AsyncEngine):
    """The same, but what counts is a transaction with WATCH, on a connection that it has to itself."""

    name = "async transactions"

    async def incr(self, client: Any, key: str) -> int:
        async with client.pipeline() as pipe:
            await pipe.watch(key)
            assert await pipe.exists(key) in (0, 1)
            pipe.multi()
            pipe.incr(key)
            return (await pipe.execute())[0]


class SyncTransactions(SyncEngine):
    """The same from threads."""

    name = "sync transactions"

    def incr(self, client: Any, key: str) -> int:
        with client.pipeline() as pipe:
            pipe.watch(key)
            assert pipe.exists(key) in (0, 1)
            pipe.multi()
            pipe.incr(key)
            return pipe.execute()[0]


class AsyncUvloop(AsyncEngine):
    """The manager's client of an event loop that is not asyncio's own."""

    name = "uvloop engine"
    run: ClassVar[Any] = staticmethod(uvloop.run)


class AsyncAlone(AsyncEngine):
    """A client that a program has made for itself: no manager, no health check."""

    name = "async, no manager"
    managed = False
    _client: AsyncRedis | None = None

    async def client(self) -> Any:
        if self._client is None:
            self._client = AsyncRedis.from_url(**_address())
        return self._client

    async def leave(self) -> None:
        if self._client is not None:
            await self._client.aclose()


class SyncAlone(SyncEngine):
    """The same from threads."""

    name = "sync, no manager"
    managed = False

    def __init__(self, manager: RedisConnectionManager) -> None:
        super().__init__(manager)
        self._client = SyncRedis.from_url(**_address())

    def client(self) -> Any:
        return self._client

    def leave(self) -> None:
        self._client.close()


ENGINES = (AsyncEngine, SyncEngine)
CACHE_FACES = (AsyncCache, SyncCache)
GET_OR_SET = (AsyncGetOrSet, SyncGetOrSet)
SCRIPTS = (AsyncScripts, SyncScripts)
TRANSACTIONS = (AsyncTransactions, SyncTransactions)
ALONE = (AsyncAlone, SyncAlone)

_COUNT = "return redis.call('INCR', KEYS[1])"


def _address() -> dict[str, Any]:
    keys = settings.REDIS_POOL
    names = {"CONNECTION_URL": "url", "SOCKET_TIMEOUT": "socket_timeout"}
    return {names[key]: keys[key] for key in names} | {"socket_connect_timeout": keys["SOCKET_CONNECT_TIMEOUT"]}


def _text(reply: Any) -> str | None:
    return None if reply is None else reply.decode()
