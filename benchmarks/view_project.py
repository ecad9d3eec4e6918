"""A Django site with a view that awaits five GETs, through each client or none, and one that makes six cache calls.

Served by ``uvicorn benchmarks.view_project:application``; BENCH_PORT says where the server with the values is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .cache_backends import configure_django
from .server import HOST
from .view_values import BLOCKS, COUNTER, KEYS, LAST_SEEN, MENU, PAGE, TEXT, USER, VALUE

PORT = int(os.environ["BENCH_PORT"])

configure_django(
    PORT,
    ALLOWED_HOSTS=[HOST],
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",  # nothing is signed
)

import redis.asyncio  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.cache import caches  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from redispool_app.redis_pool import redis_connection_manager  # noqa: E402

shared_client = redis.asyncio.Redis(host=HOST, port=PORT)


async def five(get: Callable[[str], Awaitable[Any]]) -> HttpResponse:
    first, second, third, fourth, fifth = KEYS
    return answer(await get(first), await get(second), await get(third), await get(fourth), await get(fifth))


def answer(*values: bytes) -> HttpResponse:
    if values != (VALUE,) * 5:
        return HttpResponse(status=500)
    return text(b"\n".join(values))


def text(body: bytes) -> HttpResponse:
    # The length keeps the answer in one piece; CommonMiddleware would add it.
    return HttpResponse(body, content_type="text/plain", headers={"Content-Length": str(len(body))})


async def ours(request: HttpRequest) -> HttpResponse:
    client = await redis_connection_manager.get_client()
    return await five(client.get)


async def redis_py(request: HttpRequest) -> HttpResponse:
    return await five(shared_client.get)


async def without(request: HttpRequest) -> HttpResponse:
    return answer(VALUE, VALUE, VALUE, VALUE, VALUE)


async def cached(request: HttpRequest, alias: str) -> HttpResponse:
    cache = caches[alias]
    page = await cache.aget(PAGE)
    user = await cache.aget(USER)
    menu = await cache.aget(MENU)
    blocks = await cache.aget_many(BLOCKS)
    visits = await cache.aincr(COUNTER)
    await cache.aset(LAST_SEEN, TEXT)
    if (page, user, menu) != (TEXT,) * 3 or blocks != dict.fromkeys(BLOCKS, TEXT) or visits < 1:
        return HttpResponse(status=500)
    return text("\n".join((page, user, menu, *blocks.values(), str(visits))).encode())


async def cpu_seconds(request: HttpRequest) -> HttpResponse:
    """Say how much processor time this process has used."""
    return text(str(time.process_time()).encode())


urlpatterns = [
    path("ours/", ours),
    path("redis-py/", redis_py),
    path("without/", without),
    path("cache/<slug:alias>/", cached),
    path("cpu-seconds/", cpu_seconds),
]
# Without lifespan(), which would open a connection for the other contenders too.
application = get_asgi_application()
