"""Views for uWSGI: sessions of users, read from the cache, and work for the spooler."""

import threading

from django.core.cache import cache
from django.urls import path

from .urls import _answer
from .urls import urlpatterns as shared


def session(request, user):
    """Answer with what the cache says twenty times, which must be the same each time."""
    return _answer(" ".join(sorted({str(cache.get(f"session-{user}")) for _ in range(20)})))


def spool(request):
    import uwsgi

    uwsgi.spool({b"for": b"the spooler"})
    return _answer("spooled")


def remembered(request, name):
    return _answer(str(cache.get(name)))


def threads_while_loading(request):
    from .uwsgi_site import THREADS_WHILE_LOADING

    return _answer(",".join(THREADS_WHILE_LOADING))


def threads(request):
    return _answer(",".join(thread.name for thread in threading.enumerate()))


urlpatterns = [
    path("threads-while-loading/", threads_while_loading),
    path("threads/", threads),
    path("session/<user>/", session),
    path("spool/", spool),
    path("remembered/<name>/", remembered),
    *shared,
]
