"""How a store's values become bytes and come back: JSON, bytes, msgpack, or a project's own object.

A top-level int is stored as ASCII digits by JSON and msgpack alike, because that is what Redis' INCRBY reads and
writes. Pickle is not on offer: whoever can write to Redis could run code in every process that reads.
"""

from __future__ import annotations

import difflib
import json
import re
from importlib import import_module
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

__all__ = ["BytesSerializer", "JSONSerializer", "MsgpackSerializer", "Serializer"]


class Serializer(Protocol):
    """What a store needs of a serializer; text from ``dumps`` is stored as UTF-8.

    A store that uses ``incr`` or ``hincr`` needs one that reads and writes an int as ASCII digits.
    """

    def dumps(self, value: Any, /) -> bytes | str: ...

    def loads(self, data: bytes, /) -> Any: ...


class JSONSerializer:
    """Compact JSON in UTF-8, as RFC 8259 has it: no NaN, no infinities, no lone surrogates.

    As always with JSON, a tuple comes back as a list and a dict's keys as str.
    """

    def dumps(self, value: Any, /) -> bytes:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()

    def loads(self, data: bytes, /) -> Any:
        # Decoded here: json.loads would guess among UTF-8, UTF-16 and UTF-32.
        return json.loads(data.decode())


class BytesSerializer:
    """Bytes as they are; a counter comes back as its ASCII digits."""

    def dumps(self, value: Any, /) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"a bytes-like object is required, not {type(value).__name__}")
        return bytes(value)

    def loads(self, data: bytes, /) -> bytes:
        return bytes(data)


class MsgpackSerializer:
    """msgpack, except that a top-level int is ASCII digits, fit for INCRBY.

    The two cannot be confused: digits and '-' lie below 0x80, where msgpack has only the positive fixint, an int;
    a document of any other type starts at 0x80 or above.
    https://github.com/msgpack/msgpack/blob/master/spec.md#formats

    As always with msgpack, a tuple comes back as a list.
    """

    def __init__(self) -> None:
        self._msgpack = import_module("msgpack")

    def dumps(self, value: Any, /) -> bytes:
        if isinstance(value, int) and not isinstance(value, bool):
            return b"%d" % value
        packed: bytes = self._msgpack.packb(value, use_bin_type=True)
        return packed

    def loads(self, data: bytes, /) -> Any:
        if data[:1] < b"\x80" and re.fullmatch(rb"-?[0-9]+", data):
            return int(data)
        return self._msgpack.unpackb(data, raw=False, strict_map_key=False)


_BY_NAME: dict[str, type[Serializer]] = {
    "json": JSONSerializer,
    "bytes": BytesSerializer,
    "msgpack": MsgpackSerializer,
}


def find_serializer(choice: Any, owner: str) -> Serializer:
    """Return the serializer that ``choice`` names or is, for the store called ``owner``.

    Raises ``ImproperlyConfigured``, one line that names the cure.
    """
    if "pickle" in _name(choice).lower():
        raise ImproperlyConfigured(
            f"{owner}: pickle lets whoever writes to Redis run code here; use 'json', 'msgpack' or 'bytes'."
        )
    if isinstance(choice, str):
        return _named(choice, owner)
    if isinstance(choice, type) or not all(callable(getattr(choice, name, None)) for name in ("dumps", "loads")):
        raise ImproperlyConfigured(
            f"{owner}: serializer must be {_choices()} or an object with dumps and loads, not {choice!r:.60}."
        )
    found: Serializer = choice
    return found


def _named(name: str, owner: str) -> Serializer:
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name.lower(), _BY_NAME, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ImproperlyConfigured(f"{owner}: serializer must be {_choices()}, not {name!r:.60}{hint}.")
    try:
        return _BY_NAME[name]()
    except ModuleNotFoundError:
        raise ImproperlyConfigured(
            f"{owner}: serializer {name!r} needs a package that is not installed: pip install {name}."
        ) from None


def _choices() -> str:
    return ", ".join(map(repr, _BY_NAME))


def _name(choice: Any) -> str:
    """Return the name of a string, a module, a class or an instance's class."""
    return choice if isinstance(choice, str) else str(getattr(choice, "__name__", type(choice).__name__))
