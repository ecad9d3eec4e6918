"""The whole status as JSON, for those who may see it. Never redirects to a login.

A coroutine: under ASGI it waits for no thread; under WSGI Django runs it like any view.
"""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .access import may_view
from .redis_pool import get_managers


@login_not_required
@never_cache
@require_safe
async def status(request: HttpRequest) -> JsonResponse:
    """Return ``{"pid": …, "pools": {alias: get_pool_info()}}`` of the process that answers. No Redis I/O.

    For active staff with the permission ``redispool_app.view_redispool``; 403 for everybody
    else, since a session's cookie has no challenge that a 401 could name
    (https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2).
    """
    if not await may_view(request):
        return JsonResponse({"detail": "Permission denied."}, status=403)
    answer: dict[str, Any] = {"pid": os.getpid(), "pools": {}}
    try:
        answer["pools"] = {manager.alias: manager.get_pool_info() for manager in get_managers()}
    except ImproperlyConfigured as error:
        answer["error"] = str(error)
    return JsonResponse(answer)
