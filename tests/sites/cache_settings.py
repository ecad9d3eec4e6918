"""Settings of the site that lives on the cache: sessions, pages and fragments, all on the pool of REDIS_POOL."""

import json
import os

from tests.settings import *  # noqa: F403

REDIS_POOL = json.loads(os.environ["REDIS_POOL"])
CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
ROOT_URLCONF = "tests.sites.cache_urls"
MIDDLEWARE = [
    "redispool_app.middleware.RedisPoolMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
]
