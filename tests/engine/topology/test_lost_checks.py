"""A health check of which an interrupted event loop has lost a step: the callers that wait for it go on."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from redispool_app.engine.runtime.lost_callbacks import note_strike
from redispool_app.engine.topology import standalone
from tests.support.strikes import SoftTimeLimitError

PATIENT = 30.0
"""A time-out that no test reaches, in seconds."""

SOON = 6.0
"""No caller may wait this long, in seconds; generous, for a busy machine."""


@pytest.fixture
def manager(server, pool_settings):
    return pool_settings(server.url, SOCKET_TIMEOUT=PATIENT, HEALTH_CHECK_TIMEOUT=PATIENT)


async def test_callers_go_on_although_the_task_that_checks_never_does(manager, monkeypatch):
    ping, calls = standalone.ping, []

    async def lost_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()
        return await ping(*args)

    monkeypatch.setattr(standalone, "ping", lost_at_first)
    began = monotonic()
    callers = [asyncio.create_task(manager.get_client()) for _ in range(10)]
    await asyncio.sleep(0.05)
    note_strike(SoftTimeLimitError())
    clients = await asyncio.wait_for(asyncio.gather(*callers), SOON)
    assert len({id(client) for client in clients}) == 1
    assert monotonic() - began < SOON
    assert len(calls) == 2, "one caller takes over"


async def test_callers_do_not_queue_behind_a_lock_that_is_never_released(manager):
    client = await manager.get_client()
    manager._last_health_check = -1000.0
    await manager._health_check_lock.acquire()
    assert await asyncio.wait_for(manager.get_client(), SOON) is client


async def test_an_exception_from_outside_is_no_verdict(manager, monkeypatch):
    ping, calls = standalone.ping, []

    async def struck_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise SoftTimeLimitError
        return await ping(*args)

    monkeypatch.setattr(standalone, "ping", struck_at_first)
    await manager.get_client()
    assert (len(calls), manager.get_pool_info()["is_healthy"]) == (2, True)
