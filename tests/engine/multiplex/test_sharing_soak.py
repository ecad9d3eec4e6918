"""Full load with cuts every moment: no wrong reply, and descriptors, tasks and memory stay flat.

A few seconds always; ``REDISPOOL_SOAK=300`` in the environment adds a run of 300 seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy

LOST = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)
CALLERS = 200
MEGABYTE = 1024 * 1024
LONG = float(os.environ.get("REDISPOOL_SOAK", "0"))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def resident_memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Owner:
    """A caller with a key of its own, which knows every value that the key can have."""

    def __init__(self, client, name):
        self.client = client
        self.key = f"soak:{name}"
        self.rng = random.Random(name)
        self.possible = {None}
        self.turn = 0
        self.replies = 0
        self.wrong = []

    async def run(self, ended):
        while not ended.is_set():
            try:
                await self.step()
            except LOST:
                await asyncio.sleep(0.001)

    async def step(self):
        kind = self.rng.random()
        if kind < 0.6:
            self.saw(await self.client.get(self.key))
        elif kind < 0.7:
            with contextlib.suppress(TimeoutError):
                # Sometimes too short, so that the reply comes to nobody.
                async with asyncio.timeout(self.rng.random() * 0.02):
                    self.saw(await self.client.get(self.key))
        elif kind < 0.85:
            await self.write(lambda value: self.client.set(self.key, value))
        else:
            await self.write(lambda value: self.client.pipeline().set(self.key, value).get(self.key).execute())

    async def write(self, send):
        self.turn += 1
        value = f"{self.key}={self.turn}".encode()
        try:
            reply = await send(value)
        except OutcomeUnknown:
            self.possible.add(value)
            raise
        self.possible = {value}
        if isinstance(reply, list):
            self.saw(reply[1])

    def saw(self, value):
        self.replies += 1
        if value in self.possible:
            self.possible = {value}
        else:
            self.wrong.append((value, self.possible))


async def soak(proxy, seconds, pause):
    """Run the load; return the owners and the samples (descriptors, tasks, resident bytes), one for each cut."""
    loop = asyncio.get_running_loop()
    samples = []
    async with AsyncRedis.from_url(proxy.url, socket_timeout=5) as client:
        owners = [Owner(client, number) for number in range(CALLERS)]
        ended = asyncio.Event()
        callers = [asyncio.create_task(owner.run(ended)) for owner in owners]
        until = loop.time() + seconds
        rng = random.Random(3)
        while loop.time() < until:
            await asyncio.sleep(pause * rng.uniform(0.5, 1.5))
            samples.append((descriptors(), len(asyncio.all_tasks()), resident_memory()))
            proxy.cut(reset=rng.random() < 0.5)
        ended.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*callers)
        assert client.sharing.in_flight == 0
        for owner in owners:
            owner.saw(await client.get(owner.key))
    return owners, samples


async def check(server, seconds, pause, growth):
    with server.client() as admin:
        admin.flushall()
    with Proxy(server.port) as proxy:
        before, tasks_before = descriptors(), len(asyncio.all_tasks())
        owners, samples = await soak(proxy, seconds, pause)
        while proxy.connections:
            await asyncio.sleep(0.01)
        assert descriptors() <= before
        assert len(asyncio.all_tasks()) == tasks_before
        assert proxy.cuts > seconds / pause / 3, "too few cuts have hit"
    assert [wrong for owner in owners for wrong in owner.wrong] == []
    assert sum(owner.replies for owner in owners) > CALLERS * seconds
    assert min(owner.replies for owner in owners) > 0, "somebody starved"
    # One connection through the proxy has three descriptors; one more may be on its way out or in.
    assert max(each for each, _, _ in samples) <= before + 6
    assert max(each for _, each, _ in samples) <= tasks_before + CALLERS + 2
    settled = samples[len(samples) // 3][2]
    gc.collect()
    assert samples[-1][2] - settled < growth


# REDISPOOL_SOAK=300 adds five minutes with cuts every few seconds.
@pytest.mark.parametrize(("seconds", "pause"), [(3, 0.15), *([(LONG, 3)] if LONG else [])])
async def test_load_and_cuts_leave_everything_flat(server, seconds, pause):
    await check(server, seconds=seconds, pause=pause, growth=50 * MEGABYTE)
