"""``CONNECTION_URL``: read into its parts, or refused with a reason that does not repeat it.

The forms are redis-py's (https://redis.readthedocs.io/en/stable/connections.html#redis.Redis.from_url), and
``embedded://``. Stricter in one respect: what redis-py would silently drop is an error here.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix", "embedded")
PORT = 6379

_ESCAPED = "a URL whose user name and password have @ : / ? # and % percent-encoded ('@' as %40, '/' as %2F)"
_HOST = "a URL that names a host: a name, an IPv4 address, or an IPv6 address in brackets"
_PORT = "a URL whose port is a number from 1 to 65535"
_DATABASE = "a URL whose path is a database number, such as '/0'"
_SOCKET = "a URL that names a socket after three slashes, such as 'unix:///run/redis/redis.sock'"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionURL:
    """The parts of a valid URL, percent-decoded. ``repr`` shows no secret."""

    scheme: str
    host: str = ""
    port: int = PORT
    path: str = ""
    """The Unix socket's path."""
    name: str = ""
    """The embedded server's name."""
    database: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What follows the ``?``, in order."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ``ValueError`` whose text says what the URL should be."""
        if not url.isprintable() or " " in url:
            raise ValueError("a URL without spaces and control characters")
        parts = _split(url)
        if parts.scheme not in SCHEMES:
            near = difflib.get_close_matches(parts.scheme, SCHEMES, n=1)
            meant = f" (did you mean {near[0]}://?)" if near else ""
            raise ValueError("a URL that starts with " + " or ".join(f"{scheme}://" for scheme in SCHEMES) + meant)
        if "@" in parts.path + parts.query + parts.fragment:
            # The rest of a password that holds a raw '/', '?' or '#'.
            raise ValueError(_ESCAPED)
        if "#" in url:
            raise ValueError("a URL without a fragment (write '#' as %23)")
        userinfo, _, address = parts.netloc.rpartition("@")
        username, _, password = userinfo.partition(":")
        place = _PLACES[parts.scheme](parts.netloc if parts.scheme == "embedded" else address, parts.path)
        return cls(
            scheme=parts.scheme,
            username=_decoded(username) or None,
            password=_decoded(password) or None,
            options=_options(parts.query),
            **place,
        )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # Whose text repeats the URL.
        raise ValueError(_HOST) from None


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a URL whose percent-encoded bytes are UTF-8") from None


def _options(query: str) -> tuple[tuple[str, str], ...]:
    _decoded(query)
    options = tuple(parse_qsl(query, keep_blank_values=True))
    if len(dict(options)) < len(options):
        raise ValueError("a URL that gives each option once")
    return options


def _network_place(address: str, path: str) -> dict[str, Any]:
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]*))?", address)
    if found is None:
        raise ValueError(_HOST if "[" in address or address.startswith(":") else _PORT)
    port = int(found[2][:6]) if found[2] else PORT
    if not 0 < port < 65536:
        raise ValueError(_PORT)
    host = _host(_decoded(found[1]).lower())
    number = path.strip("/")
    if not re.fullmatch(r"(/[0-9]{0,10}/?)?", path) or (number and int(number) >= 2**31):
        raise ValueError(_DATABASE)
    return {"host": host, "port": port, "database": int(number) if number else None}


def _host(host: str) -> str:
    """Return a host as the resolver takes it, an IPv6 address without its brackets."""
    plain = ""
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
            host = plain = host[1:-1]
        elif len(host) <= 253 and ":" not in host:
            # getaddrinfo does the same: a label that is too long is a fault now instead of a surprise later.
            plain = host.strip(".") and host.encode("idna").decode()
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", plain):
        raise ValueError(_HOST)
    return host


def _socket_place(address: str, path: str) -> dict[str, Any]:
    path = _decoded(path)
    if address or not path.startswith("/") or path.endswith("/"):
        raise ValueError(_SOCKET)
    if not path.isprintable() or len(path.encode()) > 107:
        # The size of sun_path less its final zero byte, see unix(7).
        raise ValueError("a URL whose socket path has at most 107 bytes and no control characters")
    return {"path": path}


def _embedded_place(address: str, path: str) -> dict[str, Any]:
    if path.strip("/") or not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", address):
        raise ValueError("embedded:// with nothing, or a plain name, after it")
    return {"name": address}


_PLACES = {"redis": _network_place, "rediss": _network_place, "unix": _socket_place, "embedded": _embedded_place}
