"""Views that do what a driver asks and say what came of it: the value as JSON, or that nobody can know.

Whatever else goes wrong is the middleware's to answer.
"""

import os

from django.http import JsonResponse
from django.urls import include, path

from redispool_app.exceptions import OutcomeUnknown


def work(request, kind, key, value=None):
    try:
        reply = getattr(request.redis, kind)(*_arguments(key, value))
    except OutcomeUnknown as error:
        return _answer({"unknown": str(error)}, 500)
    return _answer(_shown(reply))


async def work_async(request, kind, key, value=None):
    client = await request.aredis()
    try:
        reply = await getattr(client, kind)(*_arguments(key, value))
    except OutcomeUnknown as error:
        return _answer({"unknown": str(error)}, 500)
    return _answer(_shown(reply))


def _arguments(key, value):
    return (key,) if value is None else (key, value)


def _shown(reply):
    return {"reply": reply.decode() if isinstance(reply, bytes) else reply}


def _answer(content, status=200):
    return JsonResponse(content, status=status, headers={"X-Process": str(os.getpid())})


urlpatterns = [
    path("redis/", include("redispool_app.urls")),
    *(
        path(f"{prefix}/{kind}/<key>/{more}", view, {"kind": kind})
        for prefix, view in (("sync", work), ("async", work_async))
        for kind, more in (("set", "<value>/"), ("get", ""), ("incr", ""))
    ),
]
