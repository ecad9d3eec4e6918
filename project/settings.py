"""Settings of the demo project. With nothing configured it brings its own Redis (``embedded://``)."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DEMO_DIR", BASE_DIR / ".demo"))
DATA_DIR.mkdir(exist_ok=True)


def _secret_key() -> str:
    """Return the key of this checkout, made on first use and never committed."""
    path = DATA_DIR / "secret-key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(get_random_secret_key())
    return path.read_text()


SECRET_KEY = os.environ.get("SECRET_KEY") or _secret_key()
DEBUG = os.environ.get("DEBUG", "1") != "0"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

REDIS_POOL = {
    "CONNECTION_URL": os.environ.get("REDIS_URL", "embedded://"),
    "CLIENT_NAME": "redispool-demo",
    "SERVER_TIMING": True,
}

# Both share the pool's connections. An outage makes cached pages slower, and sessions are then read from the database,
# so that whoever is on call can still open the admin's status page. The price: what a session learns during an outage
# can be hidden afterwards by its older copy in the cache. Where that must not be, leave IGNORE_EXCEPTIONS out.
CACHES = {
    "default": {
        "BACKEND": "redispool_app.cache.RedisPoolCache",
        "KEY_PREFIX": "demo",
        "OPTIONS": {"IGNORE_EXCEPTIONS": True},
    },
    "sessions": {
        "BACKEND": "redispool_app.cache.RedisPoolCache",
        "KEY_PREFIX": "demo-sessions",
        "OPTIONS": {"IGNORE_EXCEPTIONS": True},
    },
}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
SESSION_CACHE_ALIAS = "sessions"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "redispool_app",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "redispool_app.middleware.RedisPoolMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "db.sqlite3"}}
AUTH_PASSWORD_VALIDATORS: list[dict[str, str]] = []

LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"short": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "short"}},
    "loggers": {"redispool_app": {"handlers": ["console"], "level": "INFO"}},
}
