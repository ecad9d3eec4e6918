"""The whole status as JSON, for those who may see it. Never redirects to a login.

A coroutine: under ASGI it waits for no thread of the server's; under WSGI Django runs it like any view.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from redispool_app.redis_pool import get_managers
from redispool_app.workers import roster

from .access import may_view


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
    if not await may_view(request):
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
