"""Caches to test with, one face for their async and their blocking methods, and the pools that they leave behind."""

from __future__ import annotations

import pickle
from contextlib import asynccontextmanager

import pytest

from redispool_app.cache import RedisPoolCache
from redispool_app.cache.keys import LOCK
from redispool_app.conf import cache_pools
from redispool_app.redis_pool import RedisConnectionManager


class Face:
    """One cache, called through its async or its blocking methods; a test awaits either."""

    def __init__(self, cache, blocking):
        self.cache = cache
        self.blocking = blocking

    def __getattr__(self, name):
        if not self.blocking:
            return getattr(self.cache, f"a{name}")

        async def call(*args, **kwargs):
            return getattr(self.cache, name)(*args, **kwargs)

        return call

    async def iter_keys(self, *args, **kwargs):
        if self.blocking:
            return list(self.cache.iter_keys(*args, **kwargs))
        return [key async for key in self.cache.aiter_keys(*args, **kwargs)]

    @asynccontextmanager
    async def lock(self, *args, **kwargs):
        if self.blocking:
            with self.cache.lock(*args, **kwargs) as lock:
                yield lock
        else:
            async with self.cache.alock(*args, **kwargs) as lock:
                yield lock


def new_cache(location="", **params):
    """Make a cache as Django does; keys of ``params`` that CACHES does not know are OPTIONS."""
    known = {"KEY_PREFIX", "KEY_FUNCTION", "VERSION", "TIMEOUT", "OPTIONS", "REVERSE_KEY_FUNCTION"}
    options = {key: value for key, value in params.items() if key not in known}
    entry = {key: value for key, value in params.items() if key in known}
    return RedisPoolCache(location, {**entry, **({"OPTIONS": options} if options else {})})


def pickled(value):
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


@pytest.fixture(params=["async", "sync"])
def face(request):
    """Make a cache's face: ``face(KEY_PREFIX="a")``."""
    return lambda location="", **params: Face(new_cache(location, **params), request.param == "sync")


@pytest.fixture
def at_redis(server):
    """A plain client, to see what is really there."""
    with server.client() as client:
        yield client


@pytest.fixture
def elsewhere(at_redis):
    """Let a caller of another process compute the value of ``k``."""
    at_redis.set(f":1:k{LOCK}", "somebody else's token", px=60_000)
    return at_redis


@pytest.fixture
def url_pools():
    """Forget the pools that caches with a URL as LOCATION make."""
    cache_pools._known.clear()
    yield cache_pools
    for alias in cache_pools._known:
        manager = RedisConnectionManager(alias)
        manager.close_sync()
        manager.reload_settings()
    cache_pools._known.clear()
