"""The same calls on redis-py's client and on ours, against the same emptied server, and what came of each."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from redis.connection import PythonRespSerializer

from redispool_app.engine import AsyncRedis, SyncRedis

from .awaited import awaited, run
from .servers import RedisServer

Call = Callable[[Any], Any]
"""Takes a client and returns what its method returns: an awaitable, an async iterator or a plain value."""

MODES = [
    {"protocol": 2},
    {"protocol": 3},
    {"protocol": 2, "decode_responses": True},
    {"protocol": 3, "decode_responses": True},
    {"protocol": 2, "decode_responses": True, "encoding": "latin-1"},
    {"protocol": 3, "legacy_responses": False},
]
"""How a project may configure its client, as far as it changes what bytes mean."""


class EncodingRedis(redis.Redis):
    """Redis-py's blocking client with its own packer in Python, the one that sends text in the client's encoding."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if options.get("encoding", "utf-8") != "utf-8":
            packer = PythonRespSerializer(6000, self.get_encoder().encode)
            self.connection_pool.connection_kwargs["command_packer"] = packer


ASYNC = (redis.asyncio.Redis, AsyncRedis)
SYNC = (awaited(EncodingRedis), awaited(SyncRedis))
"""Redis-py's client and ours; the sync ones are called and awaited as the others are."""


def named(mode: dict[str, Any]) -> str:
    """Return the name under which a mode appears among the tests."""
    return "-".join(f"{key}={value}" for key, value in mode.items())


_DATABASE = re.compile(r"b?'db\.\d+'")


@dataclass(frozen=True)
class Roughly:
    """A call whose answer changes from moment to moment: only its shape is compared."""

    call: Call


@dataclass(frozen=True)
class Failure:
    """An exception, compared by its exact type and its text."""

    kind: str
    text: str


def described(value: Any) -> Any:
    """Return a value with its types, in an order of its own where it has none, so that == is strict."""
    if isinstance(value, BaseException):
        return Failure(f"{type(value).__module__}.{type(value).__qualname__}", str(value))
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, sorted(((described(key), described(each)) for key, each in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return kind, [described(each) for each in value]
    return kind, repr(value)


def shape(value: Any) -> Any:
    """Return what stays the same of an answer that changes: its keys and its types.

    Not which databases have entries in it (MEMORY STATS): the server takes its time to forget one that was emptied.
    """
    if isinstance(value, dict):
        lasting = {repr(key): each for key, each in value.items() if not _DATABASE.fullmatch(repr(key))}
        return "dict", sorted(((key, shape(each)) for key, each in lasting.items()), key=repr)
    if isinstance(value, list | tuple | set):
        return type(value).__name__, sorted({repr(shape(each)) for each in value})
    return "number" if isinstance(value, int | float) else type(value).__name__


async def outcome(client: Any, call: Call | Roughly) -> Any:
    """Run one call to its end; return its value or its failure, comparable with ==."""
    describe = described
    if isinstance(call, Roughly):
        call, describe = call.call, shape
    try:
        answer = call(client)
        if hasattr(answer, "__aiter__"):
            answer = sorted([each async for each in answer], key=repr)
        elif inspect.isawaitable(answer):
            answer = await answer
            if inspect.isgenerator(answer):
                answer = sorted(answer, key=repr)
    except Exception as error:
        return described(error)
    return describe(answer)


def emptied(server: RedisServer) -> None:
    """Leave no key, script or function behind."""
    with server.client() as admin:
        admin.flushall()
        admin.script_flush()
        admin.function_flush()


async def outcomes(make: Callable[..., Any], server: RedisServer, calls: Iterable[Any], options: Any) -> list[Any]:
    """Run the calls one after the other on one new client of an emptied server."""
    emptied(server)
    async with make(port=server.port, **options) as client:
        return [await outcome(client, call) for call in calls]


async def assert_same(
    server: RedisServer, calls: Iterable[Call | Roughly], clients: tuple[Any, Any] = ASYNC, **options: Any
) -> list[Any]:
    """Assert that redis-py's client and ours answer each call alike; return the answers."""
    calls = list(calls)
    theirs, ours = [await outcomes(make, server, calls, options) for make in clients]
    found = zip(calls, ours, theirs, strict=True)
    different = [f"{call}: {mine}, but with redis-py {expected}" for call, mine, expected in found if mine != expected]
    assert not different, "\n".join(different)
    return theirs


def assert_same_sync(server: RedisServer, calls: Iterable[Call | Roughly], **options: Any) -> list[Any]:
    """Assert the same of the sync clients."""
    answers: list[Any] = run(assert_same(server, calls, SYNC, **options))
    return answers


@contextlib.asynccontextmanager
async def both(server: RedisServer, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Open redis-py's client and ours on the same server."""
    async with (
        redis.asyncio.Redis(port=server.port, **options) as theirs,
        AsyncRedis(port=server.port, **options) as ours,
    ):
        yield theirs, ours


def opened(server: RedisServer, since: int = 0) -> int:
    """Return how many connections the server has accepted, or has accepted ``since``; to ask takes one of its own."""
    accepted = int(server.info("stats")["total_connections_received"])
    return accepted - since - 1 if since else accepted
