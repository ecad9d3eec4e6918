"""The clients under comparison, each used as its own documentation says: one client, which shares as it sees fit.

Each contender is an async context manager that yields a coroutine function: key in, value out. One that is not
installed is left out of the measurement and named in the table.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata

from .callers import AsyncGet
from .server import HOST

OURS = "AsyncRedis"
REDIS_PY = "redis-py asyncio"
COREDIS = "coredis"
GLIDE = "valkey-glide"


@asynccontextmanager
async def asyncredis(port: int, callers: int) -> AsyncIterator[AsyncGet]:
    from redispool_app.engine import AsyncRedis

    client = AsyncRedis(host=HOST, port=port, max_connections=max(100, callers))
    try:
        yield client.get
    finally:
        await client.aclose()


@asynccontextmanager
async def redis_py(port: int, callers: int) -> AsyncIterator[AsyncGet]:
    import redis.asyncio

    # It needs a connection for every caller and refuses one more than max_connections.
    client = redis.asyncio.Redis(host=HOST, port=port, max_connections=max(100, callers))
    try:
        yield client.get
    finally:
        await client.aclose()


@asynccontextmanager
async def coredis(port: int, callers: int) -> AsyncIterator[AsyncGet]:
    import coredis

    async with coredis.Redis(host=HOST, port=port) as client:
        yield client.get


@asynccontextmanager
async def valkey_glide(port: int, callers: int) -> AsyncIterator[AsyncGet]:
    from glide import GlideClient, GlideClientConfiguration, NodeAddress

    # Its default of 250 ms is meant for production; here nothing may time out.
    configuration = GlideClientConfiguration([NodeAddress(HOST, port)], request_timeout=5000)
    client = await GlideClient.create(configuration)
    try:
        yield client.get
    finally:
        await client.close()


@dataclass(frozen=True)
class Peer:
    name: str
    distribution: str
    connect: Callable[[int, int], AbstractAsyncContextManager[AsyncGet]]

    @property
    def absent(self) -> str:
        """Why it cannot take part, or nothing."""
        return "" if installed_version(self.distribution) else "not installed"


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


PEERS = (
    Peer(OURS, "redis", asyncredis),
    Peer(REDIS_PY, "redis", redis_py),
    Peer(COREDIS, "coredis", coredis),
    Peer(GLIDE, "valkey-glide", valkey_glide),
)
