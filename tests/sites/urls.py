"""Views that answer with what they wrote to Redis, so that a reply meant for somebody else shows."""

import os

from django.http import HttpResponse
from django.urls import include, path


def quiet(request):
    return HttpResponse("quiet")


def echo(request, key):
    request.redis.set(f"echo:{key}", f"value of {key}")
    return _answer(request.redis.get(f"echo:{key}"))


async def echo_async(request, key):
    client = await request.aredis()
    await client.set(f"echo:{key}", f"value of {key}")
    return _answer(await client.get(f"echo:{key}"))


def _answer(value):
    return HttpResponse(value, headers={"X-Process": str(os.getpid())})


urlpatterns = [
    path("quiet/", quiet),
    path("echo/<key>/", echo),
    path("echo-async/<key>/", echo_async),
    path("redis/", include("redispool_app.urls")),
]
