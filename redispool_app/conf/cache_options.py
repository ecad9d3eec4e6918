"""A cache's OPTIONS and LOCATION in ``settings.CACHES``: checked key by key, as those of ``REDIS_POOL`` are."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from django.core.exceptions import ImproperlyConfigured

from redispool_app.serialization import compression, serializers
from redispool_app.serialization.import_path import imported_function

from . import validators
from .config import DEFAULT_ALIAS, KEYS, SETTING, find_pool_problems
from .validators import Check, Problem, not_known, not_valid


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata=_checked(check))


def _checked(check: Check) -> dict[str, Any]:
    return {"check": check}


def _serializer(value: Any) -> str | None:
    try:
        serializers.find_for_cache(value)
    except ValueError as error:
        return str(error)
    return None


def _compressor(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in compression.CHOICES):
        return None
    near = [name for name in compression.CHOICES if isinstance(value, str) and name in value.lower()]
    return repr(near[0]) if near else " or ".join(map(repr, (*compression.CHOICES, None)))


def _protocol(value: Any) -> str | None:
    fits = value is None or (_is_whole(value) and 0 <= value <= pickle.HIGHEST_PROTOCOL)
    return None if fits else f"a protocol of pickle, from 0 to {pickle.HIGHEST_PROTOCOL}, or None for the highest"


def _level(value: Any) -> str | None:
    return None if value is None or _is_whole(value) else "a whole number, or None"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _function(value: Any) -> str | None:
    try:
        if value is not None:
            imported_function(value)
    except ValueError as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """The OPTIONS of one cache, apart from the keys of its pool. In ``CACHES`` the names are upper case."""

    serializer: Any = field(default="pickle", metadata=_checked(_serializer))
    """``"pickle"``, ``"json"``, ``"msgpack"``, or an object with ``dumps`` and ``loads``, its class or dotted path."""
    pickle_protocol: int | None = _option(None, _protocol)
    """None for the highest."""
    compressor: str | None = _option(None, _compressor)
    """``"zlib"``, ``"zstd"`` or None."""
    compress_min_size: int = _option(1024, validators.whole(0))
    """Bytes; what is smaller is stored as it is."""
    compress_level: int | None = _option(None, _level)
    ignore_exceptions: bool = _option(False, validators.flag)
    """Whether the cache is an empty one during an outage, instead of raising."""
    log_ignored_exceptions: bool = _option(True, validators.flag)
    clear_flushes_db: bool = _option(False, validators.flag)
    """Whether ``clear()`` empties the whole database, others' keys too."""
    reverse_key_function: Callable[[str], str] | str | None = field(default=None, metadata=_checked(_function))
    """Makes the caller's key of a full one, for ``keys()``; needed only where KEY_FUNCTION changes the key."""
    stampede_wait: float = _option(10.0, validators.seconds_or_zero)
    """How long ``get_or_set`` waits, in seconds, for another caller's computation; 0 for not at all."""
    stampede_lock_timeout: float = _option(10.0, validators.seconds)
    """Seconds after which a computing caller is taken for dead."""
    stale_timeout: int = _option(0, validators.whole(0))
    """How many seconds beyond its timeout a value serves those who would otherwise wait in ``get_or_set``."""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """Build from OPTIONS that ``find_problems`` finds nothing wrong with."""
        return cls(**{NAMES[key]: value for key, value in options.items() if key in NAMES})


NAMES = {item.name.upper(): item.name for item in fields(CacheOptions)}
_CHECKS: dict[str, Check] = {item.name.upper(): item.metadata["check"] for item in fields(CacheOptions)}
_POOL_KEYS = [key for key in KEYS if key != "CONNECTION_URL"]

_EVICTION = "remove it; the server evicts as its maxmemory-policy says."
_OWN_POOL = "remove it; the pool is this package's own."
_ONE_CLIENT = "remove it; there is one client."
_BESIDE = "write it beside OPTIONS, as Django has it."
_UPPER_CASE = "write its keys in upper case into OPTIONS, beside a URL as LOCATION, or into REDIS_POOL."
_PRIMARY = "remove it and let LOCATION, or the pool's CONNECTION_URL, name the primary, or a proxy that follows it."

# What Django's RedisCache, django-redis and django-valkey know and this cache does not, or by another name.
_KNOWN_ELSEWHERE = {
    "MAX_ENTRIES": _EVICTION,
    "CULL_FREQUENCY": _EVICTION,
    "PICKLE_VERSION": "did you mean 'PICKLE_PROTOCOL'?",
    "LOG_IGNORE_EXCEPTIONS": "did you mean 'LOG_IGNORED_EXCEPTIONS'?",
    "CACHE_COMPRESS_LEVEL": "did you mean 'COMPRESS_LEVEL'?",
    "CACHE_COMPRESS_MIN_LENGTH": "did you mean 'COMPRESS_MIN_SIZE'?",
    "COMPRESS_MIN_LENGTH": "did you mean 'COMPRESS_MIN_SIZE'?",
    "CACHE_HERD_TIMEOUT": "remove it; get_or_set computes once, and STALE_TIMEOUT serves those who would wait.",
    "CLIENT_CLASS": _ONE_CLIENT,
    "BASE_CLIENT_CLASS": _ONE_CLIENT,
    "REDIS_CLIENT_CLASS": _ONE_CLIENT,
    "BASE_CLIENT_KWARGS": _UPPER_CASE,
    "REDIS_CLIENT_KWARGS": _UPPER_CASE,
    "CONNECTION_POOL_KWARGS": _UPPER_CASE,
    "PARSER_CLASS": "remove it; replies are parsed by hiredis.",
    "PARSER_CLS": "remove it; replies are parsed by hiredis.",
    "POOL_CLASS": _OWN_POOL,
    "CONNECTION_POOL_CLASS": _OWN_POOL,
    "CONNECTION_FACTORY": _OWN_POOL,
    "CLOSE_CONNECTION": "remove it; connections are shared, and stay open from request to request.",
    "SENTINELS": _PRIMARY,
    "SENTINEL_KWARGS": _PRIMARY,
    "REPLICA_READ_ONLY": "remove it and name the primary; the cache reads from where it writes.",
    "KEY_PREFIX": _BESIDE,
    "KEY_FUNCTION": _BESIDE,
    "VERSION": _BESIDE,
    "LOCATION": _BESIDE,
    "CONNECTION_URL": "write it as LOCATION, beside OPTIONS.",
}
_OTHER_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_COMPRESSOR_OWN = "remove it; COMPRESS_LEVEL is the only argument that compressors take."
"""For django-valkey's options of one format each, such as COMPRESS_ZLIB_WBITS."""


def is_url(location: str) -> bool:
    """Whether a LOCATION that has no problem is a URL, and not an alias."""
    return "://" in location


def is_alias(location: Any) -> bool:
    """Whether a LOCATION can be an alias of ``REDIS_POOL``."""
    return isinstance(location, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", location) is not None


def pool_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those OPTIONS that are keys of ``REDIS_POOL``."""
    return {key: options[key] for key in _POOL_KEYS if key in options}


def single_location(location: Any) -> Any:
    """Return the one LOCATION of a list of one, and the default pool's alias for none at all."""
    if isinstance(location, list | tuple) and len(location) == 1:
        location = location[0]
    return DEFAULT_ALIAS if location is None or location == "" else location


def find_problems(entry: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Everything that is wrong with an entry of ``CACHES``; ``place`` is where in the settings it stands."""
    location, options = single_location(entry.get("LOCATION")), entry.get("OPTIONS")
    wrong_location = list(_find_location_problems(location, f"{place}['LOCATION']"))
    yield from wrong_location
    for key in ("KEY_FUNCTION", "REVERSE_KEY_FUNCTION"):
        wanted = _function(entry.get(key))
        if wanted is not None:
            yield not_valid(f"{place}[{key!r}]", entry[key], wanted)
    place = f"{place}['OPTIONS']"
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        yield not_valid(place, options, "a dict of keys")
        return
    for key, value in options.items():
        yield from _find_option_problems(key, value, place)
    yield from _find_compression_problems(options, place)
    given = pool_keys(options)
    if wrong_location:
        yield from find_pool_problems(given, place)
    elif is_url(location):
        yield from find_pool_problems({"CONNECTION_URL": location, **given}, place)
    else:
        for key in given:
            yield Problem(
                f"{place} has {key!r}, yet LOCATION names a pool of {SETTING}",
                f"write it into {SETTING}, or give LOCATION a URL.",
            )


def _find_compression_problems(options: Mapping[str, Any], place: str) -> Iterator[Problem]:
    compressor, level = options.get("COMPRESSOR"), options.get("COMPRESS_LEVEL")
    # What one of them is by itself has been said.
    trouble = None if _compressor(compressor) or _level(level) else compression.problem(compressor, level)
    if trouble:
        yield Problem(f"{place} cannot be used", trouble)


def _find_option_problems(key: Any, value: Any, place: str) -> Iterator[Problem]:
    if key in _CHECKS:
        wanted = _CHECKS[key](value)
        if wanted is not None:
            yield not_valid(f"{place}[{key!r}]", value, wanted)
    elif key not in _POOL_KEYS:
        cure = _known_elsewhere(key.upper()) if isinstance(key, str) else None
        if cure is not None:
            yield Problem(f"{place} has an unknown key {key!r}", cure)
        else:
            yield not_known(f"{place} has an unknown key", key, [*_CHECKS, *_POOL_KEYS], "remove it.")


def _known_elsewhere(key: str) -> str | None:
    if re.match(r"COMPRESS_(BROTLI|BZ2|LZ4|LZMA|ZLIB|ZSTD)_", key):
        return _COMPRESSOR_OWN
    return _KNOWN_ELSEWHERE.get(key)


def _find_location_problems(location: Any, place: str) -> Iterator[Problem]:
    if isinstance(location, list | tuple | set) or (isinstance(location, str) and _names_several(location)):
        yield Problem(f"{place} names several servers", "name one; the cache reads from where it writes.")
    elif not isinstance(location, str):
        yield not_valid(place, location, f"an alias of {SETTING}, or a URL such as 'redis://localhost:6379/0'")
    elif is_url(location):
        scheme = location.partition("://")[0].lower()
        if scheme in _OTHER_SCHEMES:
            yield Problem(
                f"{place} starts with {scheme}://",
                f"write {_OTHER_SCHEMES[scheme]}://, which speaks to the same servers.",
            )
        elif (wanted := validators.url(location)) is not None:
            yield not_valid(place, location, wanted, secret=True)
    elif re.fullmatch(r"[^/@\s]+:[0-9]{1,5}(/[0-9]*)?", location):
        yield Problem(f"{place} is an address, not a URL", "put redis:// in front of it.")
    elif not is_alias(location):
        yield not_valid(place, location, f"an alias of {SETTING}, or a URL such as 'redis://localhost:6379/0'")


def _names_several(location: str) -> bool:
    # A password may hold a ',' or ';'; what follows it is another server only if it is a URL or an address itself.
    _, *more = re.split(r"[;,]", location)
    return any(re.match(r"\s*([a-z]+://|[\w.-]+:[0-9]+$)", part) for part in more)


def check(entry: Mapping[str, Any], place: str = "CACHES") -> tuple[str, CacheOptions]:
    """Return the LOCATION and the options that were read. Raises ``ImproperlyConfigured`` for the first problem."""
    first = next(find_problems(entry, place), None)
    if first is not None:
        raise ImproperlyConfigured(str(first))
    beside = {key: entry[key] for key in ("REVERSE_KEY_FUNCTION",) if key in entry}
    return single_location(entry.get("LOCATION")), CacheOptions.read({**beside, **(entry.get("OPTIONS") or {})})
