"""Reads ``settings.REDIS_POOL``: aliases, problems and the project's directory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

from .config import DEFAULT_ALIAS, KEYS, SETTING, RedisPoolConfig, _raise_first, find_pool_problems
from .validators import Problem, not_valid

# The setting, as it is now.


def _pools() -> tuple[dict[Any, Any], str]:
    """Return what the setting says by alias, unchecked, and the place of a pool in it, with ``{}`` for its alias."""
    raw = getattr(settings, SETTING, None)
    if isinstance(raw, Mapping) and not any(key in KEYS for key in raw):
        pools = dict(raw)
        if any(isinstance(pool, Mapping | RedisPoolConfig) for pool in pools.values()):
            return pools, SETTING + "[{!r}]"
    return {DEFAULT_ALIAS: {} if raw is None else raw}, SETTING


def _find_alias_problems(alias: Any) -> Iterator[Problem]:
    if not isinstance(alias, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", alias):
        yield not_valid(f"an alias in {SETTING}", alias, "letters, digits, '_', '.' and '-', at most 64")


def own_aliases() -> list[str]:
    """Return the aliases of ``REDIS_POOL``, ``default`` first. Raises ``ImproperlyConfigured``."""
    pools, _ = _pools()
    for alias in pools:
        _raise_first(_find_alias_problems(alias))
    return sorted(pools, key=lambda alias: (alias != DEFAULT_ALIAS, alias))


def is_own_alias(alias: Any) -> bool:
    """Whether ``REDIS_POOL`` has a pool of this alias."""
    return alias in _pools()[0]


def own_config(alias: str) -> RedisPoolConfig:
    """Return the configuration of an alias for which ``is_own_alias`` is true. Raises ``ImproperlyConfigured``."""
    pools, place = _pools()
    pool = pools[alias]
    _raise_first(_find_alias_problems(alias))
    _raise_first(find_pool_problems(pool, place.format(alias)))
    config = pool if isinstance(pool, RedisPoolConfig) else RedisPoolConfig.from_mapping(pool, alias)
    return config.effective()


def get_problems() -> list[Problem]:
    """Return every fault in ``settings.REDIS_POOL``, for the system checks. Never raises."""
    pools, place = _pools()
    problems: list[Problem] = []
    for alias, pool in pools.items():
        problems.extend(_find_alias_problems(alias))
        problems.extend(find_pool_problems(pool, place.format(alias)))
    return problems


def project_directory() -> str:
    """Return what identifies this project among others on the machine: its base directory."""
    return os.path.abspath(str(getattr(settings, "BASE_DIR", "") or os.getcwd()))
