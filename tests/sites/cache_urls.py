"""Views that use the cache in each way that Django offers. Whatever is computed anew is a number that never repeats."""

import itertools

from django.core.cache import cache
from django.http import HttpResponse
from django.template import engines
from django.urls import path
from django.views.decorators.cache import cache_page

computed = itertools.count(1)
FRAGMENT = """{% load cache %}{% cache 60 "news" reader %}{{ news }} for {{ reader }}{% endcache %}, {{ now }}"""


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(request.session["visits"])


async def visits_async(request):
    await request.session.aset("visits", await request.session.aget("visits", 0) + 1)
    return HttpResponse(await request.session.aget("visits"))


def leave(request):
    request.session.flush()
    return HttpResponse("left")


async def leave_async(request):
    await request.session.aflush()
    return HttpResponse("left")


def number(request):
    return HttpResponse(next(computed))


async def number_async(request):
    return HttpResponse(next(computed))


def fragment(request, reader):
    news, now = next(computed), next(computed)
    page = engines["django"].from_string(FRAGMENT).render({"reader": reader, "news": news, "now": now}, request)
    return HttpResponse(page)


async def fragment_async(request, reader):
    return fragment(request, reader)


def calls(request, key):
    cache.set(key, f"value of {key}")
    cache.set_many({f"{key}-a": 1, f"{key}-b": 2})
    cache.incr(f"{key}-a", 41)
    numbers = cache.get_many([f"{key}-a", f"{key}-b"])
    assert numbers == {f"{key}-a": 42, f"{key}-b": 2}, numbers
    cache.delete_many([f"{key}-a", f"{key}-b"])
    return HttpResponse(cache.get(key))


async def calls_async(request, key):
    await cache.aset(key, f"value of {key}")
    await cache.aset_many({f"{key}-a": 1, f"{key}-b": 2})
    await cache.aincr(f"{key}-a", 41)
    numbers = await cache.aget_many([f"{key}-a", f"{key}-b"])
    assert numbers == {f"{key}-a": 42, f"{key}-b": 2}, numbers
    await cache.adelete_many([f"{key}-a", f"{key}-b"])
    return HttpResponse(await cache.aget(key))


urlpatterns = [
    path("visits/", visits),
    path("visits-async/", visits_async),
    path("leave/", leave),
    path("leave-async/", leave_async),
    path("number/", number),
    path("number-async/", number_async),
    path("page/", cache_page(60)(number)),
    path("page-async/", cache_page(60)(number_async)),
    path("fragment/<reader>/", fragment),
    path("fragment-async/<reader>/", fragment_async),
    path("calls/<key>/", calls),
    path("calls-async/<key>/", calls_async),
]
