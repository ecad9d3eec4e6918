"""What callers do with the async engine while it is struck, one scenario for each part of it.

A scenario prepares, lets ``world.ask(...)`` start callers and returns what the loop is to be run for under fire.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any
from unittest import mock

import redis
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.engine.multiplex import multiplexer_async
from redispool_app.engine.multiplex.base import MultiplexerLimits

from .proxy import Proxy

PATIENT = 30.0
"""``SOCKET_TIMEOUT`` in seconds: no caller may wait for it."""

AT_ONCE = 5.0
"""Seconds within which all callers have ended; generous, for a busy machine."""

KEYS = {f"key:{number}": b"value %d" % number for number in range(40)}


class World:
    """A server, a proxy before it, and an event loop that is used again after each strike."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, proxy: Proxy) -> None:
        self.loop = loop
        self.url = url
        self.proxy = proxy
        self.errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.clients: dict[str, AsyncRedis] = {}
        self.admin = redis.Redis.from_url(url, single_connection_client=True)
        self._others = self._connected()

    def _connected(self) -> set[str]:
        return {each["id"] for each in self.admin.client_list()}

    @property
    def connected(self) -> int:
        """Connections to the server that have been made for this world and are open."""
        return len(self._connected() - self._others)

    @property
    def kept(self) -> int:
        """Connections that the clients know."""
        pools = [client.connection_pool for client in self.clients.values()]
        shared = [pool._sharing for pool in pools if pool._sharing is not None]  # type: ignore[attr-defined]
        idle = sum(each.is_connected for pool in pools for each in pool._available_connections)
        return idle + sum(len(each.lanes.open) + len(each._leaving) for each in shared)

    def hold_writes_back(self, milliseconds: int) -> None:
        """Let the server answer no write for so long."""
        self.admin.client_pause(milliseconds, all=False)

    async def comes_to_rest(self, *, counts_sockets: bool) -> bool:
        """Whether within 3 ``AT_ONCE`` nothing is in flight and each client has one shared connection or none.

        ``counts_sockets``: and the server has no connection that no client knows. One is left out from then on.
        """
        until = monotonic() + 3 * AT_ONCE  # a surplus connection closes after several seconds
        while not (at_rest := self._rests() and (self.connected == self.kept or not counts_sockets)):
            if monotonic() > until:
                break
            await asyncio.sleep(0.01)
            if self._rests():
                gc.collect()  # a socket that an interrupt left behind
        if not counts_sockets and self.connected > self.kept:
            for client in self.clients.values():
                await client.aclose()
            self._others = self._connected()
        return at_rest

    def _rests(self) -> bool:
        shared = [client.connection_pool._sharing for client in self.clients.values()]  # type: ignore[attr-defined]
        return all(
            each is None or (each.in_flight, each.waiting, len(each.lanes.open) > 1, each._leaving) == (0, 0, False, [])
            for each in shared
        )

    @property
    def state(self) -> str:
        """The connections of each client, for a message."""
        shared = {name: client.connection_pool._sharing for name, client in self.clients.items()}  # type: ignore[attr-defined]
        lanes = {
            name: [(each.in_flight, each.stalled, each.closed) for each in (*one.lanes.open, *one._leaving)]
            for name, one in shared.items()
            if one is not None
        }
        return f"{self.connected} are connected, {self.kept} known: {lanes}"

    def close(self) -> None:
        self.proxy.heal()
        for client in self.clients.values():
            self.loop.run_until_complete(client.aclose())
        self.admin.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def client(self, name: str = "plain", **options: Any) -> AsyncRedis:
        """Return the client of this name, made at its first use; by way of the proxy if its name says so."""
        if name not in self.clients:
            limits = options.pop("limits", None)
            url = self.proxy.url if "proxy" in name else self.url
            client = AsyncRedis.from_url(url, socket_timeout=PATIENT, **options)
            if limits is not None:
                client.connection_pool.sharing_limits = limits  # type: ignore[attr-defined]
            self.clients[name] = client
        return self.clients[name]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run the loop until the end of ``coroutine``; again if what a task was struck with ends it before."""
        task = self.loop.create_task(coroutine)
        while not task.done():
            try:
                self.loop.run_until_complete(task)
            except KeyboardInterrupt:
                if task.done():
                    raise
            except RuntimeError:
                # A run that was interrupted as its task ended has left the word that the loop is to stop.
                if task.done():
                    raise
        return task.result()


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Let another shared connection be closed soon after it was last needed, and be tried again soon."""
    with (
        mock.patch.object(multiplexer_async, "SURPLUS_IDLE", 0.1),
        mock.patch.object(multiplexer_async, "AGAIN_AFTER", 0.02),
    ):
        yield


Caller = Callable[[], Coroutine[Any, Any, Any]]
SCENARIOS: dict[str, Any] = {}
LONG: set[str] = set()
"""The scenarios in which the server holds a write back, which takes its time."""


def scenario(function: Any) -> Any:
    SCENARIOS[function.__name__.replace("_", " ")] = function
    return function


async def got(client: AsyncRedis, key: str) -> tuple[Any, Any]:
    """Ask for a key; return what came and what is right."""
    value, right = await client.get(key), KEYS[key]
    return value, value if isinstance(value, str) and value.encode() == right else right


async def got_by_pipeline(client: AsyncRedis, *keys: str, transaction: bool = False) -> tuple[Any, Any]:
    pipe = client.pipeline(transaction=transaction)
    for key in keys:
        pipe.get(key)
    return await pipe.execute(), [KEYS[key] for key in keys]


def some(client: AsyncRedis, count: int = 3) -> list[Caller]:
    return [lambda key=key: got(client, key) for key in list(KEYS)[:count]]


@scenario
def a_few_on_a_warm_connection(world: World) -> list[Caller]:
    client = world.client()
    world.run(client.ping())
    return some(client)


@scenario
def many_that_are_written_before_the_end_of_the_tick(world: World) -> list[Caller]:
    client = world.client()
    world.run(client.ping())
    return some(client, 40)


@scenario
def pipelines_beside_single_commands(world: World) -> list[Caller]:
    client = world.client()
    world.run(client.ping())
    return [
        lambda: got(client, "key:0"),
        lambda: got_by_pipeline(client, "key:1", "key:2"),
        lambda: got(client, "key:3"),
        lambda: got_by_pipeline(client, "key:4", "key:5", transaction=True),
    ]


@scenario
def callers_that_leave(world: World) -> list[Caller]:
    client = world.client()
    world.run(client.ping())

    async def leaves() -> tuple[Any, Any]:
        asked = asyncio.ensure_future(client.get("key:1"))
        await asyncio.sleep(0)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        return None, None

    return [*some(client), leaves, lambda: got(client, "key:4")]


@scenario
def text_over_resp3(world: World) -> list[Caller]:
    client = world.client("text", decode_responses=True, protocol=3)
    world.run(client.ping())
    return [*some(client), lambda: got_errors(client)]


@scenario
def text_over_resp2(world: World) -> list[Caller]:
    client = world.client("text of old", decode_responses=True, protocol=2)
    world.run(client.ping())
    return [*some(client), lambda: got_errors(client)]


async def got_errors(client: AsyncRedis) -> tuple[Any, Any]:
    """Run into an error reply and a reply that is a list."""
    value = await client.mget("key:0", "key:1")
    try:
        await client.lpop("key:0")
    except Exception as error:
        if "WRONGTYPE" not in str(error):
            raise
    return value, ["value 0", "value 1"]


@scenario
def the_first_of_a_connection(world: World) -> list[Caller]:
    if (client := world.clients.pop("new", None)) is not None:
        world.run(client.aclose())
    return some(world.client("new"))


@scenario
def a_connection_that_is_cut(world: World) -> list[Caller]:
    client = world.client("by the proxy")
    world.run(client.ping())
    world.proxy.cut_after = b"key:1"
    return some(client)


@scenario
def a_connection_that_was_closed_while_idle(world: World) -> list[Caller]:
    client = world.client("by the proxy")
    world.run(client.ping())
    world.proxy.cut(reset=False)
    return some(client)


@scenario
def waiting_for_room(world: World) -> list[Caller]:
    client = world.client("narrow", limits=MultiplexerLimits(max_in_flight=1))
    world.run(client.ping())
    client.connection_pool._sharing.budget.tokens = 10.0  # of one command in flight it would be 1
    return some(client, 4)


@scenario
def values_that_the_transport_holds_back(world: World) -> list[Caller]:
    client = world.client()
    world.run(client.ping())
    value = b"x" * 300_000

    async def stored(number: int) -> tuple[Any, Any]:
        await client.set(f"big:{number}", value + b"%d" % number)
        return await client.get(f"big:{number}"), value + b"%d" % number

    return [*[lambda number=number: stored(number) for number in range(6)], *some(client)]


@scenario
def closing_with_callers_in_flight(world: World) -> list[Caller]:
    client = world.client("closed")
    world.run(client.ping())

    async def closes() -> tuple[Any, Any]:
        await asyncio.sleep(0)
        await client.aclose()
        return None, None

    async def got_or_cut(key: str) -> tuple[Any, Any]:
        try:
            return await got(client, key)
        except redis_exceptions.ConnectionError:
            return None, None

    return [*[lambda key=key: got_or_cut(key) for key in list(KEYS)[:3]], closes]


@scenario
def a_wait_that_is_over_before_the_reply(world: World) -> list[Caller]:
    client = world.client("hasty, by the proxy")
    world.run(client.ping())
    for connection in client.connection_pool._sharing.lanes.open:
        connection.timeout = 0.1
    world.proxy.swallow_replies_of_open_connections()

    silent = list(client.connection_pool._sharing.lanes.open)

    async def waits() -> tuple[Any, Any]:
        with contextlib.suppress(Exception):
            await client.get("key:0")
        # A later caller would meet it before the next look closes it, and on a busy machine wait as long in vain.
        while not all(each.closed for each in silent):
            await asyncio.sleep(0.01)
        return None, None

    return [waits, waits]


HELD_BACK = 200
"""Milliseconds for which the server holds writes back: a stall is found in less."""


def long_scenario(function: Any) -> Any:
    LONG.add(function.__name__.replace("_", " "))
    return scenario(function)


async def stored(client: AsyncRedis, key: str) -> tuple[Any, Any]:
    return await client.set(key, "held back"), True


@long_scenario
def reads_behind_a_write_that_is_held_back(world: World) -> list[Caller]:
    client = world.client("held back")
    world.run(client.ping())
    world.hold_writes_back(HELD_BACK)
    return [lambda: stored(client, "held:0"), *some(client), lambda: got_by_pipeline(client, "key:4", "key:5")]


@long_scenario
def a_write_that_comes_back_beside_another_connection(world: World) -> list[Caller]:
    client = world.client("held back")
    world.run(client.ping())
    world.hold_writes_back(HELD_BACK)
    write = world.loop.create_task(stored(client, "held:0"))
    world.run(asyncio.wait([world.loop.create_task(each()) for each in some(client)]))
    shared = client.connection_pool._sharing

    async def is_closed() -> tuple[Any, Any]:
        value = await write
        while len(shared.lanes.open) > 1:
            await asyncio.sleep(0.01)
        return value

    return [is_closed, *some(client), lambda: stored(client, "held:1")]


@long_scenario
def another_connection_that_cannot_be_made(world: World) -> list[Caller]:
    client = world.client("held back by the proxy")
    world.run(client.ping())
    world.hold_writes_back(HELD_BACK)
    world.proxy.cut_before = b"HELLO"
    return [lambda: stored(client, "held:0"), *some(client)]
