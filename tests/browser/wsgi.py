"""The demo for a WSGI server that has no other server in front of it to serve the static files."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.browser.settings")

application = StaticFilesHandler(get_wsgi_application())
