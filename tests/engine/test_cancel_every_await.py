"""Every await of the engine is cancelled, at once and at the moment it would have gone on; the client survives each.

The await points are counted from the source. Scenarios run under an event loop whose tasks are watched: whenever one
suspends inside the engine, the chain of suspended frames tells which await points that are. Each scenario is run again
and again, each time with the next suspension cancelled. An await that no scenario reaches fails the last test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

import pytest

from tests.support.await_points import POINTS, AwaitPoint, Watch
from tests.support.cancel_scenarios import LOST, SCENARIOS, World
from tests.support.faulty_servers import cluster_node
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, free_port

HANGS = 10.0
MOST_SUSPENSIONS = 200

walked: set[tuple[str, bool]] = set()
cancelled: set[AwaitPoint] = set()

_NOWAIT = "with nowait=True redis-py closes the socket and waits for nothing"
_CONTEXT = "asyncio.timeout itself never suspends, only what it surrounds"
_ALL = "all that it awaits is exempt itself"
_UNITS = "gives back a connection, which a unit does not have"
_BUILDS = "builds a client, without I/O; an async generator's first step up to its yield is all there is to await"

# Since Python 3.12 asyncio.wait_for makes no task, so that sending suspends only when the socket's buffer is full, and
# not even then before 3.12.9 and 3.13.2: https://github.com/python/cpython/issues/127655
SELDOM = (
    {
        "connection/connection_async.py ObservedAsync.send_packed_command: "
        "await super().send_packed_command(*args, **kwargs)",
        "connection/connection_async.py ObservedAsync.send_command: await super().send_command(*args, **kwargs)",
        "connection/connection_async.py ObservedAsync.send_command: "
        "await super().send_command(*_SETNAME, name, **kwargs)",
        "topology/ping_async.py _ping: await connection.send_command('PING', check_health=False)",
    }
    if sys.version_info >= (3, 12)
    else set()
) | {
    # As a rule the read that failed has closed the connection already, and closing it again waits for nothing.
    "client/dedicated.py DedicatedAsync._close_connection: "
    "await super()._close_connection(conn, error, *args, **kwargs)",
    "client/dedicated.py DedicatedAsync._disconnect_raise_on_watching: "
    "await super()._disconnect_raise_on_watching(conn, error, *args, **kwargs)",
    "client/dedicated.py DedicatedAsync._disconnect_reset_raise_on_watching: "
    "await super()._disconnect_reset_raise_on_watching(conn, error, *args, **kwargs)",
}

EXEMPT = {
    "topology/standalone.py PoolSet._check: await self._ping() #2": (
        "follows an exception of a signal handler, which test_lost_checks raises"
    ),
    "pool/pool_async.py AsyncPool.drain: await connection.disconnect(nowait=True)": _NOWAIT,
    "pool/pool_async.py AsyncPool.drain: await connection.disconnect(nowait=True) #2": _NOWAIT,
    "pool/pool_async.py AsyncPool.ready: await connection.disconnect(nowait=True)": _NOWAIT,
    "pool/pool_async.py AsyncPool.release: await connection.disconnect(nowait=True)": _NOWAIT,
    "pool/pool_async.py AsyncPool.release: await connection.disconnect(nowait=True) #2": _NOWAIT,
    "pool/pool_async.py AsyncPool.release: await connection.disconnect(nowait=True) #3": _NOWAIT,
    "connection/connection_async.py ObservedAsync.on_connect_check_health: await self.disconnect(nowait=True)": _NOWAIT,
    "connection/connection_async.py ObservedAsync.read_response: await self.disconnect(nowait=True)": _NOWAIT,
    "connection/connection_async.py ObservedAsync.send_packed_command: await self.disconnect(nowait=True)": _NOWAIT,
    "client/login.py log_in_async: await connection.disconnect(nowait=True)": _NOWAIT,
    "topology/ping_async.py _ping_on_new: await connection.disconnect(nowait=True)": _NOWAIT,
    "topology/ping_async.py _ping_through: await connection.disconnect(nowait=True)": _NOWAIT,
    "connection/read_only.py second_attempt_async: await own.disconnect(nowait=True)": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._make_connection: "
    "await connection.disconnect(nowait=True)": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._renew: await connection.disconnect(nowait=True)": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._renew: await connection.disconnect(nowait=True) #2": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._renew: await connection.disconnect(nowait=True) #3": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._renew: await connection.disconnect(nowait=True) #4": _NOWAIT,
    "multiplex/multiplexer_async.py AsyncMultiplexer._widen: await connection.disconnect(nowait=True)": _NOWAIT,
    "runtime/socket_look.py connect: await connection.disconnect(nowait=True)": _NOWAIT,
    "pool/pool_async.py AsyncPool.ready: await connection.can_read()": (
        "looks at what has been received, waits for nothing"
    ),
    "pool/pool_async.py AsyncPool.release: await self._dispatcher.dispatch_async(event)": "nobody listens to the event",
    "topology/ping_async.py _ping_through: await pool.release(connection)": (
        "all that releasing awaits is exempt itself"
    ),
    "client/pipeline_async.py AsyncPipeline._execute: await self.reset()": _UNITS,
    "client/pipeline_async.py AsyncPipeline._execute: await self.reset() #2": _UNITS,
    "client/pipeline_async.py AsyncPipeline._assert_watched: await connection.check_health()": (
        "redis-py's checks are off"
    ),
    "client/pipeline_async.py AsyncPipeline._execute_transaction: await self._assert_watched(connection)": _ALL,
    "client/dedicated.py DedicatedAsync._close_connection: await conn.disconnect(nowait=True)": _NOWAIT,
    "client/dedicated.py DedicatedAsync._close_spoilt: await conn.disconnect(nowait=True)": _NOWAIT,
    "client/dedicated.py DedicatedAsync._send_command_parse_response: await conn.disconnect(nowait=True)": _NOWAIT,
    "connection/blocking.py AsyncMonitor.__aenter__: await self._give_back()": _ALL,
    "connection/blocking.py AsyncMonitor.__aexit__: await self._give_back()": _ALL,
    "connection/blocking.py AsyncMonitor._give_back: await connection.disconnect(nowait=True)": _NOWAIT,
    "connection/blocking.py AsyncMonitor._give_back: await self.connection_pool.release(connection)": _ALL,
    "client/pipeline_async.py AsyncPipeline.reset: await self._close_spoilt()": _ALL,
    "client/client_async.py AsyncRedis.aclose: await self._close_spoilt()": _ALL,
    "client/dedicated.py DedicatedAsync._disconnect_raise_on_watching: await conn.disconnect(nowait=True)": _NOWAIT,
    "client/dedicated.py DedicatedAsync._disconnect_reset_raise_on_watching: "
    "await conn.disconnect(nowait=True)": _NOWAIT,
    "client/dedicated.py DedicatedAsync._disconnect_reset_raise_on_watching: await self.reset()": (
        "gives back what is closed"
    ),
    "client/pipeline_async.py _unwatch: await connection.disconnect(nowait=True)": _NOWAIT,
    "topology/event_loops.py LoopClient.close: await keeper.aclose()": (
        "the pool has been drained by then, so draining it is instant"
    ),
    "topology/event_loops.py LoopClients.open: await anext(entry.keeper)": _BUILDS,
    "topology/standalone.py PoolSet.open: await self.loops.open()": _BUILDS,
    "topology/standalone.py PoolSet._ping: await self.loops.open()": _BUILDS,
    "topology/standalone.py PoolSet._ping: await self.loops.open() #2": _BUILDS,
    "runtime/blocking_call.py BlockingCall.wait_async: async with asyncio.timeout(timeout):": _CONTEXT,
    "connection/credentials.py _RedactingProvider._await_credentials: "
    "async with asyncio.timeout(self._timeout) as limit:": _CONTEXT,
    "topology/ping_async.py ping: async with asyncio.timeout(timeout):": _CONTEXT,
}
"""What no cancellation can meet, and why."""


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Let the garbage collector look only at what these tests make."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def proxy(server):
    with server.client() as client:
        client.set("k", "v")
        hz = client.config_get("hz")["hz"]
        client.config_set("hz", 500)  # blocking commands end when their time-outs say so, not up to 0.1 s later
        try:
            with Proxy(server.port) as proxy:
                yield proxy
        finally:
            client.config_set("hz", hz)


@pytest.fixture(scope="module")
def elsewhere():
    """Servers that a scenario may lead the proxy to: a replica whose primary is gone, and a node without slots."""
    replica = RedisServer().start()
    try:
        with replica.client() as admin:
            admin.set("k", "v")
            admin.xadd("stream", {"field": "value"})
            admin.replicaof("127.0.0.1", free_port())
        with cluster_node() as node:
            yield {"replica": replica, "node": node}
    finally:
        replica.stop()


def run_once(name, victim, late, server, proxy, elsewhere, pool_settings):
    """Run a scenario with one suspension cancelled; return whether there was one of that number."""
    function, settings = SCENARIOS[name]
    settings = {"SOCKET_TIMEOUT": 2.0, "CLOSE_TIMEOUT": 1.0, **settings}
    host = "localhost" if settings.pop("BY_NAME", False) else "127.0.0.1"
    manager = pool_settings(proxy.url.replace("127.0.0.1", host), **settings)
    watch = Watch(victim, late)
    complaints = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.create_task(function(World(manager, server, proxy, watch, **elsewhere)))
        done, _ = await asyncio.wait([task], timeout=HANGS)
        watch.armed = False
        proxy.heal()
        proxy.target_port = server.port
        assert done, f"hangs after a cancellation at {watch.hit}"
        if watch.hit and watch.cancelled_task is task and watch.delivered and not watch.may_be_swallowed:
            assert task.cancelled(), f"the cancellation at {watch.hit} was swallowed"
        elif not task.cancelled() and (isinstance(task.exception(), AssertionError) or not watch.hit):
            task.result()
        async with asyncio.timeout(HANGS):
            await works(manager)
            await manager.close()
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others, timeout=0.1)
        info = manager.get_pool_info()
        assert info["connections_opened_total"] == info["connections_closed_total"], watch.hit

    with asyncio.Runner(loop_factory=watch.loop) as runner:
        runner.run(main())
    gc.collect(0)
    assert complaints == [], watch.hit
    if watch.delivered:
        cancelled.update(watch.hit)
    return watch.count >= victim


async def works(manager):
    """The client answers, and nothing is left over of what was cancelled."""
    if manager._closed:
        await manager.initialize()
    # A check outlives its cancelled caller, and the scenario may have cut its connection: its verdict comes first.
    while not manager._built().monitor.checks.latest.is_over:
        await asyncio.sleep(0.001)
    for _ in range(200):
        with contextlib.suppress(*LOST):
            client = await manager.get_client()
            break
        await asyncio.sleep(0.01)
    # The loop sees the end of a connection that died meanwhile; a write into it could only end unknown.
    await asyncio.sleep(0.01)
    assert await client.set("after", "wards")
    assert await client.get("after") == b"wards"
    assert await client.pipeline().get("after").execute() == [b"wards"]
    await client.rpush("after all", "x")
    assert await client.blpop("after all", 1)
    for _ in range(500):
        info = manager.get_pool_info()
        in_flight = client.sharing.in_flight if client.sharing is not None else 0
        if info["waiting"] == in_flight == 0 and not client.connection_pool.state.in_use:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"left over: {info}, {in_flight} in flight")


def cancel_at_every_suspension(name, late, server, proxy, elsewhere, pool_settings):
    """Run a scenario as often as it suspends inside the engine, each time with the next suspension cancelled."""
    walked.add((name, late))
    reached = misses = 0
    # Two misses in a row end it: replies that arrive together can save a run a suspension.
    for victim in range(1, MOST_SUSPENSIONS):
        misses = 0 if run_once(name, victim, late, server, proxy, elsewhere, pool_settings) else misses + 1
        reached += not misses
        if misses == 2:
            break
    else:
        raise AssertionError("the scenario does not end")
    gc.collect()
    assert reached, "the scenario never suspends inside the engine"


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.lab)], ids=["at once", "as it goes on"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_cancelling_at_every_suspension_leaves_a_working_client(name, late, server, proxy, elsewhere, pool_settings):
    cancel_at_every_suspension(name, late, server, proxy, elsewhere, pool_settings)


@pytest.mark.lab
def test_every_await_of_the_engine_was_cancelled(server, proxy, elsewhere, pool_settings):
    points = [point for of_module in POINTS.values() for point in of_module]
    names = {point.name for point in points}
    assert len(names) == len(points), "two await points share a name"
    assert EXEMPT.keys() | SELDOM <= names, "these exemptions are for awaits that no longer exist"
    never = names - EXEMPT.keys() - SELDOM

    def left():
        return sorted(never - {point.name for point in cancelled})

    for name in SCENARIOS:
        for late in (False, True):
            if (name, late) not in walked:
                cancel_at_every_suspension(name, late, server, proxy, elsewhere, pool_settings)
    # Some awaits suspend in a race only, so that one walk may miss them.
    for name in [*SCENARIOS, *SCENARIOS]:
        if not left():
            break
        cancel_at_every_suspension(name, False, server, proxy, elsewhere, pool_settings)
    met = {point.name for point in cancelled}
    assert met & EXEMPT.keys() == set(), "these are exempt and were cancelled all the same"
    assert left() == [], "\n".join(left()) + "never cancelled; add a scenario, or an exemption with its reason"
