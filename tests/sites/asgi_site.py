"""The site for ASGI servers."""

import os

from django.core.asgi import get_asgi_application

from redispool_app.asgi import lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.sites.settings")

application = lifespan(get_asgi_application())
