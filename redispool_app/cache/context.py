"""What all instances of one cache in a process have in common: Django makes one per thread and per async context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from time import monotonic
from typing import Any

from django.core.signals import setting_changed
from redis import exceptions as redis_exceptions

from redispool_app.conf.cache_options import CacheOptions, check, is_url, pool_keys, single_location
from redispool_app.conf.cache_pools import alias_for
from redispool_app.engine.health.faults import ANSWERED, classify
from redispool_app.engine.health.state import HealthState
from redispool_app.engine.runtime.hooks import tell
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.serialization import compression, serializers
from redispool_app.serialization.codec import Codec
from redispool_app.serialization.import_path import imported_function

from .operations import CachePlans

logger = logging.getLogger("redispool_app.cache")

_QUIET = 10.0
"""Seconds for which ignored errors outside of an outage say nothing more."""
_SAME = 1.0
"""Seconds within which an error and the outage that it begins belong together."""


class Setup:
    """One cache's manager, codec, plans and options, each made when it is first asked for. Making one does nothing.

    With a fault anywhere in the cache's settings each of them raises ``ImproperlyConfigured``, one line that names the
    key and the cure: so Django can make the cache, and its system checks can tell about all faults.
    """

    def __init__(self, location: Any, params: Mapping[str, Any]) -> None:
        # Also keeps OPTIONS, whose id is in a key of ``_setups``.
        self._entry = {**params, "LOCATION": location}
        self._last_warning = -_QUIET

    @cached_property
    def _checked(self) -> tuple[str, CacheOptions]:
        return check(self._entry)

    @property
    def options(self) -> CacheOptions:
        return self._checked[1]

    @cached_property
    def manager(self) -> RedisConnectionManager:
        location, _ = self._checked
        keys = pool_keys(self._entry.get("OPTIONS") or {})
        return RedisConnectionManager(alias_for(location, keys) if is_url(location) else location)

    def find_manager_anew(self) -> None:
        """``REDIS_POOL`` has changed, and the pool of that URL may be another now."""
        vars(self).pop("manager", None)

    @cached_property
    def codec(self) -> Codec:
        options = self.options
        serializer = serializers.find_for_cache(options.serializer, options.pickle_protocol)
        name, level = options.compressor, options.compress_level
        compress = None if name is None else compression.compressor(name, level)
        return Codec(
            serializer, compress, options.compress_min_size, own=not serializers.is_built_in(options.serializer)
        )

    @cached_property
    def plans(self) -> CachePlans:
        return CachePlans(self.codec, keeps_stale=self.options.stale_timeout > 0)

    @cached_property
    def key_function(self) -> Callable[..., str] | None:
        """What KEY_FUNCTION names; None for Django's own. Unlike the others it raises only when it is called."""
        function = self._entry.get("KEY_FUNCTION")
        try:
            return None if function is None else imported_function(function)
        except ValueError:
            return self._try_key_function

    def _try_key_function(self, *arguments: Any) -> str:
        check(self._entry)
        made: str = imported_function(self._entry["KEY_FUNCTION"])(*arguments)
        return made

    @cached_property
    def reverse(self) -> Callable[[str], str] | None:
        function = self.options.reverse_key_function
        return None if function is None else imported_function(function)

    def ignores(self, error: redis_exceptions.RedisError) -> bool:
        """Whether the cache goes on as an empty one after ``error``; tells the log, once per outage."""
        if not self.options.ignore_exceptions or not _is_outage(error):
            return False
        if self.options.log_ignored_exceptions and self._is_news():
            extra = {"pool": self.manager.alias, "fault_kind": str(classify(error, "").kind)}
            tell(
                logger.warning,
                "The cache on Redis pool %r goes on without it: %s",
                extra["pool"],
                _line(error),
                extra=extra,
            )
        return True

    def _is_news(self) -> bool:
        health = self.manager.health
        now = monotonic()
        known = None if health is None else health.newest()
        if known is None or known.state is HealthState.HEALTHY:
            after, moment = _QUIET, now
        else:
            after, moment = _SAME, known.since
        # No call from here on, so of all callers one finds it news.
        news = moment - self._last_warning > after
        if news:
            self._last_warning = now
        return news


def _is_outage(error: redis_exceptions.RedisError) -> bool:
    """Whether the server cannot serve, rather than not understand: no connection, no reply, no memory, no primary."""
    if isinstance(error, redis_exceptions.ConnectionError | redis_exceptions.TimeoutError):
        return True
    return classify(error, "").kind in ANSWERED


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_setups: dict[tuple[Any, ...], Setup] = {}


def setup_for(location: Any, params: Mapping[str, Any]) -> Setup:
    """Return the setup for an entry of ``CACHES``. Django hands every instance of a cache the same OPTIONS."""
    functions = (params.get("KEY_FUNCTION"), params.get("REVERSE_KEY_FUNCTION"))
    key = (single_location(location), id(params.get("OPTIONS")), *functions)
    try:
        found = _setups.get(key)
    except TypeError:
        # A LOCATION of several servers, or another fault that will be told at first use.
        return Setup(location, params)
    if found is None:
        found = _setups.setdefault(key, Setup(location, params))
    return found


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "CACHES":
        _setups.clear()
    elif setting == "REDIS_POOL":
        for setup in list(_setups.values()):
            setup.find_manager_anew()


setting_changed.connect(_on_setting_changed, dispatch_uid="redispool_app.cache")
