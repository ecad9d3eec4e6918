"""``settings.REDIS_POOL``: read lazily, checked key by key, never printed with its secrets.

Keys are redis-py's argument names in upper case wherever redis-py has one. Every default is written down here,
because redis-py changes its own between majors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from redis.credentials import CredentialProvider

from . import validators
from .url import ConnectionURL
from .validators import Check, Problem, find_problems, not_known, not_valid, read_options

DEFAULT_ALIAS = "default"
SETTING = "REDIS_POOL"
MASK = "********"


def _key(default: Any, check: Check, *, secret: bool = False) -> Any:
    return field(default=default, metadata=_checked(check, secret=secret))


def _checked(check: Check, *, secret: bool = False) -> dict[str, Any]:
    return {"check": check, "secret": secret}


@dataclass(frozen=True, kw_only=True)
class RedisPoolConfig:
    """The configuration of one pool, checked on creation. Times are in seconds.

    Raises ``ImproperlyConfigured``, one line that names the key and the cure, for a
    wrong type or an impossible value. In ``settings.REDIS_POOL`` the names are upper case.
    """

    connection_url: str = _key("redis://localhost:6379", validators.url, secret=True)
    """``redis://``, ``rediss://`` (TLS), ``unix://`` or ``embedded://``. Options after ``?`` override keys."""
    db: int | None = _key(None, validators.optional_whole)
    """Database number; None takes it from the URL, else 0."""
    username: str | None = _key(None, validators.optional_text)
    password: str | None = _key(None, validators.optional_text, secret=True)
    """Instead of the URL's, for passwords that come from a secret store."""
    credential_provider: CredentialProvider | str | None = field(
        default=None, metadata=_checked(validators.provider, secret=True)
    )
    """Instead of ``password``: an instance, or the dotted path of one or of a callable that returns one."""
    max_connections: int = _key(50, validators.whole(1))
    """Connections per event loop, and for all threads of the process together."""
    timeout: float = _key(2.0, validators.seconds)
    """How long a caller waits for a free connection before ``PoolTimeout`` (BlockingConnectionPool's name)."""
    max_waiting: int = _key(1000, validators.whole(0))
    """How many callers may wait for a connection, or for room on the shared one; the next gets ``PoolQueueFull``."""
    max_idle_time: float = _key(60.0, validators.seconds)
    """A connection that was not borrowed for this long is closed; the shared one stays."""
    max_lifetime: float = _key(3600.0, validators.seconds)
    """A borrowed connection is replaced after at most this long, up to a tenth less so that not all end together."""
    max_in_flight: int = _key(20_000, validators.whole(1))
    """How many commands of one event loop, or of all threads, may be under way on their shared connection."""
    max_in_flight_bytes: int = _key(64 * 1024 * 1024, validators.whole(1))
    """How many bytes of commands may be."""
    max_shared_connections: int = _key(4, validators.whole(0))
    """How many connections may be shared while one is stalled. 1: one always; 0: none, each command borrows."""
    retry_writes: bool = _key(False, validators.flag)
    """Whether a write whose reply was lost is sent again: it may then be carried out twice."""
    socket_timeout: float = _key(2.0, validators.seconds)
    """How long a command waits for its reply."""
    socket_connect_timeout: float = _key(2.0, validators.seconds)
    """How long a connection attempt may take."""
    socket_keepalive: bool = _key(True, validators.flag)
    health_check_interval: float = _key(15.0, validators.seconds)
    """A reply proves health for this long; only an idle pool needs a PING."""
    health_check_timeout: float = _key(1.0, validators.seconds)
    """How long that PING, and the probe view, may take."""
    retry_backoff_base: float = _key(0.05, validators.seconds)
    """While Redis is down, probe n waits a random time of up to ``base * 2 ** n`` ..."""
    retry_backoff_cap: float = _key(1.0, validators.seconds)
    """... but never longer than this."""
    close_timeout: float = _key(5.0, validators.seconds_or_zero)
    """How long ``close`` and ``reset_pool`` let running commands finish."""
    protocol: int = _key(2, validators.one_of(2, 3))
    """RESP version."""
    decode_responses: bool = _key(False, validators.flag)
    encoding: str = _key("utf-8", validators.encoding)
    encoding_errors: str = _key(
        "strict", validators.one_of("strict", "ignore", "replace", "backslashreplace", "surrogateescape")
    )
    client_name: str | None = _key(None, validators.client_name)
    """The first part of ``app:host:pid:alias`` in the server's CLIENT LIST; None: the project's package."""
    ssl_ca_certs: str | Path | None = field(default=None, metadata=_checked(validators.path))
    """Path of the CA bundle to trust instead of the system's."""
    ssl_certfile: str | Path | None = field(default=None, metadata=_checked(validators.path))
    ssl_keyfile: str | Path | None = field(default=None, metadata=_checked(validators.path))
    ssl_cert_reqs: str = _key("required", validators.one_of("required", "optional", "none"))
    ssl_check_hostname: bool = _key(True, validators.flag)
    server_timing: bool = _key(False, validators.flag)
    """Whether the middleware adds a ``Server-Timing`` header."""
    slow_command: float = _key(0.1, validators.seconds)
    """Callers that waited at least so long are remembered."""
    publish_interval: float | None = _key(5.0, validators.interval)
    """How often each process tells the others, through Redis, how its pools do; None: never."""
    publish_prefix: str = _key("redispool", validators.key_prefix)
    """What the keys of that begin with."""

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        _raise_first(find_problems(given, _FIELDS, SETTING))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], alias: str = DEFAULT_ALIAS) -> Self:
        """Build from a dict with upper-case keys. Raises ``ImproperlyConfigured`` for the first fault."""
        place = SETTING if alias == DEFAULT_ALIAS else f"{SETTING}[{alias!r}]"
        _raise_first(find_pool_problems(mapping, place))
        return cls(**{KEYS[key]: value for key, value in mapping.items()})

    @cached_property
    def _url(self) -> ConnectionURL:
        return ConnectionURL.parse(self.connection_url)

    @property
    def app(self) -> str:
        """What the connections' names begin with."""
        package = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")[0]
        return self.client_name or package or "django"

    @property
    def scheme(self) -> str:
        return self._url.scheme

    @property
    def kind(self) -> str:
        """How to connect: ``tcp``, ``tls`` or ``unix``."""
        return {"redis": "tcp", "rediss": "tls"}.get(self.scheme, "unix")

    @property
    def is_embedded(self) -> bool:
        return self.scheme == "embedded"

    @property
    def embedded_name(self) -> str:
        return self._url.name

    @property
    def host(self) -> str | None:
        """The host name or address, or None for a Unix socket."""
        return self._url.host or None

    @property
    def where(self) -> str:
        """The server's address without credentials, for messages and logs."""
        url = self._url
        if self.is_embedded:
            return "embedded://" + url.name
        if self.kind == "unix":
            return url.path
        return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"

    @property
    def database(self) -> int:
        return self._url.database or self.effective().db or 0

    @property
    def masked_url(self) -> str:
        """The URL as it may be shown: scheme, address and database."""
        if self.is_embedded:
            return self.where
        return f"{self.scheme}://{self.where}" + ("" if self.kind == "unix" else f"/{self.database}")

    def masked(self) -> dict[str, Any]:
        """Return every key, upper case, with its value as it may be shown; JSON-ready."""
        shown: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.metadata.get("secret") and value is not None:
                value = MASK
            shown[item.name.upper()] = os.fspath(value) if isinstance(value, os.PathLike) else value
        shown["CONNECTION_URL"] = self.masked_url
        return shown

    def __repr__(self) -> str:
        shown = ", ".join(f"{key.lower()}={value!r}" for key, value in self.masked().items())
        return f"RedisPoolConfig({shown})"

    def effective(self) -> Self:
        """Return this configuration with the URL's options taken over into their keys."""
        if not self._url.options:
            return self
        current = {item.name: getattr(self, item.name) for item in fields(self)}
        _, taken_over = read_options(self._url, _FIELDS)
        return type(self)(**{**current, **taken_over, "connection_url": self.connection_url.partition("?")[0]})

    def connection_kwargs(self, socket_path: str | None = None) -> dict[str, Any]:
        """Return redis-py's keyword arguments for one connection (``socket_path``: the embedded server's).

        Raises ``ImproperlyConfigured`` when CREDENTIAL_PROVIDER cannot be loaded.
        """
        if self._url.options:
            return self.effective().connection_kwargs(socket_path)
        url = self._url
        kwargs: dict[str, Any] = {
            "db": self.database,
            "socket_timeout": self.socket_timeout,
            "socket_connect_timeout": self.socket_connect_timeout,
            "encoding": self.encoding,
            "encoding_errors": self.encoding_errors,
            "decode_responses": self.decode_responses,
            "protocol": self.protocol,
            "health_check_interval": 0,  # the manager checks, once for all connections
        }
        if self.credential_provider is not None:
            kwargs["credential_provider"] = _load_provider(self.credential_provider)
        else:
            kwargs.update(username=self.username or url.username, password=self.password or url.password)
        if self.kind == "unix":
            kwargs["path"] = socket_path or url.path
            return kwargs
        kwargs.update(host=url.host, port=url.port, socket_keepalive=self.socket_keepalive)
        if self.kind == "tls":
            for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
                path = getattr(self, name)
                kwargs[name] = os.fspath(path) if path is not None else None
            kwargs["ssl_cert_reqs"] = self.ssl_cert_reqs
            kwargs["ssl_check_hostname"] = self.ssl_check_hostname and self.ssl_cert_reqs != "none"
        return kwargs


_FIELDS = {item.name: item for item in fields(RedisPoolConfig)}
KEYS = {name.upper(): name for name in _FIELDS}
"""Every key of ``REDIS_POOL``, with its field."""

# Words people bring from other packages, which no spelling distance connects to ours.
_KNOWN_AS = {
    "LOCATION": "CONNECTION_URL",
    "URL": "CONNECTION_URL",
    "REDIS_URL": "CONNECTION_URL",
    "HOST": "CONNECTION_URL",
    "PORT": "CONNECTION_URL",
    "POOL_TIMEOUT": "TIMEOUT",
    "POOL_SIZE": "MAX_CONNECTIONS",
}


def _load_provider(provider: CredentialProvider | str) -> CredentialProvider:
    """Return the provider. Imported as late as this, because its code may need the settings itself."""
    try:
        loaded = import_string(provider) if isinstance(provider, str) else provider
        if not isinstance(loaded, CredentialProvider):
            loaded = loaded()
    except Exception as error:
        raise ImproperlyConfigured(_provider_problem(f"raises {type(error).__name__}")) from error
    if not isinstance(loaded, CredentialProvider):
        raise ImproperlyConfigured(_provider_problem(f"gives a {type(loaded).__name__}"))
    return loaded


def _provider_problem(fault: str) -> str:
    return f"{SETTING}: CREDENTIAL_PROVIDER {fault}: name a redis.CredentialProvider or a callable that returns one."


def find_pool_problems(pool: Any, place: str) -> Iterator[Problem]:
    """What is wrong with one pool: a dict of keys, or a ``RedisPoolConfig``, which was checked on creation."""
    if isinstance(pool, RedisPoolConfig):
        return
    if not isinstance(pool, Mapping):
        yield not_valid(place, pool, "a dict of keys or a RedisPoolConfig")
        return
    for key, value in pool.items():
        if key in KEYS:
            continue
        cure = "remove it (RedisPoolConfig lists the keys)."
        if isinstance(value, Mapping):
            cure = "give every pool a dict of its own, 'default' too."
        elif isinstance(key, str) and key.upper() in _KNOWN_AS:
            cure = f"did you mean {_KNOWN_AS[key.upper()]!r}?"
        yield not_known(f"{place} has an unknown key", key, KEYS, cure)
    given = {name: pool.get(key, _FIELDS[name].default) for key, name in KEYS.items()}
    yield from find_problems(given, _FIELDS, place)


def _raise_first(problems: Iterator[Problem]) -> None:
    first = next(problems, None)
    if first is not None:
        raise ImproperlyConfigured(str(first))
