"""Settings of the demo with its whole site in the cache, as Django's manual has it."""

from project import settings as demo
from project.settings import *  # noqa: F403

MIDDLEWARE = [
    "django.middleware.cache.UpdateCacheMiddleware",
    *demo.MIDDLEWARE,
    "django.middleware.cache.FetchFromCacheMiddleware",
]
