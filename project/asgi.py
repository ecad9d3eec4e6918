"""The demo project for an ASGI server: ``uvicorn project.asgi:application``."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

django_application = get_asgi_application()

from redispool_app.asgi import lifespan  # noqa: E402 (the app registry must be ready first)

application = lifespan(ASGIStaticFilesHandler(django_application) if settings.DEBUG else django_application)
