"""The pools of caches whose LOCATION is a URL: one of ``REDIS_POOL`` with that URL, else a pool of their own.

A pool of their own has an alias made from its URL without credentials; two caches with the same URL and the same pool
keys share it. It stands beside those of ``REDIS_POOL`` on the status page, in ``redis_health`` and in the checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .cache_options import find_problems, is_url, pool_keys, single_location
from .config import DEFAULT_ALIAS, RedisPoolConfig
from .settings import own_aliases, own_config
from .url import ConnectionURL

_BACKENDS = frozenset(("redispool_app.cache.RedisPoolCache", "redispool_app.cache.backend.RedisPoolCache"))

_known: dict[str, dict[str, Any]] = {}
"""What ``REDIS_POOL`` would say about each pool, by alias. Never shrinks: an alias means one pool for good."""


def entries() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the entries of ``settings.CACHES`` whose BACKEND is, or comes from, ``RedisPoolCache``."""
    caches = getattr(settings, "CACHES", None)
    for name, entry in caches.items() if isinstance(caches, Mapping) else ():
        if isinstance(entry, Mapping) and _is_ours(entry.get("BACKEND")):
            yield name, entry


def _is_ours(backend: Any) -> bool:
    if backend in _BACKENDS:
        return True
    if not isinstance(backend, str) or backend.startswith("django.core.cache."):
        return False
    try:
        found = import_string(backend)
    except Exception:
        return False  # which Django reports
    return isinstance(found, type) and getattr(found, "uses_redis_pool", False) is True


def configured() -> list[str]:
    """Return the aliases of the pools that ``settings.CACHES`` adds to those of ``REDIS_POOL``."""
    own = own_aliases()
    aliases = [_alias_for(RedisPoolConfig.from_mapping(mapping), mapping) for mapping in _wanted()]
    return [alias for alias in dict.fromkeys(aliases) if alias not in own]


def uses_default() -> bool:
    """Whether the default pool is in use where ``REDIS_POOL`` is not set: by a cache, or as there is no other."""
    return any(single_location(entry.get("LOCATION")) == DEFAULT_ALIAS for _, entry in entries()) or not configured()


def find(alias: str) -> dict[str, Any] | None:
    """Return what ``REDIS_POOL`` would say about a pool of caches; None when there is none of that alias."""
    if alias not in _known:
        configured()
    return _known.get(alias)


def alias_for(url: str, keys: Mapping[str, Any]) -> str:
    """Return the alias of the pool for ``url`` with ``keys`` of ``REDIS_POOL``, making it known if it is new.

    Raises ``ImproperlyConfigured``.
    """
    configured()  # in the order of the settings, so that every process gives them the same aliases
    mapping = {"CONNECTION_URL": url, **keys}
    return _alias_for(RedisPoolConfig.from_mapping(mapping), mapping)


def _wanted() -> Iterator[dict[str, Any]]:
    for name, entry in entries():
        location = single_location(entry.get("LOCATION"))
        if isinstance(location, str) and is_url(location) and not any(find_problems(entry, name)):
            yield {"CONNECTION_URL": location, **pool_keys(entry.get("OPTIONS") or {})}


def _alias_for(config: RedisPoolConfig, mapping: dict[str, Any]) -> str:
    for alias in own_aliases():
        try:
            own = own_config(alias)
        except ImproperlyConfigured:
            continue  # which the checks report
        if _address(own) == _address(config) and _agrees(own, config):
            return alias
    while True:
        for alias, known in list(_known.items()):
            other = RedisPoolConfig.from_mapping(known)
            if _address(other) == _address(config) and _said(other) == _said(config):
                return alias
        alias = _new_alias(config)
        # If another caller has just taken that alias, perhaps for the same pool, once more.
        if _known.setdefault(alias, mapping) is mapping:
            return alias
        alias = _new_alias(config)
        _known[alias] = mapping
    return alias


def _address(config: RedisPoolConfig) -> tuple[Any, ...]:
    """The server and database, in one spelling."""
    url = ConnectionURL.parse(config.connection_url)
    return url.scheme, url.host, url.port, url.path, url.name, config.database


def _said(config: RedisPoolConfig) -> dict[str, Any]:
    """What differs from the defaults, by field, apart from the address; user and password also from the URL."""
    url, config = ConnectionURL.parse(config.connection_url), config.effective()
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    values["username"], values["password"] = config.username or url.username, config.password or url.password
    return {
        item.name: values[item.name]
        for item in fields(config)
        if item.name not in ("connection_url", "db") and values[item.name] != item.default
    }


def _agrees(own: RedisPoolConfig, config: RedisPoolConfig) -> bool:
    """Whether a pool of ``REDIS_POOL`` is all that a cache asks for; what that leaves unsaid is the pool's business."""
    known = _said(own)
    return all(known.get(name) == value for name, value in _said(config).items())


def _new_alias(config: RedisPoolConfig) -> str:
    plain = "cache-" + re.sub(r"[^A-Za-z0-9_.]+", "-", config.masked_url).strip("-")[:50]
    alias, number = plain, 1
    while alias in _known or alias in own_aliases():
        number += 1
        alias = f"{plain}-{number}"
    return alias
