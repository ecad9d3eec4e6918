"""The site that lives on the cache, for ASGI servers."""

import os

from django.core.asgi import get_asgi_application

from redispool_app.asgi import lifespan

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.sites.cache_settings"

application = lifespan(get_asgi_application())
