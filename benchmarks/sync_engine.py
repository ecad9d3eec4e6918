"""GET by threads through SyncRedis and through redis-py, whole round trips, every value checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial

import redis

from redispool_app.engine import SyncRedis

from .async_engine import fill
from .callers import Values, crew, threads
from .contest import Contest, Effort
from .samples import Series, Situation, Work
from .server import HOST, Server

OURS_SYNC = "SyncRedis"
REDIS_PY_SYNC = "redis-py"
GET_SYNC = Work("sync_get", "GET of {size:,} bytes", "thread", "ops", OURS_SYNC, REDIS_PY_SYNC)
THREADS = (1, 16)


def measure(server: Server, effort: Effort, report: Callable[[Situation], None]) -> list[Situation]:
    """Measure every number of threads; ``report`` gets each block as it is done."""
    values = fill(server, max(THREADS), 100)
    situations = []
    for count in THREADS:
        situations.append(Situation(GET_SYNC, count, asyncio.run(_compare(server, effort, values[:count]))))
        report(situations[-1])
    return situations


async def _compare(server: Server, effort: Effort, values: Values) -> list[Series]:
    with closing(SyncRedis(HOST, server.port)) as ours, closing(redis.Redis(HOST, server.port)) as theirs:
        async with Contest(server, effort) as contest:
            for name, client in ((OURS_SYNC, ours), (REDIS_PY_SYNC, theirs)):
                await contest.enter(name, crew(len(values), partial(getattr, client, "get")), threads(values))
            return await contest.run()
