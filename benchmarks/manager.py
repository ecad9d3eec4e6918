"""What the manager itself costs: a healthy ``get_client()``, and a refusal while Redis is down.

Run with ``make bench``. Each figure is the median of several rounds that alternate with the thing it is compared to,
in one process on one server, because a shared machine is never the same twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable

import django
from django.conf import settings
from redis.exceptions import RedisError

ROUNDS = 9
CALLS = 100_000


async def constant() -> int:
    return 1


async def seconds_per_call(function: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        await function()
    return (time.perf_counter() - started) / CALLS


async def main() -> None:
    from redispool_app.redis_pool import redis_connection_manager as manager

    client = await manager.get_client()
    server = (await client.info("server"))["process_id"]

    plain, managed = [], []
    for _ in range(ROUNDS):
        plain.append(await seconds_per_call(constant))
        managed.append(await seconds_per_call(manager.get_client))
    difference = statistics.median(managed) - statistics.median(plain)
    print(f"async def that returns a constant  {statistics.median(plain) * 1e6:7.3f} µs")
    healthy = statistics.median(managed)
    print(f"healthy await get_client()         {healthy * 1e6:7.3f} µs  (+{difference * 1e6:.3f} µs)")

    os.kill(server, signal.SIGSTOP)
    try:
        started = time.perf_counter()
        try:
            await client.get("x")
        except RedisError as error:
            waited = time.perf_counter() - started
            print(f"first failure after                {waited:7.3f} s   ({type(error).__name__})")
        waits = []
        for _ in range(20_000):
            started = time.perf_counter()
            try:
                await manager.get_client()
            except RedisError:
                waits.append(time.perf_counter() - started)
        cuts = statistics.quantiles(waits, n=1000)
        print(
            f"refusals while it lasts            median {cuts[499] * 1e6:.1f} µs, p99 {cuts[989] * 1e6:.1f} µs, "
            f"p99.9 {cuts[998] * 1e6:.1f} µs of {len(waits)}"
        )
    finally:
        os.kill(server, signal.SIGCONT)
    started = time.perf_counter()
    while not manager._is_healthy:
        await asyncio.sleep(0.001)
    print(f"recovered after                    {time.perf_counter() - started:7.3f} s")
    await manager.close()


if __name__ == "__main__":
    settings.configure(
        REDIS_POOL={"CONNECTION_URL": f"embedded://bench-{os.getpid()}"}, INSTALLED_APPS=["redispool_app"], USE_TZ=True
    )
    django.setup()
    asyncio.run(main())
