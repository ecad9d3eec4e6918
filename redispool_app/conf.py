"""``settings.REDIS_POOL``: read lazily, checked key by key, never printed with its secrets.

Keys are redis-py's argument names in upper case wherever redis-py has one. Every default is written down here,
because redis-py changes its own between majors.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from redis.credentials import CredentialProvider

DEFAULT_ALIAS = "default"
SETTING = "REDIS_POOL"
SCHEMES = ("redis", "rediss", "unix", "embedded")
MASK = "********"

Check = Callable[[Any], str | None]
"""Returns what the value should be when it is not, else None."""


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a non-empty string"


def _optional_text(value: Any) -> str | None:
    return None if value is None or (isinstance(value, str) and value) else "a non-empty string or None"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: Any) -> str | None:
    return None if _is_number(value) and value > 0 else "a number of seconds above 0"


def _seconds_or_zero(value: Any) -> str | None:
    return None if _is_number(value) and value >= 0 else "a number of seconds, 0 or more"


def _whole(minimum: int) -> Check:
    def check(value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and value >= minimum else f"a whole number, {minimum} or more"

    return check


def _optional_whole(value: Any) -> str | None:
    return None if value is None or _whole(0)(value) is None else "a whole number, 0 or more, or None"


def _one_of(*choices: Any) -> Check:
    def check(value: Any) -> str | None:
        # True == 1, yet nobody means PROTOCOL 1 by it.
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return None if fits else "one of " + ", ".join(map(repr, choices))

    return check


def _client_name(value: Any) -> str | None:
    # CLIENT SETNAME takes printable ASCII without spaces: https://redis.io/docs/latest/commands/client-setname/
    if value is None or (isinstance(value, str) and re.fullmatch(r"[!-~]+", value)):
        return None
    return "printable ASCII without spaces, or None"


def _encoding(value: Any) -> str | None:
    try:
        "".encode(value)
    except (LookupError, TypeError):
        return "the name of a Python codec, such as 'utf-8'"
    return None


def _provider(value: Any) -> str | None:
    if value is None or isinstance(value, str | CredentialProvider):
        return None
    return "a redis.CredentialProvider, its dotted path, or None"


def _url(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return "a URL such as 'redis://localhost:6379/0'"
    if any(character.isspace() or not character.isprintable() for character in value):
        return "a URL without spaces or control characters"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "a URL whose port is a number from 1 to 65535"
    if parts.scheme not in SCHEMES:
        near = _nearest(parts.scheme, SCHEMES)
        return f"a URL that starts with {', '.join(s + '://' for s in SCHEMES)}{near}"
    if parts.scheme in ("redis", "rediss"):
        if not parts.hostname:
            return f"a URL that names a host, such as '{parts.scheme}://localhost:6379/0'"
        if port == 0:
            return "a URL whose port is a number from 1 to 65535"
        if parts.path not in ("", "/") and not re.fullmatch(r"/\d+/?", parts.path):
            return "a URL whose path is a database number, such as '/0'"
    elif parts.scheme == "unix" and not parts.path.strip("/"):
        return "a URL that names a socket, such as 'unix:///run/redis/redis.sock'"
    elif parts.scheme == "embedded" and not re.fullmatch(r"[A-Za-z0-9_-]*", parts.netloc + parts.path.strip("/")):
        return "embedded:// with nothing, or a plain name, after it"
    if parts.fragment:
        return "a URL without a fragment: write '#' in a password as %23"
    return None


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _key(default: Any, check: Check, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"check": check, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class RedisPoolConfig:
    """The configuration of one pool, checked on creation. Times are in seconds.

    Raises ``ImproperlyConfigured``, one line that names the key, for a wrong type
    or an impossible value. In ``settings.REDIS_POOL`` the names are upper case.
    """

    connection_url: str = field(
        default="redis://localhost:6379/0", repr=False, metadata={"check": _url, "secret": False}
    )
    """``redis://``, ``rediss://`` (TLS), ``unix://`` or ``embedded://``. Options after ``?`` override keys."""
    db: int | None = _key(None, _optional_whole)
    """Database number; None takes it from the URL, else 0."""
    username: str | None = _key(None, _optional_text)
    password: str | None = _key(None, _optional_text, secret=True)
    """Instead of the URL's, for passwords that come from a secret store."""
    credential_provider: CredentialProvider | str | None = _key(None, _provider, secret=True)
    """Instead of ``password``: an instance, or the dotted path of one or of a callable that returns one."""
    max_connections: int = _key(50, _whole(1))
    """Connections per event loop, and for all threads of the process together."""
    timeout: float = _key(2.0, _seconds)
    """How long a caller waits for a free connection before ``PoolTimeout`` (BlockingConnectionPool's name)."""
    max_waiting: int = _key(1000, _whole(0))
    """How many callers may wait for a connection; one more gets ``PoolQueueFull`` at once."""
    socket_timeout: float = _key(2.0, _seconds)
    """How long a command waits for its reply."""
    socket_connect_timeout: float = _key(2.0, _seconds)
    """How long a connection attempt may take."""
    socket_keepalive: bool = _key(True, _flag)
    health_check_interval: float = _key(15.0, _seconds)
    """A reply proves health for this long; only an idle pool needs a PING."""
    health_check_timeout: float = _key(1.0, _seconds)
    """How long that PING, and the probe view, may take."""
    retry_backoff_base: float = _key(0.05, _seconds)
    """While Redis is down, probe n waits a random time of up to ``base * 2 ** n`` ..."""
    retry_backoff_cap: float = _key(1.0, _seconds)
    """... but never longer than this."""
    close_timeout: float = _key(5.0, _seconds_or_zero)
    """How long ``close`` and ``reset_pool`` let running commands finish."""
    protocol: int = _key(2, _one_of(2, 3))
    """RESP version."""
    decode_responses: bool = _key(False, _flag)
    encoding: str = _key("utf-8", _encoding)
    encoding_errors: str = _key("strict", _one_of("strict", "ignore", "replace", "backslashreplace", "surrogateescape"))
    client_name: str | None = _key(None, _client_name)
    """Shown by the server's CLIENT LIST."""
    ssl_ca_certs: str | None = _key(None, _optional_text)
    """Path of the CA bundle to trust instead of the system's."""
    ssl_certfile: str | None = _key(None, _optional_text)
    ssl_keyfile: str | None = _key(None, _optional_text)
    ssl_cert_reqs: str = _key("required", _one_of("required", "optional", "none"))
    ssl_check_hostname: bool = _key(True, _flag)
    server_timing: bool = _key(False, _flag)
    """Whether the middleware adds a ``Server-Timing`` header."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ImproperlyConfigured(problems[0])

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], alias: str = DEFAULT_ALIAS) -> Self:
        """Build from a dict with upper-case keys. Raises ``ImproperlyConfigured`` for the first fault."""
        problems, values = _read(mapping, alias)
        if problems:
            raise ImproperlyConfigured(problems[0])
        return cls(**values)

    @property
    def scheme(self) -> str:
        return urlsplit(self.connection_url).scheme

    @property
    def kind(self) -> str:
        """How to connect: ``tcp``, ``tls`` or ``unix``."""
        return {"redis": "tcp", "rediss": "tls"}.get(self.scheme, "unix")

    @property
    def is_embedded(self) -> bool:
        return self.scheme == "embedded"

    @property
    def embedded_name(self) -> str:
        parts = urlsplit(self.connection_url)
        return parts.netloc + parts.path.strip("/")

    @property
    def host(self) -> str | None:
        """The host name, or None for a Unix socket."""
        return urlsplit(self.connection_url).hostname if self.kind != "unix" else None

    @property
    def where(self) -> str:
        """The server's address without credentials, for messages and logs."""
        parts = urlsplit(self.connection_url)
        if self.is_embedded:
            return "embedded://" + self.embedded_name
        if self.kind == "unix":
            return unquote(parts.path)
        host = parts.hostname or ""
        return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"

    @property
    def database(self) -> int:
        parts = urlsplit(self.connection_url)
        option = dict(parse_qsl(parts.query)).get("db")
        path = parts.path.strip("/") if self.kind != "unix" else ""
        return int(option or path or self.db or 0)

    @property
    def masked_url(self) -> str:
        """The URL as it may be shown: scheme, address and database."""
        if self.is_embedded:
            return self.where
        return f"{self.scheme}://{self.where}" + ("" if self.kind == "unix" else f"/{self.database}")

    def masked(self) -> dict[str, Any]:
        """Return every key, upper case, with its value as it may be shown; JSON-ready."""
        shown = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.metadata["secret"] and value is not None:
                value = MASK
            shown[item.name.upper()] = value
        shown["CONNECTION_URL"] = self.masked_url
        return shown

    def __repr__(self) -> str:
        shown = ", ".join(f"{key.lower()}={value!r}" for key, value in self.masked().items())
        return f"RedisPoolConfig({shown})"

    def effective(self) -> Self:
        """Return this configuration with the URL's options taken over into their keys."""
        _, values = _url_options(self.connection_url)
        changed = {name: value for name, value in values.items() if getattr(self, name) != value}
        if not changed:
            return self
        url = self.connection_url.partition("?")[0]
        current = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{**current, **changed, "connection_url": url})

    def connection_kwargs(self, socket_path: str | None = None) -> dict[str, Any]:
        """Return redis-py's keyword arguments for one connection (``socket_path``: the embedded server's)."""
        parts = urlsplit(self.connection_url)
        kwargs: dict[str, Any] = {
            "db": self.database,
            "socket_timeout": self.socket_timeout,
            "socket_connect_timeout": self.socket_connect_timeout,
            "encoding": self.encoding,
            "encoding_errors": self.encoding_errors,
            "decode_responses": self.decode_responses,
            "protocol": self.protocol,
            "client_name": self.client_name,
            "health_check_interval": 0,  # the manager checks, once for all connections
        }
        provider = self.credential_provider
        if provider is not None:
            kwargs["credential_provider"] = _load_provider(provider)
        else:
            kwargs["username"] = self.username or (unquote(parts.username) if parts.username else None)
            kwargs["password"] = self.password or (unquote(parts.password) if parts.password else None)
        if self.kind == "unix":
            kwargs["path"] = socket_path or unquote(parts.path)
            return kwargs
        kwargs.update(host=parts.hostname, port=parts.port or 6379, socket_keepalive=self.socket_keepalive)
        if self.kind == "tls":
            kwargs.update(
                ssl_ca_certs=self.ssl_ca_certs,
                ssl_certfile=self.ssl_certfile,
                ssl_keyfile=self.ssl_keyfile,
                ssl_cert_reqs=self.ssl_cert_reqs,
                ssl_check_hostname=self.ssl_check_hostname and self.ssl_cert_reqs != "none",
            )
        return kwargs


_FIELDS = {item.name: item for item in fields(RedisPoolConfig)}
KEYS = {name.upper(): name for name in _FIELDS}
"""Every key of ``REDIS_POOL``, with its field."""

# Words people bring from other packages, which no spelling distance connects to ours.
_KNOWN_AS = {
    "LOCATION": "CONNECTION_URL",
    "URL": "CONNECTION_URL",
    "REDIS_URL": "CONNECTION_URL",
    "POOL_TIMEOUT": "TIMEOUT",
    "POOL_SIZE": "MAX_CONNECTIONS",
    "HOST": "CONNECTION_URL",
    "PORT": "CONNECTION_URL",
}


def _problems(config: RedisPoolConfig, alias: str = DEFAULT_ALIAS) -> list[str]:
    """Return one line for each fault of a configuration's values."""
    prefix = SETTING if alias == DEFAULT_ALIAS else f"{SETTING}[{alias!r}]"
    problems = []
    for name, item in _FIELDS.items():
        value = getattr(config, name)
        wanted = item.metadata["check"](value)
        if wanted is not None:
            shown = "" if item.metadata["secret"] or name == "connection_url" else f", not {value!r:.60}"
            problems.append(f"{prefix}: {name.upper()} must be {wanted}{shown}.")
    if not problems:
        problems.extend(f"{prefix}: {problem}" for problem in _contradictions(config))
    return problems


def _contradictions(config: RedisPoolConfig) -> list[str]:
    """Values that are fine alone and impossible together."""
    parts = urlsplit(config.connection_url)
    problems, _ = _url_options(config.connection_url)
    if config.password and parts.password:
        problems.append("PASSWORD and a password in CONNECTION_URL are both given; keep one.")
    if config.username and parts.username:
        problems.append("USERNAME and a user name in CONNECTION_URL are both given; keep one.")
    if config.credential_provider is not None and (config.password or parts.password):
        problems.append("CREDENTIAL_PROVIDER and a password are both given; keep one.")
    path = parts.path.strip("/") if parts.scheme in ("redis", "rediss") else ""
    if config.db is not None and path and int(path) != config.db:
        problems.append(f"DB is {config.db} and CONNECTION_URL says {path}; keep one.")
    if config.retry_backoff_cap < config.retry_backoff_base:
        problems.append("RETRY_BACKOFF_CAP must not be below RETRY_BACKOFF_BASE.")
    if parts.scheme != "rediss":
        given = [
            name.upper() for name in _FIELDS if name.startswith("ssl_") and getattr(config, name) != _FIELDS[name].default
        ]
        if given:
            problems.append(f"{given[0]} needs a rediss:// CONNECTION_URL; this one would not be encrypted.")
    return problems


_BOOLEANS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def _url_options(url: str) -> tuple[list[str], dict[str, Any]]:
    """Return the faults and the values of a URL's query: redis-py's options, in lower case."""
    problems, values = [], {}
    for name, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        item = _FIELDS.get(name)
        if item is None or name == "connection_url":
            problems.append(f"CONNECTION_URL has an unknown option {name!r:.40}{_nearest(name, _FIELDS)}.")
            continue
        value = _from_text(text, item.default, item.metadata["check"])
        if (wanted := item.metadata["check"](value)) is not None:
            problems.append(f"CONNECTION_URL's option {name!r} must be {wanted}.")
        else:
            values[name] = value
    return problems, values


def _from_text(text: str, default: Any, check: Check) -> Any:
    if isinstance(default, bool):
        return _BOOLEANS.get(text.lower(), text)
    if isinstance(default, int | float) or check is _optional_whole:
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _load_provider(provider: CredentialProvider | str) -> CredentialProvider:
    loaded = import_string(provider) if isinstance(provider, str) else provider
    loaded = loaded() if callable(loaded) else loaded
    if not isinstance(loaded, CredentialProvider):
        raise ImproperlyConfigured(f"{SETTING}: CREDENTIAL_PROVIDER {provider!r} gives no redis.CredentialProvider.")
    return loaded


def _read(mapping: Any, alias: str) -> tuple[list[str], dict[str, Any]]:
    """Return the faults of one pool's dict, and its values by field name."""
    prefix = SETTING if alias == DEFAULT_ALIAS else f"{SETTING}[{alias!r}]"
    problems, values = [], {}
    for key, value in mapping.items():
        if key in KEYS:
            values[KEYS[key]] = value
            continue
        word = str(key)
        near = _KNOWN_AS.get(word.upper())
        hint = f" (did you mean {near!r}?)" if near else _nearest(word.upper(), KEYS)
        problems.append(f"{prefix}: unknown key {word!r:.60}{hint}.")
    probe = object.__new__(RedisPoolConfig)
    for name, item in _FIELDS.items():
        object.__setattr__(probe, name, values.get(name, item.default))
    problems.extend(_problems(probe, alias))
    return problems, values


def _is_alias_map(raw: Mapping[str, Any]) -> bool:
    return bool(raw) and all(isinstance(value, Mapping | RedisPoolConfig) for value in raw.values())


def _pools() -> dict[str, Any]:
    """Return what ``settings.REDIS_POOL`` says, by alias, unchecked."""
    raw = getattr(settings, SETTING, None)
    if raw is None:
        raw = {}
    if isinstance(raw, RedisPoolConfig):
        return {DEFAULT_ALIAS: raw}
    if not isinstance(raw, Mapping):
        raise ImproperlyConfigured(
            f"{SETTING} must be a dict of keys, a dict of aliases or a RedisPoolConfig, not {type(raw).__name__}."
        )
    return dict(raw) if _is_alias_map(raw) else {DEFAULT_ALIAS: raw}


def get_aliases() -> list[str]:
    """Return the configured aliases, ``default`` first. Raises ``ImproperlyConfigured``."""
    return sorted(_pools(), key=lambda alias: (alias != DEFAULT_ALIAS, alias))


def get_config(alias: str = DEFAULT_ALIAS) -> RedisPoolConfig:
    """Return the configuration of ``alias`` as the settings are now. Raises ``ImproperlyConfigured``."""
    pools = _pools()
    if alias not in pools:
        raise ImproperlyConfigured(
            f"{SETTING} has no alias {alias!r}{_nearest(alias, pools)}; it has {', '.join(map(repr, pools))}."
        )
    found = pools[alias]
    config = found if isinstance(found, RedisPoolConfig) else RedisPoolConfig.from_mapping(found, alias)
    return config.effective()


def get_problems() -> list[str]:
    """Return one line for each fault in ``settings.REDIS_POOL``, for the system checks."""
    try:
        pools = _pools()
    except ImproperlyConfigured as error:
        return [str(error)]
    problems = []
    for alias, found in pools.items():
        if not isinstance(alias, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", alias):
            problems.append(f"{SETTING}: the alias {alias!r:.60} must be letters, digits, '_', '.' or '-', at most 64.")
        elif not isinstance(found, RedisPoolConfig):
            problems.extend(_read(found, alias)[0])
    return problems


def project_directory() -> str:
    """Return what identifies this project among others on the machine: its base directory."""
    return os.path.abspath(str(getattr(settings, "BASE_DIR", "") or os.getcwd()))
