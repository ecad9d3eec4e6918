"""How cached values become bytes and come back: pickle, JSON, msgpack, or a project's own object.

Integers are not the serializers' business: the codec stores them as digits, so that the server can count.
"""

from __future__ import annotations

import difflib
import json
import pickle
from typing import Any, Protocol, cast

from django.core.serializers.json import DjangoJSONEncoder

from .import_path import imported
from .serializers import MsgpackSerializer

CHOICES = ("pickle", "json", "msgpack")


class Serializer(Protocol):
    """What the cache needs of a serializer; text from ``dumps`` is stored as UTF-8."""

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
    """JSON as Django writes it: dates, times, ``Decimal``, UUIDs and lazy text become text, and come back as text."""

    def dumps(self, value: Any, /) -> bytes:
        return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, separators=(",", ":")).encode()

    def loads(self, data: bytes, /) -> Any:
        try:
            # Decoded here: json.loads would guess among UTF-8, UTF-16 and UTF-32.
            return json.loads(data.decode())
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


def find(choice: Any, protocol: int | None = None) -> Serializer:
    """Return the serializer that ``choice`` names or is. Raises ``ValueError``, whose text says what to use."""
    if choice == "pickle":
        return PickleSerializer(protocol)
    if choice == "json":
        return JSONSerializer()
    if choice == "msgpack":
        try:
            return StrictMsgpackSerializer()
        except ModuleNotFoundError:
            raise ValueError("a package that is installed: pip install msgpack, or another serializer") from None
    if isinstance(choice, str):
        choice = _named(choice)
    if isinstance(choice, type):
        try:
            choice = choice()
        except Exception as error:
            raise ValueError(f"a class that can be made without arguments ({type(error).__name__})") from None
    if not all(callable(getattr(choice, name, None)) for name in ("dumps", "loads")):
        raise ValueError(_wanted("an object with dumps and loads"))
    return cast(Serializer, choice)


def is_built_in(choice: Any) -> bool:
    """Whether the choice is one of ``CHOICES``, whose output is known never to look compressed."""
    return isinstance(choice, str) and choice in CHOICES


def _named(path: str) -> Any:
    if path.startswith(("django_redis.", "django_valkey.")):
        # Theirs take arguments that are not ours.
        near = [name for name in CHOICES if name in path.lower()]
        raise ValueError(repr(near[0]) if near else _wanted())
    if "." not in path:
        near = difflib.get_close_matches(path.lower(), CHOICES, n=1)
        raise ValueError(repr(near[0]) if near else _wanted())
    return imported(path)


def _wanted(*more: str) -> str:
    return " or ".join([*map(repr, CHOICES), *more] if more else [*map(repr, CHOICES), "a dotted path"])
