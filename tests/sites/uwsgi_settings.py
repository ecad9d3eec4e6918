"""Settings of the site for uWSGI: those of the others, and the cache."""

from .settings import *  # noqa: F403

CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}
ROOT_URLCONF = "tests.sites.uwsgi_urls"
