"""Packs commands for the wire: hiredis where it gives what redis-py would, redis-py's encoder where it would not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import DataError

PLAIN = frozenset((str, bytes, int, float))

SHORT = 1000
"""A text of so many characters fits on every shared connection."""


def pack(args: Sequence[Any], encoder: Any) -> bytes:
    """Return one command in the Redis protocol. Raises redis-py's ``DataError`` for what cannot be sent."""
    name = args[0]
    if isinstance(name, str):
        if " " in name:
            args = (*name.encode().split(), *args[1:])
    elif b" " in name:  # what is no name at all fails here, as in redis-py
        args = (*name.split(), *args[1:])
    if not PLAIN.issuperset(map(type, args)) or encoder.encoding != "utf-8" or encoder.encoding_errors != "strict":
        first = args[0].encode() if isinstance(args[0], str) else args[0]
        args = tuple(bytes(encoder.encode(arg)) for arg in (first, *args[1:]))
    return cast(bytes, hiredis.pack_command(tuple(args)))


def pack_utf8(args: Sequence[Any]) -> bytes:
    """Return one command as redis-py's blocking client sends it: text in UTF-8, whatever the client's encoding.

    Raises redis-py's ``DataError`` for what cannot be sent.
    """
    name = args[0]
    if isinstance(name, str):
        if " " in name:
            args = (*name.encode().split(), *args[1:])
    elif b" " in name:
        args = (*name.split(), *args[1:])
    try:
        return cast(bytes, hiredis.pack_command(args))  # type: ignore[arg-type]
    except TypeError:
        plain: Any = tuple(bytes(arg) if isinstance(arg, bytearray | memoryview) else arg for arg in args)
        try:
            return cast(bytes, hiredis.pack_command(plain))
        except TypeError as error:
            raise DataError(error) from error
