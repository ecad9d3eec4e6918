"""Stages of several servers, and subjects that find their way there: under Sentinels."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio.sentinel
import redis.sentinel

from redispool_app.engine import AsyncRedis, SyncRedis
from tests.support.servers import eventually

from .faults import Fault
from .servers import LabServer, Watched
from .subjects import AsyncEngine, SyncEngine

_TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "protocol": 2}


class SentinelStage:
    """What ``play`` needs of a stage; the laboratory's own client follows the primary."""

    connects = None
    """Not counted: the laboratory itself asks there all the time."""
    lookups: tuple[float, ...] = ()

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    @property
    def server(self) -> LabServer:
        return self.watched.primary

    def admin(self) -> redis.Redis:
        return self.server.client()


class PrimaryKilled(Fault):
    """The primary dies and stays dead; healed is when the Sentinels agree on another that takes writes."""

    name = "primary killed, Sentinels fail over"
    outage = False
    hold = 0.5

    def strike(self) -> None:
        self._dead = self.server
        with self._dead.client() as admin:
            admin.incr("replicated")
            assert admin.wait(2, 2000) == 2
        self._dead.kill()

    def heal(self) -> None:
        eventually(self._replaced, 20)

    def _replaced(self) -> bool:
        primary = self.stage.watched.primary
        if primary is self._dead:
            return False
        with primary.client() as admin:
            return admin.info("replication")["role"] == "master"


class AsyncSentinel(AsyncEngine):
    """A client of the primary, found by redis-py's Sentinel, on the engine's shared connection."""

    name = "async, Sentinel"
    managed = False
    _client: Any = None

    def __init__(self, watched: Watched) -> None:
        self.finder = redis.asyncio.sentinel.Sentinel(watched.addresses, **_TIMEOUTS)

    async def client(self) -> Any:
        if self._client is None:
            self._client = self.finder.master_for(Watched.name, redis_class=AsyncRedis, **_TIMEOUTS)
        return self._client

    async def leave(self) -> None:
        await self._client.aclose()
        for each in self.finder.sentinels:
            await each.aclose()


class SyncSentinel(SyncEngine):
    """The same for threads."""

    name = "sync, Sentinel"
    managed = False

    def __init__(self, watched: Watched) -> None:
        self.finder = redis.sentinel.Sentinel(watched.addresses, **_TIMEOUTS)
        self._client = self.finder.master_for(Watched.name, redis_class=SyncRedis, **_TIMEOUTS)

    def client(self) -> Any:
        return self._client

    def leave(self) -> None:
        self._client.close()
        for each in self.finder.sentinels:
            each.close()


SENTINELS = (AsyncSentinel, SyncSentinel)
