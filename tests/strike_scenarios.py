"""What callers do with the async engine while it is struck, one scenario for each part of it.

A scenario prepares, lets ``world.ask(...)`` start callers and returns what the loop is to be run for under fire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.engine.sharing_rules import SharingLimits

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
        return task.result()


Caller = Callable[[], Coroutine[Any, Any, Any]]
SCENARIOS: dict[str, Any] = {}


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
    client = world.client("narrow", limits=SharingLimits(max_in_flight=1))
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

    async def waits() -> tuple[Any, Any]:
        with contextlib.suppress(Exception):
            await client.get("key:0")
        return None, None

    return [waits, waits]
