"""Settings of the site that the laboratory's drivers work on."""

import json
import os

from tests.settings import *  # noqa: F403

REDIS_POOL = json.loads(os.environ["REDIS_POOL"])
ROOT_URLCONF = "tests.lab.site_urls"
MIDDLEWARE = ["redispool_app.middleware.RedisPoolMiddleware"]
"""Nothing else, or an outage could be somebody else's answer."""
