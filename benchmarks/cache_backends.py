"""The cache backends under comparison, each with the settings that its own documentation begins with.

So each serializes as it does by default: pickle, or msgpack in django-vcache. One that is not installed, or that this
Python is too old for, is left out of the measurement and named in the table.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import django
from django.conf import settings
from django.core.cache import caches

from .peers import installed_version
from .server import HOST

OURS_CACHE = "RedisPoolCache"
DJANGO = "Django RedisCache"
DJANGO_REDIS = "django-redis"
VCACHE = "django-vcache"


@dataclass(frozen=True)
class Backend:
    """``python``: the first version of Python that has it. Without a ``scheme`` it needs no address."""

    name: str
    alias: str
    path: str
    distribution: str
    scheme: str | None = "redis"
    python: tuple[int, int] = (3, 11)

    @property
    def absent(self) -> str:
        """Why it cannot take part, or nothing."""
        if sys.version_info < self.python:
            return "needs Python {}.{}".format(*self.python)
        return "" if installed_version(self.distribution) else "not installed"

    def settings(self, port: int) -> dict[str, Any]:
        location = {} if self.scheme is None else {"LOCATION": f"{self.scheme}://{HOST}:{port}"}
        return {"BACKEND": self.path, "KEY_PREFIX": self.alias, **location}

    def fill(self, values: dict[str, Any]) -> None:
        """Store ``values``, as this backend writes them, for as long as the server lives."""
        caches[self.alias].set_many(values, timeout=None)


BACKENDS = (
    Backend(OURS_CACHE, "redispool", "redispool_app.cache.RedisPoolCache", "django", scheme=None),
    Backend(DJANGO, "django", "django.core.cache.backends.redis.RedisCache", "django"),
    Backend(DJANGO_REDIS, "django-redis", "django_redis.cache.RedisCache", "django-redis"),
    Backend(VCACHE, "vcache", "django_vcache.backend.ValkeyCache", "django-vcache", "valkey", (3, 12)),
)


def configure_django(port: int, **more: Any) -> None:
    """Set up Django with every backend that can take part, on the server at ``port``; a second call does nothing."""
    if settings.configured:
        return
    settings.configure(
        CACHES={backend.alias: backend.settings(port) for backend in BACKENDS if not backend.absent},
        INSTALLED_APPS=["redispool_app"],
        REDIS_POOL={"CONNECTION_URL": f"redis://{HOST}:{port}"},
        USE_TZ=True,
        **more,
    )
    django.setup()
