"""The site for WSGI servers. It uses Redis while it loads: with ``--preload``, before the workers are forked."""

import asyncio
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.sites.settings")

application = get_wsgi_application()

from redispool_app.redis_pool import redis_connection_manager  # noqa: E402 (Django must be set up)


async def _warm_up():
    await (await redis_connection_manager.get_client()).set("loaded", os.getpid())


asyncio.run(_warm_up())
redis_connection_manager.get_sync_client().get("loaded")
