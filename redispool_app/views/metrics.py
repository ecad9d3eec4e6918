"""The metrics as a view, for a scraper with the token and for staff."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .access import TOKEN_VARIABLE, may_view, shows_token, wanted_token

_TEXT = "text/plain; charset=utf-8"


@login_not_required
@never_cache
@require_safe
async def metrics(request: HttpRequest, token: str | None = None) -> HttpResponse:
    """Return the metrics of the pools in Prometheus' text format; of all processes if they share a directory.

    For ``Authorization: Bearer <token>``, where the token is this argument (as in
    ``path("metrics/", metrics, {"token": …})``) or the environment variable ``REDISPOOL_METRICS_TOKEN``, and for
    active staff with the permission ``redispool_app.view_redispool``; 401 or 403 for everybody else.
    404 without the extra ``prometheus``.
    """
    expected = wanted_token(token)
    if not (shows_token(request, expected) or await may_view(request)):
        return _refused(expected)
    try:
        from redispool_app.metrics.prometheus import scrape
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        cure = 'Metrics need prometheus_client: pip install "django-redispool-app[prometheus]"\n'
        return HttpResponse(cure, content_type=_TEXT, status=404)
    # In a thread: other processes may take their time to answer.
    body, content_type = await sync_to_async(scrape, thread_sensitive=False)(request.headers.get("Accept", ""))
    return HttpResponse(body, content_type=content_type)


def _refused(expected: str) -> HttpResponse:
    if not expected:
        text = f"Permission denied: log in as staff, or set {TOKEN_VARIABLE} and send it as a bearer token.\n"
        return HttpResponse(text, content_type=_TEXT, status=403)
    response = HttpResponse("A bearer token is required.\n", content_type=_TEXT, status=401)
    response["WWW-Authenticate"] = 'Bearer realm="metrics"'
    return response
