"""A command that may block waits for its own timeout and SOCKET_TIMEOUT; its silence says nothing about the server."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import threading
from operator import methodcaller as do
from time import monotonic

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.blocking import wait_of
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy
from tests.support.servers import eventually
from tests.support.twin_clients import Failure, assert_same, assert_same_sync

TIMEOUT = 1.0
"""SOCKET_TIMEOUT of these tests, in seconds."""

WAIT = 2.0
"""For so many seconds the commands block: longer than that."""

HANGS = 20.0


class Caller:
    """Calls a client of a manager from a coroutine, whichever kind the client is."""

    def __init__(self, manager, kind):
        self.manager = manager
        self.kind = kind
        self.client = None

    async def open(self):
        if self.kind == "sync":
            await asyncio.to_thread(self.manager.initialize_sync)
            self.client = self.manager.get_sync_client()
        else:
            await self.manager.initialize()
            self.client = await self.manager.get_client()
        return self

    async def __call__(self, call):
        if self.kind == "sync":
            return await asyncio.to_thread(call, self.client)
        return await call(self.client)

    @property
    def pool(self):
        return self.client.connection_pool

    def history(self):
        return [change["state"] for change in self.manager.health_history()]

    def assert_nothing_noticed(self):
        """The server is healthy and was so all the time; no command was slow, nothing timed out."""
        assert self.history() == ["healthy"]
        info = self.manager.get_pool_info()
        assert (info["timeouts_total"], info["errors_total"]) == (0, 0)
        assert self.manager.slow_commands() == []


@pytest.fixture(params=["async", "sync"])
def kind(request):
    return request.param


@pytest.fixture
def settings_of(pool_settings):
    def make(url, **keys):
        keys = {"SOCKET_TIMEOUT": TIMEOUT, "SLOW_COMMAND": 0.5, "MAX_CONNECTIONS": 30, **keys}
        return pool_settings(url, **keys)

    return make


@pytest.fixture
def caller(own_server, settings_of, kind):
    return Caller(settings_of(own_server.url), kind)


def group(client):
    return client.xreadgroup("g", "me", {"s": ">"}, block=int(WAIT * 1000))


BLOCKING_CALLS = {
    "BLPOP": do("blpop", ["none"], timeout=WAIT),
    "BRPOP as text": do("execute_command", "BRPOP", "none", str(WAIT)),
    "BRPOPLPUSH": do("brpoplpush", "none", "other", timeout=int(WAIT)),
    "BLMOVE": do("blmove", "none", "other", WAIT),
    "BLMPOP": do("blmpop", WAIT, 1, "none", direction="LEFT"),
    "BZPOPMIN": do("bzpopmin", "none", timeout=WAIT),
    "BZPOPMAX in bytes": do("execute_command", b"bzpopmax", b"none", b"%d" % WAIT),
    "BZMPOP": do("bzmpop", WAIT, 1, ["none"], min=True),
    "XREAD": do("xread", {"s": "$"}, block=int(WAIT * 1000)),
    "XREAD in one name": do("execute_command", "XREAD BLOCK", int(WAIT * 1000), "STREAMS", "s", "$"),
    "XREADGROUP": group,
}


async def test_commands_wait_for_their_own_timeout(caller, own_server):
    await caller.open()
    with own_server.client() as admin:
        admin.xgroup_create("s", "g", mkstream=True)

    async def timed(call):
        started = monotonic()
        reply = await caller(call)
        return reply, monotonic() - started

    outcomes = await asyncio.gather(*(timed(call) for call in BLOCKING_CALLS.values()))
    for name, (reply, waited) in zip(BLOCKING_CALLS, outcomes, strict=True):
        assert not reply, name
        assert WAIT * 0.9 < waited < HANGS, name
    caller.assert_nothing_noticed()


FOREVER = {
    "BLPOP": do("blpop", ["q"], timeout=0),
    "BLMPOP": do("blmpop", 0, 1, "r", direction="LEFT"),
    "BZPOPMIN": do("bzpopmin", "z", timeout=0),
    "XREAD": do("xread", {"s": "$"}, block=0),
}


async def test_zero_waits_for_ever_on_connections_that_the_kernel_keeps_alive(own_server, settings_of, kind):
    caller = await Caller(settings_of(own_server.url, SOCKET_KEEPALIVE=False), kind).open()
    waiting = [asyncio.ensure_future(caller(call)) for call in FOREVER.values()]
    await asyncio.to_thread(eventually, lambda: int(own_server.info("clients")["blocked_clients"]) == len(FOREVER))
    await asyncio.sleep(TIMEOUT * 2.5)
    assert not any(each.done() for each in waiting)
    for connection in caller.pool.state.in_use:
        held = getattr(connection, "_sock", None) or connection._writer.get_extra_info("socket")
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    with own_server.client() as admin:
        admin.rpush("q", 1)
        admin.rpush("r", 1)
        admin.zadd("z", {"m": 1})
        admin.xadd("s", {"f": "v"})
    for reply in await asyncio.wait_for(asyncio.gather(*waiting), HANGS):
        assert reply
    caller.assert_nothing_noticed()
    connections = list(caller.pool.state.idle)
    assert connections
    for connection in connections:
        held = getattr(connection, "_sock", None)
        assert (held.gettimeout() if held is not None else connection.socket_timeout) == TIMEOUT


async def test_in_a_pipeline_each_command_has_its_own_patience(caller):
    await caller.open()
    pipe = caller.client.pipeline(transaction=False)
    pipe.set("k", "v").blpop("none", timeout=WAIT).get("k").blpop("none", timeout=WAIT).get("k")
    assert await caller(lambda _: pipe.execute()) == [True, None, b"v", None, b"v"]
    caller.assert_nothing_noticed()


async def test_in_a_transaction_nothing_blocks(caller):
    await caller.open()
    started = monotonic()
    pipe = caller.client.pipeline()
    pipe.set("k", "v").blpop("none", timeout=60).get("k")
    assert await caller(lambda _: pipe.execute()) == [True, None, b"v"]
    assert monotonic() - started < HANGS
    caller.assert_nothing_noticed()


async def test_between_watch_and_multi_a_command_may_block(caller):
    await caller.open()
    pipe = caller.client.pipeline()
    await caller(lambda _: pipe.watch("k"))
    assert await caller(lambda _: pipe.blpop("none", timeout=WAIT)) is None
    pipe.multi()
    pipe.set("k", "v")
    assert await caller(lambda _: pipe.execute()) == [True]
    caller.assert_nothing_noticed()


async def test_a_client_of_a_single_connection_may_block(caller):
    await caller.open()
    single = await caller(
        lambda client: asyncio.sleep(0, client.client()) if caller.kind == "async" else client.client()
    )
    assert await caller(lambda _: single.blpop(["none"], timeout=WAIT)) is None
    await caller(lambda _: single.aclose() if caller.kind == "async" else single.close())
    caller.assert_nothing_noticed()


async def test_migrate_waits_for_the_other_server(caller, own_server):
    await caller.open()
    await caller(do("set", "k", "v"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = monotonic()
        with pytest.raises(redis_exceptions.ResponseError, match="IOERR"):
            await caller(do("migrate", "127.0.0.1", port, "k", 0, int(WAIT * 1000)))
        assert WAIT * 0.9 < monotonic() - started < HANGS
    caller.assert_nothing_noticed()


async def test_migrate_waits_inside_a_transaction_too(caller, own_server):
    await caller.open()
    await caller(do("set", "k", "v"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pipe = caller.client.pipeline()
        pipe.migrate("127.0.0.1", silent.getsockname()[1], "k", 0, int(WAIT * 1000))
        with pytest.raises(redis_exceptions.ResponseError, match="IOERR"):
            await caller(lambda _: pipe.execute())
    caller.assert_nothing_noticed()


# Beyond its time, and when the server dies within it.


@pytest.fixture
def proxied(own_server, settings_of, kind):
    with Proxy(own_server.port) as proxy:
        yield Caller(settings_of(f"redis://127.0.0.1:{proxy.port}/0"), kind), proxy
        proxy.heal()


async def test_silence_beyond_that_is_a_reason_to_check_and_no_verdict(proxied, own_server):
    caller, proxy = proxied
    await caller.open()
    waiting = asyncio.ensure_future(caller(do("blpop", ["none"], timeout=0.5)))
    await asyncio.to_thread(eventually, lambda: int(own_server.info("clients")["blocked_clients"]) == 1)
    proxy.swallow_replies_of_open_connections()
    caller.client.sharing.close_stale_idle(math.inf)  # the next shared connection is answered
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(waiting, HANGS)
    health = caller.manager._pool_set.health
    assert health.last_outage == -math.inf, "that would be a verdict"
    assert await caller(do("ping"))
    await asyncio.to_thread(eventually, lambda: health.is_healthy)
    assert health.last_outage == -math.inf


async def test_a_server_that_dies_meanwhile_is_noticed_at_once(caller, own_server):
    await caller.open()
    waiting = asyncio.ensure_future(caller(do("xread", {"s": "$"}, block=0)))
    await asyncio.to_thread(eventually, lambda: int(own_server.info("clients")["blocked_clients"]) == 1)
    os.kill(own_server.pid, signal.SIGKILL)
    with pytest.raises(redis_exceptions.ConnectionError):
        await asyncio.wait_for(waiting, HANGS)


# Publish/subscribe and MONITOR.


async def test_listening_waits_for_a_message(caller, own_server):
    await caller.open()
    pubsub = caller.client.pubsub()
    await caller(lambda _: pubsub.subscribe("c"))
    assert (await caller(lambda _: pubsub.get_message(timeout=HANGS)))["type"] == "subscribe"
    assert await caller(lambda _: pubsub.get_message(timeout=WAIT)) is None
    waiting = asyncio.ensure_future(caller(lambda _: pubsub.get_message(timeout=None)))
    await asyncio.sleep(TIMEOUT * 1.5)
    assert not waiting.done()
    with own_server.client() as admin:
        admin.publish("c", "heard")
    assert (await asyncio.wait_for(waiting, HANGS))["data"] == b"heard"
    await caller(lambda _: pubsub.aclose() if caller.kind == "async" else pubsub.close())
    caller.assert_nothing_noticed()


async def test_a_message_that_does_not_come_is_no_proof_of_health(caller, own_server):
    await caller.open()
    pubsub = caller.client.pubsub()
    await caller(lambda _: pubsub.subscribe("c"))
    await caller(lambda _: pubsub.get_message(timeout=HANGS))
    health = caller.manager._pool_set.health
    seen = health.last_reply
    assert await caller(lambda _: pubsub.get_message(timeout=0.1)) is None
    assert health.last_reply == seen
    await caller(lambda _: pubsub.aclose() if caller.kind == "async" else pubsub.close())


async def test_monitor_waits_for_a_command(caller, own_server):
    await caller.open()
    monitor = caller.client.monitor()
    await caller(lambda _: monitor.__aenter__() if caller.kind == "async" else monitor.__enter__())
    waiting = asyncio.ensure_future(caller(lambda _: monitor.next_command()))
    await asyncio.sleep(TIMEOUT * 1.5)
    assert not waiting.done()
    with own_server.client() as admin:
        admin.get("k")
    assert (await asyncio.wait_for(waiting, HANGS))["command"]
    args = (None, None, None)
    await caller(lambda _: monitor.__aexit__(*args) if caller.kind == "async" else monitor.__exit__(*args))
    caller.assert_nothing_noticed()


async def test_monitor_gives_its_connection_back_when_the_server_refuses_it(caller, own_server):
    await caller.open()
    with own_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-monitor")

    async def enter():
        async with caller.client.monitor():
            pass

    def enter_sync():
        with caller.client.monitor():
            pass

    with pytest.raises(redis_exceptions.NoPermissionError):
        await caller(lambda _: enter() if caller.kind == "async" else enter_sync())
    assert caller.manager.get_pool_info()["connections_in_use"] == 0


@pytest.mark.parametrize("step", ["enters", "leaves"])
async def test_a_cancelled_monitor_gives_its_connection_back(own_server, settings_of, step):
    with Proxy(own_server.port) as proxy:
        caller = await Caller(settings_of(proxy.url), "async").open()
        monitor = caller.client.monitor()
        if step == "enters":
            await monitor.connect()
            proxy.swallow = True
            ending = asyncio.create_task(monitor.__aenter__())
        else:
            await monitor.__aenter__()
            ending = asyncio.create_task(monitor.__aexit__(None, None, None))
        await asyncio.sleep(0.05 if step == "enters" else 0)
        ending.cancel()
        await asyncio.wait([ending])
        assert caller.client.connection_pool.state.in_use == []
        proxy.heal()
        assert await caller.client.blpop("nothing", 0.01) is None


async def test_what_has_no_reply_on_a_connection_of_its_own_is_no_outage(own_server, settings_of, kind):
    caller = await Caller(settings_of(own_server.url, PROTOCOL=3), kind).open()
    single = caller.client.client()
    for call in (do("execute_command", "SUBSCRIBE", "a"), do("execute_command", "REPLCONF", "ACK", 1)):
        with pytest.raises(redis_exceptions.TimeoutError):
            await caller(lambda _, call=call: call(single))
    assert caller.manager._pool_set.health.last_outage == -math.inf
    assert await caller(do("ping"))
    await caller(lambda _: single.aclose() if caller.kind == "async" else single.close())


async def test_a_command_without_a_name_is_no_outage(caller):
    await caller.open()
    with pytest.raises(redis_exceptions.TimeoutError):
        await caller(do("execute_command", ""))
    assert caller.manager._pool_set.health.last_outage == -math.inf
    assert await caller(do("ping"))


# What a command's arguments say.


REFUSED = [
    do("execute_command", "BLPOP", "q", value) for value in ("soon", "", b"\xff", "-1", -1, "nan", "inf", "1e400", " 1")
]
REFUSED += [do("execute_command", "XREAD", "BLOCK", value, "STREAMS", "s", "$") for value in ("1.5", "soon", -1)]
REFUSED += [do("execute_command", *args) for args in (("BLPOP",), ("BLPOP", "q"), ("XREAD", "BLOCK"), ("BLMPOP",))]
REFUSED += [do("execute_command", "BLMPOP", "soon", 1, "q", "LEFT"), do("execute_command", "MIGRATE", "h", 1, "k", 0)]


async def test_a_timeout_that_cannot_be_is_refused_by_the_server(server):
    answers = await assert_same(server, REFUSED)
    assert all(isinstance(answer, Failure) for answer in answers)


def test_so_it_is_for_a_thread(server):
    answers = assert_same_sync(server, REFUSED)
    assert all(isinstance(answer, Failure) for answer in answers)


@pytest.mark.parametrize(
    ("args", "wait"),
    [
        (("BLPOP", "a", "b", 5), 5.0),
        (("blpop", "a", "0.25"), 0.25),
        ((b"BRPOP", "a", b"1.5"), 1.5),
        (("BLPOP", "a", "0x10"), 16.0),
        (("BLPOP", "a", 0), math.inf),
        (("BLPOP", "a", 0.0), math.inf),
        (("BLPOP", "a", 1e12), math.inf),
        (("BLPOP", "a", "1e400"), 0.0),
        (("BLPOP", "a", -1), 0.0),
        (("BLPOP", "a", "soon"), 0.0),
        (("BLPOP",), 0.0),
        (("BRPOPLPUSH", "a", "b", 3), 3.0),
        (("BLMOVE", "a", "b", "LEFT", "RIGHT", 4), 4.0),
        (("BLMPOP", 2, 1, "a", "LEFT"), 2.0),
        (("BZMPOP", "2.5", 1, "a", "MIN"), 2.5),
        (("BZPOPMAX", "a", 7), 7.0),
        (("WAIT", 1, 1500), 1.5),
        (("WAIT", 1, 0), math.inf),
        (("WAITAOF", 1, 1, 500), 0.5),
        (("WAITAOF", 1, 1), 0.0),
        (("MIGRATE", "host", 6379, "k", 0, 3000), 3.0),
        (("MIGRATE", "host", 6379, "k", 0, 0), 1.0),
        (("XREAD", "COUNT", 1, "BLOCK", 250, "STREAMS", "s", "$"), 0.25),
        (("XREAD", "BLOCK", 0, "STREAMS", "s", "$"), math.inf),
        (("XREAD BLOCK", "100", "STREAMS", "s", "$"), 0.1),
        (("XREAD", "STREAMS", "block", "1"), None),
        (("XREAD", "COUNT", "BLOCK", "STREAMS", "s", "$"), None),
        (("XREADGROUP", "GROUP", "BLOCK", "me", "NOACK", "BLOCK", 100, "STREAMS", "s", ">"), 0.1),
        (("XREADGROUP", "GROUP", "g", "me", "STREAMS", "s", ">"), None),
        (("GET", "k"), None),
        (("LPOP", "k", 5), None),
        (("",), 0.0),
        (("SUBSCRIBE", "a"), 0.0),
    ],
    ids=repr,
)
def test_how_long_a_command_may_wait(args, wait):
    assert wait_of(args) == wait


def test_an_interrupt_leaves_no_patient_connection_in_the_pool(own_server, settings_of):
    manager = settings_of(own_server.url, SOCKET_TIMEOUT=30)
    client = manager.get_sync_client()
    client.ping()
    main = threading.main_thread().ident

    def interrupt():
        eventually(lambda: int(own_server.info("clients")["blocked_clients"]) == 1)
        signal.pthread_kill(main, signal.SIGINT)

    striker = threading.Thread(target=interrupt)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        client.blpop(["none"], timeout=0)
    striker.join()
    client.blpop(["none"], timeout=0.01)
    for connection in client.connection_pool.state.idle:
        assert connection._sock is None or connection._sock.gettimeout() == 30
