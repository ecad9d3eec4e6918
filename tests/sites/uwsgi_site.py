"""The site for uWSGI. It uses Redis while it loads: without ``--lazy-apps``, before uWSGI forks, in C."""

from .wsgi_site import application  # noqa: I001 (sets Django up)

import threading

import uwsgi
from django.core.cache import cache

__all__ = ["application"]


def use_cache(name):
    """Remember as ``name`` whether each of 300 values came back to its own key."""
    for number in range(300):
        cache.set(f"{name}-{number}", f"{name} {number}")
    wrong = [number for number in range(300) if cache.get(f"{name}-{number}") != f"{name} {number}"]
    cache.set(name, f"wrong: {wrong}" if wrong else "right")


def spooled(arguments):
    use_cache("spooler")
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooled
cache.get("feature-flags")
THREADS_WHILE_LOADING = [thread.name for thread in threading.enumerate()]
