"""Aliases and configurations of all pools: those of ``REDIS_POOL`` and those that ``CACHES`` adds."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .config import DEFAULT_ALIAS, SETTING, RedisPoolConfig, _raise_first, find_pool_problems
from .settings import _find_alias_problems, _pools, own_aliases
from .validators import not_known


def get_aliases() -> list[str]:
    """Return ``own_aliases()`` and those of the pools that ``CACHES`` adds. Raises ``ImproperlyConfigured``."""
    from . import cache_pools as pools

    own = own_aliases() if getattr(settings, SETTING, None) is not None or pools.uses_default() else []
    return [*own, *pools.configured()]


def get_config(alias: str = DEFAULT_ALIAS) -> RedisPoolConfig:
    """Return the configuration of ``alias`` as the settings are now. Raises ``ImproperlyConfigured``."""
    pools, place = _pools()
    if alias not in pools and alias != DEFAULT_ALIAS:
        from .cache_pools import find

        if (of_cache := find(alias)) is not None:
            return RedisPoolConfig.from_mapping(of_cache).effective()
    if alias not in pools:
        known = get_aliases()
        cure = f"use {' or '.join(map(repr, known))}."
        raise ImproperlyConfigured(str(not_known(f"{SETTING} has no alias", alias, known, cure)))
    pool = pools[alias]
    _raise_first(_find_alias_problems(alias))
    _raise_first(find_pool_problems(pool, place.format(alias)))
    config = pool if isinstance(pool, RedisPoolConfig) else RedisPoolConfig.from_mapping(pool, alias)
    return config.effective()
