"""A check for django-health-check 4: is a pool fit to use, asked through the application's own connections.

Needs the extra ``health-check``. In the checks of its view::

    checks = ["redispool_app.health_check.RedisPool", ("redispool_app.health_check.RedisPool", {"alias": "sessions"})]
"""

from __future__ import annotations

import dataclasses
import datetime

from django.core.exceptions import ImproperlyConfigured
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from .conf.config import DEFAULT_ALIAS
from .conf.registry import get_aliases, get_config
from .redis_pool import RedisConnectionManager
from .views.probes import answers

_AT_ONCE = 1.0
"""Seconds for a check that asks no server."""


@dataclasses.dataclass
class RedisPool(HealthCheck):  # type: ignore[misc]
    """PING through the pool of ``alias``; connects no client of its own. Takes at most ``HEALTH_CHECK_TIMEOUT``.

    What it reports names the kind of fault, never an address: the page is often open to all. A paused pool passes.
    """

    alias: str = DEFAULT_ALIAS

    @property
    def timeout(self) -> datetime.timedelta:
        """How long django-health-check waits, and a second more: ``HEALTH_CHECK_TIMEOUT`` instead of its own 5 s."""
        try:
            return datetime.timedelta(seconds=get_config(self.alias).health_check_timeout)
        except ImproperlyConfigured:
            return datetime.timedelta(seconds=_AT_ONCE)  # run() says what is wrong

    async def run(self) -> None:
        """Raise ``ServiceUnavailable`` when the server does not answer, or the pool is closed or misconfigured."""
        try:
            if self.alias not in get_aliases():
                raise ServiceUnavailable(f"REDIS_POOL has no alias {self.alias!r}.")
            manager = RedisConnectionManager(self.alias)
            manager.build()
        except ImproperlyConfigured as error:
            raise ServiceUnavailable(f"REDIS_POOL is wrong for {self.alias!r}: see manage.py check.") from error
        if not await answers(manager):
            info = manager.get_pool_info()
            raise ServiceUnavailable(f"Redis pool {self.alias!r} is {info['fault_kind'] or info['state']}.")
