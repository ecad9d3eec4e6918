"""``get_or_set`` interrupted by each kind of exception: manager, threads and loops go on."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

import redispool_app
from redispool_app.cache.get_or_set import under_way
from tests.support.cache_faces import new_cache
from tests.support.crowd import at_once
from tests.support.interrupts import MOST_POINTS, at_every_point, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.servers import eventually

pytestmark = socket_left_behind

PATIENT = 30.0
"""A time-out that no test reaches, in seconds."""

SOON = 5.0
"""No call may take this long, in seconds."""


class SoftTimeLimitError(Exception):
    """What a worker raises in a task that takes too long."""


KINDS = (KeyboardInterrupt, RecursionError, MemoryError, SoftTimeLimitError)
OURS = {str(path) for path in Path(redispool_app.__file__).parent.rglob("*.py")}
MOST = [pytest.param(12, id="sample"), pytest.param(MOST_POINTS, id="every point", marks=pytest.mark.lab)]


@pytest.fixture
def manager(own_server, pool_settings):
    # The server's own lock of a computation, which an interrupt may leave behind, ends soon.
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, CLOSE_TIMEOUT=0.1)
    manager.get_sync_client().ping()
    return manager


@pytest.fixture
def cache(manager):
    return new_cache(STAMPEDE_WAIT=PATIENT, STAMPEDE_LOCK_TIMEOUT=0.05)


def raiser(kind):
    def act():
        raise kind

    return act


def is_sound(manager, cache, after):
    """Assert that manager, threads and a loop go on, and that nothing is left over."""

    async def in_loop():
        assert await cache.aget_or_set("afterwards", lambda: "w") == "w", after
        return await (await manager.get_client()).ping()

    cache.delete("afterwards")
    assert once(cache) == "v", after
    began = time.monotonic()
    ask = partial(cache.get_or_set, "afterwards", lambda: "w")
    assert at_once([ask, ask, partial(asyncio.run, in_loop())], within=SOON) == ["w", "w", True], after
    eventually(lambda: manager.get_pool_info()["commands_in_flight"] == 0)
    assert manager.get_pool_info()["state"] == "healthy", after
    assert len(under_way) == 0, after
    assert time.monotonic() - began < SOON, after


def once(cache):
    cache.delete("k")
    return cache.get_or_set("k", lambda: "v")


async def once_in_a_loop(cache):
    await cache.adelete("k")
    return await cache.aget_or_set("k", lambda: "v")


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("kind", KINDS)
def test_get_or_set_may_be_interrupted_anywhere(manager, cache, kind, most):
    for running in at_every_point(partial(once, cache), most=most, act=raiser(kind)):
        (outcome,) = at_once([running], within=SOON)
        assert outcome == "v" or isinstance(outcome, BaseException), running.where
        is_sound(manager, cache, running.where)


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("kind", KINDS)
def test_aget_or_set_may_be_interrupted_anywhere(manager, cache, kind, most):
    loop = asyncio.new_event_loop()

    def in_loop():
        return loop.run_until_complete(once_in_a_loop(cache))

    def goes_on():
        for task in asyncio.all_tasks(loop):
            task.cancel()
        return loop.run_until_complete(asyncio.wait_for(once_in_a_loop(cache), SOON))

    def end_loop():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    for running in at_every_point(in_loop, most=most, act=raiser(kind)):
        (outcome,) = at_once([running], within=SOON)
        assert outcome == "v" or isinstance(outcome, BaseException), running.where
        if running.file in OURS or not running.where:
            assert at_once([goes_on], within=SOON) == ["v"], running.where
        else:
            # Inside asyncio itself: nothing can be promised of this loop.
            at_once([end_loop], within=SOON)
            loop = asyncio.new_event_loop()
        is_sound(manager, cache, running.where)
    end_loop()
