"""The peers, each with its defaults and nothing but an address: what a project has that has not chosen anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from django.core.cache import caches
from django.core.cache.backends.redis import RedisSerializer
from django_redis import get_redis_connection

from redispool_app.redis_pool import RedisConnectionManager

from .subjects import AsyncEngine, SyncCache


class Engine(AsyncEngine):
    """This project's client for coroutines."""

    name = "redispool, async"
    ours = True
    alias = "engine"
    """Of the pool."""

    def __init__(self, url: str) -> None:
        super().__init__(RedisConnectionManager(self.alias))


class Cache(SyncCache):
    """This project's cache backend, from threads."""

    name = "RedisPoolCache"
    ours = True
    alias = "cache"

    def __init__(self, url: str) -> None:
        super().__init__(RedisConnectionManager(self.alias))


class AsyncioClient(AsyncEngine):
    """redis-py's client for coroutines."""

    name = "redis-py asyncio"
    managed = False
    ours = False
    _client: redis.asyncio.Redis | None = None

    def __init__(self, url: str) -> None:
        self.url = url

    async def client(self) -> redis.asyncio.Redis:
        if self._client is None:
            self._client = redis.asyncio.Redis.from_url(self.url)
        return self._client

    async def leave(self) -> None:
        if self._client is not None:
            await self._client.aclose()


class AsyncioClientByHost(AsyncioClient):
    """The same made from a host and a port, which has other defaults: it tries everything again, ten times."""

    name = "redis-py asyncio, host="

    async def client(self) -> redis.asyncio.Redis:
        if self._client is None:
            parts = urlsplit(self.url)
            self._client = redis.asyncio.Redis(host=parts.hostname, port=parts.port)
        return self._client


class DjangoCache(SyncCache):
    """Django's own cache backend, from threads, each of which has a connection of its own."""

    name = "Django RedisCache"
    managed = False
    ours = False
    alias = "django"
    """In CACHES."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self) -> Any:
        return caches[self.alias]

    def prepare(self, admin: redis.Redis, ledgers: Iterable[str]) -> None:
        # A cache increments only what is there.
        admin.mset({self.client().make_key(key): 0 for key in ledgers})

    def final(self, admin: redis.Redis, keys: Iterable[str]) -> dict[str, Any]:
        keys, loads = list(keys), RedisSerializer().loads
        found = admin.mget([self.client().make_key(key) for key in keys]) if keys else []
        return {key: value and loads(value) for key, value in zip(keys, found, strict=True)}


class DjangoRedisCache(DjangoCache):
    """django-redis, from threads, which share a pool."""

    name = "django-redis"
    alias = "django_redis"

    def leave(self) -> None:
        get_redis_connection(self.alias).connection_pool.disconnect()


WITH_COROUTINES = (Engine, AsyncioClient, AsyncioClientByHost)
WITH_THREADS = (Cache, DjangoCache, DjangoRedisCache)
CONTENDERS = WITH_COROUTINES + WITH_THREADS

_NOT_PLAYING = "redis://127.0.0.1:1"


def pools_of(urls: dict[type, str]) -> dict[str, dict[str, str]]:
    """Return what REDIS_POOL says of the servers that each subject has to itself."""
    return {subject.alias: {"CONNECTION_URL": urls.get(subject, _NOT_PLAYING)} for subject in (Engine, Cache)}


def caches_of(urls: dict[type, str]) -> dict[str, dict[str, str]]:
    """Return what CACHES says of them."""
    backends = {
        DjangoCache: "django.core.cache.backends.redis.RedisCache",
        DjangoRedisCache: "django_redis.cache.RedisCache",
    }
    return {
        "default": {"BACKEND": "redispool_app.cache.RedisPoolCache", "LOCATION": Cache.alias},
        **{
            subject.alias: {"BACKEND": backend, "LOCATION": urls.get(subject, _NOT_PLAYING)}
            for subject, backend in backends.items()
        },
    }
