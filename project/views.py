"""What a visitor can see that is made of Redis: a counter, a limit, a leaderboard, a session, cached pages."""

from __future__ import annotations

from django import forms
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import cache_page
from django.views.decorators.http import require_GET, require_http_methods

from redispool_app.redis_pool import redis_connection_manager

from .stores import leaderboard as board
from .stores import rate_limit, visit_counter


@require_GET
async def home(request: HttpRequest) -> HttpResponse:
    """Count the visit, asynchronously, and say how the pool is doing."""
    visits = await visit_counter.visit("home")
    return render(request, "project/home.html", {"visits": visits, "pool": redis_connection_manager.get_pool_info()})


@require_GET
async def limited(request: HttpRequest) -> JsonResponse:
    """Answer a few requests per visitor and window, refuse the others with 429 and Retry-After."""
    admitted, seconds = await rate_limit.admit(request.META["REMOTE_ADDR"])
    if admitted:
        return JsonResponse({"admitted": True, "window_ends_in": seconds})
    return JsonResponse({"admitted": False, "retry_after": seconds}, status=429, headers={"Retry-After": str(seconds)})


class PointsForm(forms.Form):
    """A player's name and the points to add."""

    player = forms.CharField(max_length=40, strip=True)
    points = forms.IntegerField(min_value=1, max_value=1000, initial=10)


@require_http_methods(["GET", "HEAD", "POST"])
def leaderboard(request: HttpRequest) -> HttpResponse:
    """Show the leaderboard and add points, in plain blocking code."""
    form = PointsForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        board.add_points(form.cleaned_data["player"], form.cleaned_data["points"])
        return redirect("leaderboard")
    return render(request, "project/leaderboard.html", {"form": form, "rows": board.top()})


@require_GET
def session(request: HttpRequest) -> HttpResponse:
    """Count this visitor's requests in the session, in plain blocking code."""
    count = request.session["count"] = request.session.get("count", 0) + 1
    return render(request, "project/session.html", {"count": count, "kind": "sync"})


@require_GET
async def session_async(request: HttpRequest) -> HttpResponse:
    """Count on in the same session, with its async methods."""
    count = await request.session.aget("count", 0) + 1
    await request.session.aset("count", count)
    return render(request, "project/session.html", {"count": count, "kind": "async"})


@require_GET
@cache_page(10)
def cached_page(request: HttpRequest) -> HttpResponse:
    """Say when this page was built: it is kept whole for ten seconds."""
    return render(request, "project/cached_page.html", {"built": timezone.now()})


@require_GET
def cached_fragment(request: HttpRequest) -> HttpResponse:
    """Say when this page was built; its template keeps one paragraph for ten seconds."""
    return render(request, "project/cached_fragment.html", {"built": timezone.now()})
