"""Configuration: ``settings.REDIS_POOL`` and the pools that ``CACHES`` adds."""

from __future__ import annotations

from .config import DEFAULT_ALIAS, KEYS, MASK, SETTING, RedisPoolConfig, find_pool_problems
from .registry import get_aliases, get_config
from .settings import get_problems, own_aliases, project_directory

__all__ = [
    "DEFAULT_ALIAS",
    "KEYS",
    "MASK",
    "SETTING",
    "RedisPoolConfig",
    "find_pool_problems",
    "get_aliases",
    "get_config",
    "get_problems",
    "own_aliases",
    "project_directory",
]
