"""Three things a visitor can see that are made of Redis: a counter, a limit, a leaderboard."""

from __future__ import annotations

from django import forms
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
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
