"""The registry of serializers: how values of caches and stores become bytes and come back.

A cache takes pickle, JSON, msgpack or a project's own object; its codec stores integers as digits, so that the server
can count. A store takes JSON, bytes, msgpack or an object; JSON and msgpack write a top-level int as ASCII digits,
because that is what Redis' INCRBY reads and writes. A store never takes pickle: a client that can write to Redis could
run code in every process that reads.
"""

from __future__ import annotations

import difflib
import json
import pickle
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder

from .import_path import imported


class Serializer(Protocol):
    """What a cache or a store needs of a serializer; text from ``dumps`` is stored as UTF-8.

    A store that uses ``incr`` or ``hincr`` needs one that reads and writes an int as ASCII digits.
    """

    def dumps(self, value: Any, /) -> bytes | str: ...

    def loads(self, data: bytes, /) -> Any: ...


class PickleSerializer:
    """Pickle, byte for byte what Django's ``RedisCache`` writes.

    Whoever can write to the server can run code in every process that reads. Where others can write, use JSON or
    msgpack: a cache that is set to one of these never unpickles.
    """

    def __init__(self, protocol: int | None = None) -> None:
        self._protocol = pickle.HIGHEST_PROTOCOL if protocol is None else protocol

    def dumps(self, value: Any, /) -> bytes:
        return pickle.dumps(value, self._protocol)

    # Django's own backend reads the same bytes in the same way.
    loads = staticmethod(pickle.loads)


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


class DjangoJSONSerializer(JSONSerializer):
    """JSON as Django writes it: dates, times, ``Decimal``, UUIDs and lazy text become text, and come back as text."""

    def dumps(self, value: Any, /) -> bytes:
        return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, separators=(",", ":")).encode()

    def loads(self, data: bytes, /) -> Any:
        try:
            return super().loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(_unreadable(data, "json")) from error


class StrictMsgpackSerializer(MsgpackSerializer):
    """msgpack, with an error that names the cure for what is none."""

    def loads(self, data: bytes, /) -> Any:
        try:
            return super().loads(data)
        except Exception as error:
            raise ValueError(_unreadable(data, "msgpack")) from error


def _unreadable(data: bytes, name: str) -> str:
    what = "a pickle" if data[:1] == b"\x80" and data.endswith(b".") else "something else"
    return f"A cached value is {what}, not {name}: give this cache a KEY_PREFIX or VERSION of its own, or clear it."


FOR_CACHES: dict[str, type[Serializer]] = {
    "pickle": PickleSerializer,
    "json": DjangoJSONSerializer,
    "msgpack": StrictMsgpackSerializer,
}
FOR_STORES: dict[str, type[Serializer]] = {
    "json": JSONSerializer,
    "bytes": BytesSerializer,
    "msgpack": MsgpackSerializer,
}


def find_for_cache(choice: Any, protocol: int | None = None) -> Serializer:
    """Return the serializer that ``choice`` names or is. Raises ``ValueError``, whose text says what to use."""
    if choice == "pickle":
        return PickleSerializer(protocol)
    if is_built_in(choice):
        try:
            return FOR_CACHES[choice]()
        except ModuleNotFoundError:
            raise ValueError(f"a package that is installed: pip install {choice}, or another serializer") from None
    if isinstance(choice, str):
        choice = _from_path(choice)
    if isinstance(choice, type):
        try:
            choice = choice()
        except Exception as error:
            raise ValueError(f"a class that can be made without arguments ({type(error).__name__})") from None
    if not _is_serializer(choice):
        raise ValueError(_wanted("an object with dumps and loads"))
    return cast(Serializer, choice)


def find_for_store(choice: Any, owner: str) -> Serializer:
    """Return the serializer that ``choice`` names or is, for the store called ``owner``.

    Raises ``ImproperlyConfigured``, one line that names the cure.
    """
    if "pickle" in _name(choice).lower():
        raise ImproperlyConfigured(
            f"{owner}: pickle lets whoever writes to Redis run code here; use 'json', 'msgpack' or 'bytes'."
        )
    choices = ", ".join(map(repr, FOR_STORES))
    if not isinstance(choice, str):
        if isinstance(choice, type) or not _is_serializer(choice):
            raise ImproperlyConfigured(
                f"{owner}: serializer must be {choices} or an object with dumps and loads, not {choice!r:.60}."
            )
        return cast(Serializer, choice)
    if choice not in FOR_STORES:
        near = _nearest(choice, FOR_STORES)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ImproperlyConfigured(f"{owner}: serializer must be {choices}, not {choice!r:.60}{hint}.")
    try:
        return FOR_STORES[choice]()
    except ModuleNotFoundError:
        raise ImproperlyConfigured(
            f"{owner}: serializer {choice!r} needs a package that is not installed: pip install {choice}."
        ) from None


def is_built_in(choice: Any) -> bool:
    """Whether the choice is one of ``FOR_CACHES``, whose output is known never to look compressed."""
    return isinstance(choice, str) and choice in FOR_CACHES


def _from_path(path: str) -> Any:
    """Import what a dotted path names. Raises ``ValueError`` with the nearest name of ``FOR_CACHES``."""
    if path.startswith(("django_redis.", "django_valkey.")):
        # Their classes take other arguments.
        near = next((name for name in FOR_CACHES if name in path.lower()), None)
    elif "." not in path:
        near = _nearest(path, FOR_CACHES)
    else:
        return imported(path)
    raise ValueError(repr(near) if near else _wanted("a dotted path"))


def _wanted(other: str) -> str:
    return " or ".join([*map(repr, FOR_CACHES), other])


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), names, n=1)), None)


def _is_serializer(choice: Any) -> bool:
    return all(callable(getattr(choice, name, None)) for name in ("dumps", "loads"))


def _name(choice: Any) -> str:
    """Return the name of a string, a module, a class or an instance's class."""
    return choice if isinstance(choice, str) else str(getattr(choice, "__name__", type(choice).__name__))
