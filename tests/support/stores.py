"""Stores to test with, and one face for their async and their blocking methods."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from redispool_app.redis_base import RedisBase


class Carts(RedisBase):
    prefix = "carts"


class Visits(RedisBase):
    prefix = "visits"
    default_ttl = 100


class Blobs(RedisBase):
    prefix = "blobs"
    serializer = "bytes"


class Packs(RedisBase):
    prefix = "packs"
    serializer = "msgpack"


class Twin:
    """One store, called through its async or its blocking methods; a test awaits either."""

    def __init__(self, store, blocking):
        self.store = store
        self.blocking = blocking

    def __getattr__(self, name):
        if not self.blocking:
            return getattr(self.store, name)

        async def call(*args, **kwargs):
            return getattr(self.store, f"{name}_sync")(*args, **kwargs)

        return call

    async def scan(self, *args, **kwargs):
        if self.blocking:
            return list(self.store.scan_sync(*args, **kwargs))
        return [key async for key in self.store.scan(*args, **kwargs)]

    @asynccontextmanager
    async def lock(self, *args, **kwargs):
        if self.blocking:
            with self.store.lock_sync(*args, **kwargs) as lock:
                yield lock
        else:
            async with self.store.lock(*args, **kwargs) as lock:
                yield lock


@pytest.fixture(params=["async", "sync"])
def twin(request):
    """Make a store's twin: ``twin(Carts)``."""
    return lambda cls: Twin(cls(), request.param == "sync")


@pytest.fixture
def at_redis(server):
    """A plain client, to see what is really there."""
    with server.client() as client:
        yield client
