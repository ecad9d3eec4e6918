"""The same cache calls on Django's Redis backend and on ours, each on the emptied server, and what came of them.

Both get the same KEY_PREFIX and the same empty database, one after the other: nothing has to be translated, so keys,
values, warnings and the texts of exceptions must be equal to the byte.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.redis import RedisCache
from django_redis.cache import RedisCache as DjangoRedisCache
from django_valkey.cache import ValkeyCache

from redispool_app.cache import RedisPoolCache

from .servers import RedisServer
from .twin_clients import described

TOO_LONG = 0.9
"""Seconds after which a time to live, rounded up to whole seconds, would no longer be the one that was set."""


@dataclass(frozen=True)
class Call:
    """A call of a cache method, by its sync name; the async face of a cache adds the ``a``."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, face: Any) -> Any:
        return methodcaller(self.name, *self.args, **self.kwargs)(face)


def do(name: str, *args: Any, **kwargs: Any) -> Call:
    """Return a call of a cache method."""
    return Call(name, args, kwargs)


@dataclass(frozen=True)
class AtServer:
    """A command that somebody else sends to the server between two calls."""

    args: tuple[Any, ...]


def at_server(*args: Any) -> AtServer:
    """Return a step that is nobody's cache call."""
    return AtServer(args)


@dataclass(frozen=True)
class Case:
    """Steps on an empty cache; the answers, the warnings and what the server then holds are compared."""

    name: str
    steps: tuple[Call | AtServer, ...]
    params: dict[str, Any] = field(default_factory=dict)
    sync_only: bool = False
    strays: bool = False
    """Whether Django's async methods do something else here than its sync ones; ours never do."""

    def __str__(self) -> str:
        return self.name


def case(name: str, *steps: Call | AtServer, sync_only: bool = False, strays: bool = False, **params: Any) -> Case:
    """Return a case; ``params`` are those of CACHES."""
    return Case(name, steps, params, sync_only, strays)


@dataclass(frozen=True)
class Apart(Case):
    """A case in which ours does something else on purpose: what its last call gives, and what lifetimes it leaves."""

    ours: Any = None
    lifetimes: dict[bytes, int | None] | None = None


def apart(
    name: str, *steps: Call | AtServer, ours: Any, lifetimes: dict[bytes, int | None] | None = None, **params: Any
) -> Apart:
    """Return a case in which ours differs; no ``lifetimes``: not compared."""
    return Apart(name, steps, params, ours=ours, lifetimes=lifetimes)


@dataclass(frozen=True)
class Result:
    """What is compared: for each call its answer or failure and its warnings, and each key with value and lifetime."""

    answers: list[Any]
    keys: dict[bytes, tuple[bytes, int | None]]


class AsyncFace:
    """A cache whose sync names are its async methods."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, f"a{name}")


def theirs(server: RedisServer, **params: Any) -> RedisCache:
    """Return Django's backend."""
    return RedisCache(server.url, params)


def ours(server: RedisServer, **params: Any) -> RedisPoolCache:
    """Return our backend on the default pool, which the fixture ``manager`` points at the server."""
    return RedisPoolCache("default", params)


def ours_with(server: RedisServer, **options: Any) -> RedisPoolCache:
    """Return our backend with OPTIONS."""
    return ours(server, OPTIONS=options)


def django_redis(server: RedisServer, **options: Any) -> Any:
    """Return django-redis with its defaults, or with ``options``."""
    return DjangoRedisCache(server.url, {"OPTIONS": options})


def django_valkey(server: RedisServer, **options: Any) -> Any:
    """Return django-valkey with its defaults, or with ``options``."""
    url = server.url.replace("redis://", "valkey://")
    return ValkeyCache(url, {"OPTIONS": options})


def keys_at(server: RedisServer) -> dict[bytes, tuple[bytes, int | None]]:
    """Return every key with its value and its lifetime in whole seconds, None for ever."""
    with server.client() as client:
        found = {}
        for key in client.scan_iter():
            kind = client.type(key)
            value = client.get(key) if kind == b"string" else kind
            left = client.pttl(key)
            if left != -2:  # expired this moment
                found[key] = value, None if left == -1 else math.ceil(left / 1000)
        return found


async def outcome(cache: Any, call: Call, is_async: bool) -> Any:
    """Make one call; return the answer or the failure, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # A sync call belongs to a thread, as in a sync view.
            answer = await call(AsyncFace(cache)) if is_async else await sync_to_async(call)(cache)
        except Exception as error:
            answer = error
    # Each warning once: Django's methods that are made of others warn again in each of these.
    return described(answer), sorted({(warning.category.__name__, str(warning.message)) for warning in caught})


async def result(make: Callable[..., Any], server: RedisServer, case: Case, is_async: bool) -> Result:
    """Run a case on an emptied server; once more when the machine was so slow that lifetimes say nothing."""
    for _ in range(20):
        with server.client() as client:
            client.flushall()
            cache = make(server, **case.params)
            started = time.monotonic()
            answers: list[Any] = []
            for step in case.steps:
                if isinstance(step, AtServer):
                    client.execute_command(*step.args)
                else:
                    answers.append(await outcome(cache, step, is_async))
            keys = keys_at(server)
            in_time = time.monotonic() - started < TOO_LONG
            close(cache)
            if in_time:
                return Result(answers, keys)
    raise AssertionError(f"{case} never ended within {TOO_LONG} s")


def close(cache: Any) -> None:
    """Close the connections of another backend, which it would keep."""
    if isinstance(cache, RedisCache):
        for pool in cache._cache._pools.values():
            pool.disconnect()
    elif not isinstance(cache, RedisPoolCache):
        cache.client.disconnect()
