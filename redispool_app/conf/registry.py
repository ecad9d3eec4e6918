"""Aliases and configurations of all pools: those of ``REDIS_POOL`` and those that ``CACHES`` adds."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from . import cache_pools
from .config import DEFAULT_ALIAS, SETTING, RedisPoolConfig
from .settings import is_own_alias, own_aliases, own_config
from .validators import not_known


def get_aliases() -> list[str]:
    """Return ``own_aliases()`` and those of the pools that ``CACHES`` adds. Raises ``ImproperlyConfigured``."""
    uses_own = getattr(settings, SETTING, None) is not None or cache_pools.uses_default()
    return [*(own_aliases() if uses_own else []), *cache_pools.configured()]


def get_config(alias: str = DEFAULT_ALIAS) -> RedisPoolConfig:
    """Return the configuration of ``alias`` as the settings are now. Raises ``ImproperlyConfigured``."""
    if is_own_alias(alias):
        return own_config(alias)
    if alias != DEFAULT_ALIAS and (of_cache := cache_pools.find(alias)) is not None:
        return RedisPoolConfig.from_mapping(of_cache).effective()
    known = get_aliases()
    cure = f"use {' or '.join(map(repr, known))}."
    raise ImproperlyConfigured(str(not_known(f"{SETTING} has no alias", alias, known, cure)))
