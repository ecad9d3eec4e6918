"""The async engine, struck at each point: no reply goes to another caller, no caller waits, and the loop goes on.

Struck is what a client's call does, the end of a tick, the hand-out of replies, timers, connecting and closing; with
``KeyboardInterrupt``, a soft time limit, ``RecursionError`` and ``MemoryError``; on asyncio, uvloop and eager tasks.
A ``KeyboardInterrupt`` ends the run of the loop: it is run again for the callers that are left.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from time import monotonic

import pytest

from redispool_app.engine.errors import ReplyTooLargeError
from redispool_app.exceptions import OutcomeUnknown
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.interrupts import socket_left_behind
from tests.support.loop_strikes import KINDS, LOOPS, Strike
from tests.support.proxy import Proxy
from tests.support.strike_scenarios import AT_ONCE, KEYS, LONG, SCENARIOS, World, hasty, some

pytestmark = socket_left_behind

MOST = 150
"""Points of one scenario that are struck, spread over all; of one that takes long a quarter."""

SAMPLE = 6
"""The same in the normal test run."""


@pytest.fixture(scope="module")
def stocked(shared_server):
    with shared_server.client() as admin:
        admin.mset(KEYS)
    return shared_server


@pytest.fixture
def proxy(stocked):
    with Proxy(stocked.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def surplus_closed_soon():
    with hasty():
        yield


@pytest.fixture
def world(stocked, proxy, request):
    loop = LOOPS[request.param]()
    world = World(loop, stocked.url, proxy)
    yield world
    world.close()


def each_gets_its_own(world, name, strike):
    """Run a scenario once under fire; afterwards run what is left, and new callers on the same clients."""
    world.proxy.heal()
    callers = SCENARIOS[name](world)
    tasks = []

    async def under_fire():
        tasks.extend(asyncio.ensure_future(caller()) for caller in callers)
        await asyncio.wait(tasks, timeout=AT_ONCE)

    started, ended = monotonic(), None
    with strike:
        try:
            world.loop.run_until_complete(under_fire())
        except BaseException as error:
            ended = error
            if strike.where == "" or not isinstance(error, strike.kind):
                raise
    if tasks:
        world.run(asyncio.wait(tasks, timeout=AT_ONCE))
    where = f"after {strike.kind.__name__} at {strike.where}"
    assert all(task.done() for task in tasks), f"{sum(not t.done() for t in tasks)} callers wait {where}"
    assert monotonic() - started < AT_ONCE, f"a caller waited {where}"
    judge(tasks, strike, where, ended)
    world.proxy.heal()
    for client in list(world.clients.values()):
        again = [world.loop.create_task(caller()) for caller in some(client)]
        world.run(asyncio.wait(again, timeout=AT_ONCE))
        assert all(task.done() for task in again), f"later callers wait {where}"
        for task in again:
            value, right = task.result()
            assert value == right, where
    assert world.run(world.comes_to_rest(counts_sockets=not strike.connects)), f"{world.state} {where}"


def judge(tasks, strike, where, ended):
    """Assert that each caller has its own value, but for one that met the exception itself."""
    met = 0
    for task in tasks:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            value, right = task.result()
            assert value == right, where
        elif isinstance(error, strike.kind) or (strike.kind is MemoryError and isinstance(error, ReplyTooLargeError)):
            met += 1
        else:
            assert isinstance(error, OutcomeUnknown), f"{error!r} {where}"
    assert met <= 1, f"{met} callers met one exception {where}"


def struck_everywhere(world, name, kind, most):
    # Twice: the second connection of a client takes other steps than its first.
    for _ in range(2):
        counting = Strike(0, kind)
        each_gets_its_own(world, name, counting)
    if name in LONG:
        most = max(3, most // 4)
    step = max(1, counting.count // most)
    struck = 0
    # Other points of each scenario: those of the same function come early in all.
    for victim in range(1 + zlib.crc32(f"{name} {kind.__name__}".encode()) % step, counting.count + 1, step):
        strike = Strike(victim, kind)
        each_gets_its_own(world, name, strike)
        struck += bool(strike.where)  # not every run has as many points
    assert struck > 1, "nothing was struck"


@pytest.mark.lab
@pytest.mark.parametrize("world", LOOPS, indirect=True)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_exception_at_any_point_harms_its_own_caller_only(world, name, kind):
    struck_everywhere(world, name, kind, MOST)


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_exception_at_some_points_harms_its_own_caller_only(stocked, proxy, name):
    ways = itertools.cycle(LOOPS)
    for kind in KINDS:
        world = World(LOOPS[next(ways)](), stocked.url, proxy)
        try:
            struck_everywhere(world, name, kind, SAMPLE)
        finally:
            world.close()
