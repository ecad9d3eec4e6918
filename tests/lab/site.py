"""The laboratory's site, for ASGI and for WSGI servers."""

import os

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

from redispool_app.asgi import lifespan

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.lab.site_settings"

asgi = lifespan(get_asgi_application())
wsgi = get_wsgi_application()
