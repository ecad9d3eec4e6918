"""A probe for load balancers, which tells only yes or no, and the whole status as JSON for those who may see it.

Both views are coroutines: under ASGI they wait for no thread, and the probe tries the event loop's own pool, which
is what the project's async views use. Under WSGI Django runs them like any view. Neither redirects to a login.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.log import log_response
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .conf import get_aliases
from .redis_pool import RedisConnectionManager, get_managers
from .workers import roster

logger = logging.getLogger("redispool_app.probe")

_SETTLING = 0.1
"""Seconds that a check gets beyond its own deadline, so that its verdict is recorded before we stop waiting."""


@login_not_required
@never_cache
@require_safe
async def probe(request: HttpRequest, alias: str | None = None) -> HttpResponse:
    """Answer 200 ``ok`` when Redis answers a PING now, 503 ``unavailable`` when not, 404 for an unknown alias.

    Without an alias every configured pool must answer. Takes at most
    ``HEALTH_CHECK_TIMEOUT``; during a confirmed outage, or after ``close()``, the answer comes at once.
    Under WSGI the request's event loop also waits for its own helper threads, so a name server that
    hangs can delay the first answer of an outage.
    """
    try:
        if alias is not None and alias not in get_aliases():
            return _plain("not found", 404)
        managers = [manager for manager in get_managers() if alias in (None, manager.alias)]
        # Reads and checks the settings, so that what comes now can fail only because of Redis.
        retry_after = [manager._built().health.retry_after for manager in managers]
    except ImproperlyConfigured as error:
        return _unavailable(request, 1.0, "error", str(error))
    if all(await asyncio.gather(*map(_answers, managers))):
        return _plain("ok", 200)
    # The pool has said what is wrong, once, when its state changed.
    return _unavailable(request, max(seconds() for seconds in retry_after), "debug", "Redis is not available.")


@login_not_required
@never_cache
@require_safe
async def status(request: HttpRequest) -> JsonResponse:
    """Return ``{"pid": …, "pools": {alias: …}}``: ``get_pool_info()`` of the process that answers, and its roster.

    The roster is ``workers``, a list of what each worker of every host last said, ``differences``, lines that say what
    the server's CLIENT LIST shows otherwise, and ``workers_problem``, one line or null: during an outage only the
    process that answers is listed, at once. With ``?local=1`` it always is, and Redis is asked nothing.

    For active staff with the permission ``redispool_app.view_redispool``; 403 for everybody
    else, since a session's cookie has no challenge that a 401 could name
    (https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2).
    """
    if not await _may_view(request):
        return JsonResponse({"detail": "Permission denied."}, status=403)
    answer: dict[str, Any] = {"pid": os.getpid(), "pools": {}}
    try:
        managers = get_managers()
    except ImproperlyConfigured as error:
        return JsonResponse({**answer, "error": str(error)})
    if request.GET.get("local") == "1":
        rosters = [roster.local(manager) for manager in managers]
    else:
        # Side by side, so that several servers that hang cost no more time than one.
        read = sync_to_async(roster.read, thread_sensitive=False)
        rosters = await asyncio.gather(*map(read, managers))
    for manager, found in zip(managers, rosters, strict=True):
        answer["pools"][manager.alias] = {
            **manager.get_pool_info(),
            "workers": found.workers,
            "workers_problem": found.problem,
            "differences": found.differences,
        }
    return JsonResponse(answer)


async def _answers(manager: RedisConnectionManager) -> bool:
    if manager.is_down:
        return False
    try:
        async with asyncio.timeout(manager._config.health_check_timeout + _SETTLING):
            return await manager._health_check() and not manager.is_down
    except TimeoutError:
        return False


async def _may_view(request: HttpRequest) -> bool:
    if not hasattr(request, "auser"):
        return False  # without AuthenticationMiddleware nobody is known
    user: Any = await request.auser()
    if not user.is_active or not getattr(user, "is_staff", False):
        return False
    # Not ahas_perm: a project's own has_perm, which the admin obeys, must hold here too.
    return bool(await sync_to_async(user.has_perm)("redispool_app.view_redispool"))


def _unavailable(request: HttpRequest, retry_after: float, level: str, message: str) -> HttpResponse:
    response = _plain("unavailable", 503)
    response["Retry-After"] = str(max(1, math.ceil(retry_after)))
    # Logged here, or Django would report every single probe of an outage as an error, by mail if so set up.
    log_response("%s", message, response=response, request=request, logger=logger, level=level)
    return response


def _plain(text: str, status: int) -> HttpResponse:
    return HttpResponse(text, content_type="text/plain; charset=utf-8", status=status)
