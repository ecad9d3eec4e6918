"""What the values of ``REDIS_POOL`` must be, each for itself and together, and how a fault is put into words.

Nothing here repeats a value that could hold a password, and every sentence is one line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass
from typing import Any

from redis.credentials import CredentialProvider

from .url import ConnectionURL

Check = Callable[[Any], str | None]
"""Returns what the value should be when it is not, else None."""

# The longest wait that every clock and poll of the standard library takes: 2 ** 31 milliseconds are 24 days.
_LONGEST = 1_000_000
_LARGEST = 2**31 - 1
_LONGEST_INTERVAL = 300
_ASCII = bytes(range(32, 127))


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in the settings and its cure; together they are one line."""

    fault: str
    cure: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.cure}"


# Words for faults.


def not_valid(place: str, value: Any, wanted: str, *, secret: bool = False) -> Problem:
    """The value at ``place`` is not what was ``wanted``."""
    known = None if secret else shown(value)
    return Problem(f"{place} is {known}" if known else f"{place} cannot be used", f"use {wanted}.")


def is_lazy(value: Any) -> bool:
    """Whether it only pretends to be text, a number or a path, as Django's lazy objects do; redis-py needs the real."""
    pretended = isinstance(value, str | int | float | os.PathLike)
    return pretended and not isinstance(value, type) and not issubclass(type(value), value.__class__)


def not_known(place: str, word: Any, known: Iterable[str], otherwise: str) -> Problem:
    """``word`` is no name that exists at ``place``; ``otherwise`` is the cure when none comes near it."""
    near: list[str] = []
    if isinstance(word, str):
        spelled = {name.upper(): name for name in known}
        near = [spelled[name] for name in difflib.get_close_matches(word.upper(), spelled, n=1)]
    fault = f"{place} {shown(word)}" if shown(word) else place
    return Problem(fault, f"did you mean {near[0]!r}?" if near else otherwise)


def shown(value: Any) -> str | None:
    """Return a value as a message may repeat it; None when it may not, as it could hold an address or a password."""
    if is_lazy(value):
        return f"a lazy value ({type(value).__name__})"
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, int):
        return int.__repr__(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    if isinstance(value, str):
        return str.__repr__(value) if re.fullmatch(r"[\w .,+-]{0,60}", value, re.ASCII) else None
    return f"of type {type(value).__name__}"


# One value.


def text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a string that is not empty"


def optional_text(value: Any) -> str | None:
    return None if value is None or text(value) is None else "a string that is not empty, or None"


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds(value: Any) -> str | None:
    fits = _is_number(value) and 0 < value <= _LONGEST
    return None if fits else f"a number of seconds above 0, at most {_LONGEST}"


def seconds_or_zero(value: Any) -> str | None:
    fits = _is_number(value) and 0 <= value <= _LONGEST
    return None if fits else f"a number of seconds from 0 to {_LONGEST}"


def whole(minimum: int) -> Check:
    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= _LARGEST
        return None if fits else f"a whole number from {minimum} to {_LARGEST}"

    return check


def optional_whole(value: Any) -> str | None:
    return None if value is None or whole(0)(value) is None else f"a whole number from 0 to {_LARGEST}, or None"


def one_of(*choices: Any) -> Check:
    def check(value: Any) -> str | None:
        # True == 1, but it does not mean PROTOCOL 1.
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return None if fits else " or ".join(map(repr, choices))

    return check


def client_name(value: Any) -> str | None:
    # CLIENT SETNAME takes printable ASCII without spaces: https://redis.io/docs/latest/commands/client-setname/
    if value is None or (isinstance(value, str) and re.fullmatch(r"[!-~]+", value)):
        return None
    return "printable ASCII without spaces, or None"


def interval(value: Any) -> str | None:
    fits = value is None or (_is_number(value) and 0.1 <= value <= _LONGEST_INTERVAL)
    return None if fits else f"a number of seconds from 0.1 to {_LONGEST_INTERVAL}, or None"


def key_prefix(value: Any) -> str | None:
    # No brace: what stands first in braces decides about a key's slot in a cluster
    # (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
    fits = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value)
    return None if fits else "letters, digits, '_', '.', ':' and '-', at most 64"


def encoding(value: Any) -> str | None:
    # The names of commands and options are encoded too, and must come out as ASCII.
    try:
        fits = isinstance(value, str) and _ASCII.decode().encode(value) == _ASCII
    except (LookupError, ValueError):
        fits = False
    return None if fits else "the name of a Python codec that extends ASCII, such as 'utf-8'"


def path(value: Any) -> str | None:
    if value is None:
        return None
    text_of_path = os.fspath(value) if isinstance(value, os.PathLike) else value
    fits = isinstance(text_of_path, str) and text_of_path.isprintable() and text_of_path
    return None if fits else "the path of a PEM file, or None"


def provider(value: Any) -> str | None:
    if value is None or isinstance(value, CredentialProvider):
        return None
    if isinstance(value, str) and all(map(str.isidentifier, value.split("."))) and "." in value:
        return None
    return "a redis.CredentialProvider, its dotted path, or None"


def url(value: Any) -> str | None:
    if not isinstance(value, str):
        return "a URL such as 'redis://localhost:6379/0'"
    try:
        ConnectionURL.parse(value)
    except ValueError as error:
        return str(error)
    return None


# All values of a pool.

Fields = Mapping[str, Field[Any]]
"""The fields of ``RedisPoolConfig`` by name; ``metadata`` holds each one's ``check``, and ``secret``."""


def find_problems(given: Mapping[str, Any], fields: Fields, place: str) -> Iterator[Problem]:
    """What is wrong with a pool's values, given by field name; ``place`` is where in the settings they stand."""
    sound = True
    for name, item in fields.items():
        value = given[name]
        wanted = "the value itself" if is_lazy(value) else item.metadata["check"](value)
        if wanted is not None:
            sound = False
            yield not_valid(f"{place}[{name.upper()!r}]", given[name], wanted, secret=item.metadata["secret"])
    if not sound:
        return
    connection_url = ConnectionURL.parse(given["connection_url"])
    problems, options = read_options(connection_url, fields)
    for problem in problems or _contradictions({**given, **options}, fields, connection_url):
        yield Problem(f"{place}: {problem.fault}", problem.cure)


def _contradictions(given: Mapping[str, Any], fields: Fields, in_url: ConnectionURL) -> Iterator[Problem]:
    """Values that are fine alone and impossible together."""
    password, username, provider = given["password"], given["username"], given["credential_provider"]
    if password and in_url.password:
        yield Problem("PASSWORD and a password in CONNECTION_URL are both given", "keep one.")
    if username and in_url.username:
        yield Problem("USERNAME and a user name in CONNECTION_URL are both given", "keep one.")
    password, username = password or in_url.password, username or in_url.username
    if provider is not None and (password or username):
        yield Problem("CREDENTIAL_PROVIDER and a user name or password are both given", "keep one.")
    if in_url.scheme == "embedded" and (provider is not None or password or username):
        yield Problem("the embedded server knows no user names and passwords", "remove them.")
    for name, value in (("PASSWORD", password), ("USERNAME", username)):
        if not _can_encode(value or "", given["encoding"], given["encoding_errors"]):
            yield Problem(f"{name} has characters that ENCODING cannot write", "change one of them.")
    if given["db"] is not None and in_url.database not in (None, given["db"]):
        yield Problem(f"DB is {given['db']} and CONNECTION_URL says {in_url.database}", "keep one.")
    if given["retry_backoff_cap"] < given["retry_backoff_base"]:
        yield Problem("RETRY_BACKOFF_CAP is below RETRY_BACKOFF_BASE", "raise the cap or lower the base.")
    if given["ssl_keyfile"] is not None and given["ssl_certfile"] is None:
        yield Problem("SSL_KEYFILE is given without SSL_CERTFILE", "give the certificate that belongs to the key.")
    for name in fields:
        if name.startswith("ssl_") and given[name] != fields[name].default and in_url.scheme != "rediss":
            yield Problem(f"{name.upper()} is given, yet CONNECTION_URL is not encrypted", "start it with rediss://.")


def _can_encode(value: str, codec: str, errors: str) -> bool:
    try:
        value.encode(codec, errors)
    except ValueError:
        return False
    return True


# The URL's options.

_BOOLEANS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}

# A URL often comes from the environment, which should not name code to run.
_NOT_IN_URL = frozenset({"connection_url", "credential_provider"})


def read_options(in_url: ConnectionURL, fields: Fields) -> tuple[list[Problem], dict[str, Any]]:
    """Return the faults of a URL's options, and the values by field name."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    allowed = [name for name in fields if name not in _NOT_IN_URL]
    for name, written in in_url.options:
        if name not in allowed:
            problems.append(not_known("CONNECTION_URL has an unknown option", name, allowed, "remove it."))
            continue
        check: Check = fields[name].metadata["check"]
        value = _read_option(written, fields[name].default, check)
        wanted = check(value)
        if wanted is None:
            values[name] = value
        else:
            problems.append(Problem(f"CONNECTION_URL's option {name!r} cannot be used", f"use {wanted}."))
    return problems, values


def _read_option(written: str, default: Any, check: Check) -> Any:
    if isinstance(default, bool):
        return _BOOLEANS.get(written.lower(), written)
    if isinstance(default, int | float) or check is optional_whole:
        for number in (int, float):
            try:
                return number(written)
            except ValueError:
                continue
    return written
