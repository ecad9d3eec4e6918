"""The demo's settings behind a strict content security policy, with what a test wants to vary from the environment."""

import json
import os

from project.settings import *  # noqa: F403

DEBUG = True
MIDDLEWARE = ["tests.browser.policy.StrictPolicy", *MIDDLEWARE]  # noqa: F405
REDIS_POOL = {**REDIS_POOL, **json.loads(os.environ.get("REDIS_POOL", "{}"))}  # noqa: F405
LANGUAGE_CODE = os.environ.get("LANGUAGE_CODE", "en")
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if os.environ.get("SESSIONS") == "db":
    SESSION_ENGINE = "django.contrib.sessions.backends.db"
