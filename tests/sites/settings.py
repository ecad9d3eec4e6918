"""Settings of the served sites: those of the test suite, with REDIS_POOL as JSON from the environment."""

import json
import os

from tests.settings import *  # noqa: F403

REDIS_POOL = json.loads(os.environ["REDIS_POOL"])
ROOT_URLCONF = "tests.sites.urls"
MIDDLEWARE = ["redispool_app.middleware.RedisPoolMiddleware"]
