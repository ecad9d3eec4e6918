"""A Django site with one view in three forms: five awaited GETs through each client, and the same view with none.

Served by ``uvicorn benchmarks.view_project:application``; BENCH_PORT says where the server with the values is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

PORT = int(os.environ["BENCH_PORT"])
KEYS = tuple(f"bench:view:{number}" for number in range(5))
VALUE = b"v" * 100

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["redispool_app"],
    MIDDLEWARE=[],
    REDIS_POOL={"CONNECTION_URL": f"redis://127.0.0.1:{PORT}"},
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",  # nothing is signed
    USE_TZ=True,
)
django.setup()

import redis.asyncio  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

from redispool_app.asgi import lifespan  # noqa: E402
from redispool_app.redis_pool import redis_connection_manager  # noqa: E402

shared_client = redis.asyncio.Redis(host="127.0.0.1", port=PORT)


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


async def cpu_seconds(request: HttpRequest) -> HttpResponse:
    """Say how much processor time this process has used."""
    return text(str(time.process_time()).encode())


urlpatterns = [
    path("ours/", ours),
    path("redis-py/", redis_py),
    path("without/", without),
    path("cpu-seconds/", cpu_seconds),
]
application = lifespan(get_asgi_application())
