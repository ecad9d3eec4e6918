"""Packs commands for the wire. Uses hiredis where its result equals redis-py's, and redis-py's encoder elsewhere."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import DataError

PLAIN = frozenset((str, bytes))
"""Types that hiredis accepts as they are."""

SHORT = 1000
"""A text of up to this many characters fits on every shared connection."""


def pack(args: Sequence[Any], encoder: Any) -> bytes:
    """Return one command in the Redis protocol. Raises redis-py's ``DataError`` for a value that cannot be sent."""
    name = args[0]
    if name.__class__ is not str or not name.isalnum():
        args = _with_name_split(args)
    is_plain = PLAIN.issuperset(map(type, args))
    if not is_plain:
        args = _with_numbers_as_text(args)
        is_plain = PLAIN.issuperset(map(type, args))
    if not is_plain or encoder.encoding != "utf-8" or encoder.encoding_errors != "strict":
        if isinstance(name, str) and args and args[0] is name:
            args = (name.encode(), *args[1:])  # a name is sent in UTF-8, whatever the encoding
        args = tuple(bytes(encoder.encode(arg)) for arg in args)
    return cast(bytes, hiredis.pack_command(tuple(args)))


def pack_utf8(args: Sequence[Any]) -> bytes:
    """Return one command as redis-py's blocking client sends it: for a client whose encoding is UTF-8.

    Raises redis-py's ``DataError`` for a value that cannot be sent.
    """
    name = args[0]
    if name.__class__ is not str or not name.isalnum():
        args = _with_name_split(args)
    if not PLAIN.issuperset(map(type, args)):
        args = _with_numbers_as_text(args)
    try:
        return cast(bytes, hiredis.pack_command(args))  # type: ignore[arg-type]
    except TypeError:
        plain: Any = tuple(bytes(arg) if isinstance(arg, bytearray | memoryview) else arg for arg in args)
        try:
            return cast(bytes, hiredis.pack_command(plain))
        except TypeError as error:
            raise DataError(error) from error


def _with_numbers_as_text(args: Sequence[Any]) -> tuple[Any, ...]:
    """Write numbers as hiredis would, in any encoding. An error inside hiredis would end the process.

    Raises ``RecursionError``, ``MemoryError``, what a subclass of ``float`` raises, and ``DataError`` for an integer
    with more digits than Python writes.
    """
    try:
        return tuple([repr(arg).encode() if arg.__class__ is int or isinstance(arg, float) else arg for arg in args])
    except ValueError as error:
        raise DataError(error) from error


def _with_name_split(args: Sequence[Any]) -> Sequence[Any]:
    """Split a name into the words that redis-py makes of it, as bytes in UTF-8. Most names are one word already."""
    name = args[0]
    if isinstance(name, str):
        if name.__class__ is str and name.isprintable() and " " not in name:
            return args if name else args[1:]
        return (*name.encode().split(), *args[1:])
    if b" " in name:  # a value that is no name fails here, as in redis-py
        return (*name.split(), *args[1:])
    return args


class Utf8Packer:
    """Packs commands as redis-py's packer for hiredis does, but no number can end the process."""

    def pack(self, *args: Any) -> list[bytes]:
        """Return one command in the Redis protocol. Raises redis-py's ``DataError`` for a value that cannot be sent."""
        return [pack_utf8(args)]


class EncodingPacker:
    """Packs commands in the client's own encoding. redis-py's packer for hiredis uses UTF-8."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def pack(self, *args: Any) -> list[bytes]:
        """Return one command in the Redis protocol. Raises redis-py's ``DataError`` for a value that cannot be sent."""
        return [pack(args, self._encoder)]


def is_utf8(encoder: Any) -> bool:
    """Whether text is sent as hiredis would send it: in UTF-8, with an error for what cannot be encoded."""
    return encoder.encoding_errors == "strict" and codecs.lookup(encoder.encoding).name == "utf-8"
