"""A Django cache backend on the shared connections of ``REDIS_POOL``, async to the bottom.

::

    CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}
"""

from __future__ import annotations

from .backend import RedisPoolCache

__all__ = ["RedisPoolCache"]
