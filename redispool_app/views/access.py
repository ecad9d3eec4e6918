"""Who may see what the pools say about themselves: staff with the permission, or a machine with the token."""

from __future__ import annotations

import hmac
import os
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest

TOKEN_VARIABLE = "REDISPOOL_METRICS_TOKEN"  # noqa: S105 (the name of a variable, not a secret)
"""Environment variable with the bearer token for ``metrics/`` and the details of ``health.json``."""


async def may_view(request: HttpRequest) -> bool:
    """Whether active staff with the permission ``redispool_app.view_redispool`` asks."""
    if not hasattr(request, "auser"):
        return False  # without AuthenticationMiddleware there is no user
    user: Any = await request.auser()
    if not user.is_active or not getattr(user, "is_staff", False):
        return False
    # Not ahas_perm: a project's own has_perm, which the admin obeys, must hold here too.
    return bool(await sync_to_async(user.has_perm)("redispool_app.view_redispool"))


def wanted_token(token: str | None = None) -> str:
    """Return the token that opens a view: ``token`` if given, else the environment's; empty when there is none."""
    return token or os.environ.get(TOKEN_VARIABLE, "")


def shows_token(request: HttpRequest, token: str) -> bool:
    """Whether the request has ``Authorization: Bearer <token>``; an empty token opens nothing.

    https://www.rfc-editor.org/rfc/rfc6750#section-2.1; compared in constant time.
    """
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown.strip().encode(), token.encode())
