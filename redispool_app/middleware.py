"""``request.redis``, ``await request.aredis()``, and a 503 response during an outage.

A request that does not use Redis costs two attributes: no I/O, no check, no parsed settings. If ``SERVER_TIMING`` is
True, the response reports the time spent on Redis (https://www.w3.org/TR/server-timing/).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.template import TemplateDoesNotExist, loader
from django.utils.functional import SimpleLazyObject
from django.utils.log import log_response
from redis import exceptions as redis_exceptions

from .conf.config import SETTING
from .conf.registry import get_config
from .engine import AsyncRedis, SyncRedis
from .engine.runtime.hooks import tell
from .engine.stats.request_timing import RequestTiming, current_timing
from .exceptions import PoolClosed, RedisUnavailable
from .redis_pool import redis_connection_manager

logger = logging.getLogger("redispool_app.request")

# This package's errors are subclasses of these. The view handles error replies, lock and watch errors itself.
_OUTAGES = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)

_LOG_INTERVAL = 60.0
_DETAIL = "The service is temporarily unavailable. Please try again shortly."
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Service unavailable</title>
</head>
<body>
<h1>Service unavailable</h1>
<p>{detail}</p>
</body>
</html>
"""


class RedisRequest(HttpRequest):
    """The type of a request behind the middleware; for annotations only."""

    redis: SyncRedis
    """The blocking client, for sync code. Nothing is checked, connected or raised before its first use."""

    aredis: Callable[[], Awaitable[AsyncRedis]]
    """``await request.aredis()``: the running event loop's client. Raises what ``get_client`` raises."""


class RedisPoolMiddleware:
    """Give every request the clients of the ``default`` pool. Answer 503 if a view finds Redis unavailable.

    The response carries ``Retry-After`` (whole seconds, at least 1) and does not mention the cause. It is JSON.
    Browsers get the project's template ``503.html`` (context: ``detail``, ``retry_after``), or a built-in page.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._manager = redis_connection_manager
        self._timing: tuple[Any, bool] = (self, False)
        self._logged: dict[type[Exception], float] = {}
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        equipped = cast(RedisRequest, request)
        equipped.redis = cast(SyncRedis, SimpleLazyObject(self._manager.get_sync_client))
        equipped.aredis = self._manager.get_client
        if not self._is_timed():
            return self.get_response(request)
        return self._respond_timed_async(request) if self._is_async else self._respond_timed(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Turn an outage that a view raised into a 503. Leave every other exception alone."""
        if not isinstance(exception, _OUTAGES):
            return None
        response = _service_unavailable(request, self._retry_after(exception))
        # Also keeps ``django.request`` from logging each of many requests as an error.
        tell(
            log_response,
            "Answered %s with 503: %s: %s",
            request.path,
            type(exception).__name__,
            str(exception),
            response=response,
            request=request,
            logger=logger,
            level=self._level(exception),
        )
        return response

    def _retry_after(self, exception: Exception) -> int:
        seconds = getattr(exception, "retry_after", None)
        if seconds is None:
            health = self._manager.health
            seconds = health.retry_after() if health is not None else 0.0
        return max(1, math.ceil(seconds))

    def _level(self, exception: Exception) -> str:
        """A known outage was logged when it was found. Anything else is logged once a minute per kind."""
        known = self._manager.is_down and not isinstance(exception, PoolClosed)
        if known or isinstance(exception, RedisUnavailable):
            return "debug"
        now, kind = monotonic(), type(exception)
        if now - self._logged.get(kind, -math.inf) < _LOG_INTERVAL:
            return "debug"
        self._logged[kind] = now
        return "warning"

    # Server-Timing.

    def _is_timed(self) -> bool:
        """Whether SERVER_TIMING is on, parsed once per ``REDIS_POOL`` object. Off if the settings are broken."""
        seen, timed = self._timing
        current = getattr(settings, SETTING, None)
        if current is not seen:
            try:
                timed = get_config(self._manager.alias).server_timing
            except ImproperlyConfigured:
                timed = False
            self._timing = (current, timed)
        return timed

    def _respond_timed(self, request: HttpRequest) -> HttpResponseBase:
        timing = RequestTiming()
        token = current_timing.set(timing)
        try:
            response: HttpResponseBase = self.get_response(request)
        finally:
            current_timing.reset(token)
        return _with_server_timing(response, timing)

    async def _respond_timed_async(self, request: HttpRequest) -> HttpResponseBase:
        timing = RequestTiming()
        token = current_timing.set(timing)
        try:
            response: HttpResponseBase = await self.get_response(request)
        finally:
            current_timing.reset(token)
        return _with_server_timing(response, timing)


def _with_server_timing(response: HttpResponseBase, timing: RequestTiming) -> HttpResponseBase:
    """Report the time spent on Redis: the sum of all waits up to the response. Without a command there is no header."""
    if timing.commands:
        noun = "command" if timing.commands == 1 else "commands"
        ours = f'redis;dur={timing.seconds * 1000:.1f};desc="{timing.commands} {noun}"'
        others = response.headers.get("Server-Timing")
        response.headers["Server-Timing"] = f"{others}, {ours}" if others else ours
    return response


def _service_unavailable(request: HttpRequest, retry_after: int) -> HttpResponse:
    # JSON first: a client that sends */* is a program. Browsers name text/html.
    accepted = request.get_preferred_type(["application/json", "text/html"])
    context = {"detail": _DETAIL, "retry_after": retry_after}
    response: HttpResponse
    if accepted == "application/json":
        response = JsonResponse(context, status=503)
    elif accepted == "text/html":
        response = HttpResponse(_page(context), status=503)
    else:
        response = HttpResponse(_DETAIL + "\n", status=503, content_type="text/plain; charset=utf-8")
    response.headers["Retry-After"] = str(retry_after)
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(context: dict[str, Any]) -> str:
    try:
        template = loader.get_template("503.html")
    except TemplateDoesNotExist:
        return _PAGE.format(**context)
    # Without the request: a context processor could need the session, and the session needs Redis.
    return template.render(context)
