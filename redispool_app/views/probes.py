"""What load balancers and orchestrators ask: does the process live, is it ready, does Redis answer.

All views are coroutines: under ASGI they wait for no thread, and a check tries the event loop's own pool, which is
what the project's async views use. Under WSGI Django runs them like any view. None redirects to a login.

To anybody they tell yes or no, as text or as ``application/health+json``
(https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06); what lies behind a verdict is for
those who may see the status.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_vary_headers
from django.utils.log import log_response
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from redispool_app import __version__
from redispool_app.conf.registry import get_aliases
from redispool_app.engine.runtime.hooks import tell
from redispool_app.redis_pool import RedisConnectionManager, get_managers

from .access import may_view, shows_token, wanted_token

logger = logging.getLogger("redispool_app.probe")

HEALTH_JSON = "application/health+json"
_TYPES = ["text/plain", HEALTH_JSON, "application/json"]
"""What ``Accept`` may choose from; who states no preference gets the first."""

_SETTLING = 0.1
"""Seconds that a check gets beyond its own deadline, so that its verdict is recorded before we stop waiting."""


@login_not_required
@never_cache
@require_safe
async def live(request: HttpRequest) -> HttpResponse:
    """Answer 200: this process serves requests. Never touches Redis, whose outage no restart would end."""
    return _answer(request, 200, "ok", {"status": "pass"})


@login_not_required
@never_cache
@require_safe
async def ready(request: HttpRequest, alias: str | None = None) -> HttpResponse:
    """Answer like ``probe``, but take a reply of the last ``HEALTH_CHECK_INTERVAL`` for proof.

    So it costs a busy process nothing, and an idle one a PING. A paused pool is ready: its callers wait.
    """
    return await _judged(request, alias, is_ready)


@login_not_required
@never_cache
@require_safe
async def probe(request: HttpRequest, alias: str | None = None) -> HttpResponse:
    """Answer 200 ``ok`` when Redis answers a PING now, 503 ``unavailable`` when not, 404 for an unknown alias.

    Without an alias every configured pool must answer. Takes at most
    ``HEALTH_CHECK_TIMEOUT``; during a confirmed outage, or after ``close()``, the answer comes at once.
    """
    return await _judged(request, alias, answers)


@login_not_required
@never_cache
@require_safe
async def health_json(request: HttpRequest) -> HttpResponse:
    """Answer as ``probe`` does, always as ``application/health+json``."""
    return await _judged(request, None, answers, HEALTH_JSON)


async def answers(manager: RedisConnectionManager) -> bool:
    """Whether the pool's server answers a PING now, within ``HEALTH_CHECK_TIMEOUT``. Does not raise for an outage."""
    if manager.is_down:
        if (pool_set := manager.pool_set) is not None:
            pool_set.monitor.probe_if_no_thread_can()
        if manager.is_down:
            return False
    try:
        async with asyncio.timeout(manager.config.health_check_timeout + _SETTLING):
            return await manager.check() and not manager.is_down
    except TimeoutError:
        return False


async def is_ready(manager: RedisConnectionManager) -> bool:
    """Whether the server has answered anybody within ``HEALTH_CHECK_INTERVAL``, or answers a PING now."""
    if manager.is_healthy and not manager.is_down and not manager.build().health.check_due():
        return True
    return await answers(manager)


Check = Callable[[RedisConnectionManager], Awaitable[bool]]


async def _judged(request: HttpRequest, alias: str | None, check: Check, media_type: str | None = None) -> HttpResponse:
    try:
        if alias is not None and alias not in get_aliases():
            return _answer(request, 404, "not found", {"status": "fail"}, media_type)
        managers = [manager for manager in get_managers() if alias in (None, manager.alias)]
        # Reads and checks the settings, so that what comes now can fail only because of Redis.
        retry_after = [manager.build().health.retry_after for manager in managers]
    except ImproperlyConfigured as error:
        document = await _document(request, False, [], str(error), media_type)
        return _unavailable(request, 1.0, document, "error", str(error), media_type)
    verdicts = await asyncio.gather(*map(check, managers))
    document = await _document(request, all(verdicts), list(zip(managers, verdicts, strict=True)), None, media_type)
    if all(verdicts):
        return _answer(request, 200, "ok", document, media_type)
    # The pool has said what is wrong, once, when its state changed.
    longest = max(seconds() for seconds in retry_after)
    return _unavailable(request, longest, document, "debug", "Redis is not available.", media_type)


async def _document(
    request: HttpRequest,
    passed: bool,
    verdicts: list[tuple[RedisConnectionManager, bool]],
    problem: str | None,
    media_type: str | None,
) -> dict[str, Any]:
    """Return the draft's document; all but ``status`` only for those who may see the status of the pools."""
    document: dict[str, Any] = {"status": "pass" if passed else "fail"}
    if _media_type(request, media_type) == "text/plain":
        return document
    if not (shows_token(request, wanted_token()) or await may_view(request)):
        return document
    document.update(description="Redis pools of this process", releaseId=__version__)
    if problem is not None:
        document["output"] = problem
        return document
    checks = [check for manager, verdict in verdicts for check in _checks(manager, verdict)]
    document["checks"] = dict(checks)
    if passed and any(each["status"] == "warn" for _, (each,) in checks):
        document["status"] = "warn"
    return document


def _checks(manager: RedisConnectionManager, passed: bool) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the entries of one pool, named ``<alias>:<what was measured>``."""
    info = manager.get_pool_info()
    answer: dict[str, Any] = {"componentType": "datastore", "status": "pass" if passed else "fail"}
    # A check that failed measured nothing; what is known is of an earlier one.
    if passed and info.get("latency_ms") is not None:
        answer.update(observedValue=info["latency_ms"], observedUnit="ms")
    if info.get("last_health_check") is not None:
        answer["time"] = datetime.datetime.fromtimestamp(info["last_health_check"], datetime.UTC).isoformat()
    if not passed:
        answer["output"] = info.get("fault") or "The pool is closed."
    elif info.get("paused"):
        answer.update(status="warn", output="The pool is paused: callers wait.")
    elif info.get("warning"):
        answer.update(status="warn", output=info["warning"])
    connections = {
        "componentType": "component",
        "status": "pass",
        "observedValue": info.get("connections_open", 0),
        "observedUnit": "connections",
    }
    return [(f"{manager.alias}:responseTime", [answer]), (f"{manager.alias}:connections", [connections])]


def _unavailable(
    request: HttpRequest,
    retry_after: float,
    document: dict[str, Any],
    level: str,
    message: str,
    media_type: str | None,
) -> HttpResponse:
    response = _answer(request, 503, "unavailable", document, media_type)
    response["Retry-After"] = str(max(1, math.ceil(retry_after)))
    # Logged here, or Django would report every single probe of an outage as an error, by mail if so set up.
    tell(log_response, "%s", message, response=response, request=request, logger=logger, level=level)
    return response


def _answer(
    request: HttpRequest, status: int, text: str, document: dict[str, Any], media_type: str | None = None
) -> HttpResponse:
    chosen = _media_type(request, media_type)
    if chosen == "text/plain":
        response = HttpResponse(text, content_type="text/plain; charset=utf-8", status=status)
    else:
        response = JsonResponse(document, content_type=chosen, status=status)
    if media_type is None:
        patch_vary_headers(response, ["Accept"])
    return response


def _media_type(request: HttpRequest, media_type: str | None) -> str:
    return media_type or request.get_preferred_type(_TYPES) or _TYPES[0]
