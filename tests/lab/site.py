"""The laboratory's site, for ASGI and for WSGI servers."""

import json
import os
from urllib.parse import urlsplit

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

from redispool_app.asgi import lifespan

from .attempts import write_down

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.lab.site_settings"

_redis = urlsplit(json.loads(os.environ["REDIS_POOL"])["CONNECTION_URL"])
write_down(os.environ["LAB_ATTEMPTS"], (_redis.hostname, _redis.port))

asgi = lifespan(get_asgi_application())
wsgi = get_wsgi_application()
