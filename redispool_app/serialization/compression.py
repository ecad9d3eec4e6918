"""Compressed values: written with zlib or zstd, read by the bytes they begin with.

What django-redis compresses with zlib, gzip, lzma or zstd is read too. No built-in serializer's output begins like one
of these formats: pickle's first byte is 0x80 or an opcode of protocol 0 or 1, JSON's is ASCII punctuation, a letter, a
digit or a quote, and a msgpack document that begins below 0x80 or above 0xdf is one byte long.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured

Transform = Callable[[bytes], bytes]

CHOICES = ("zlib", "zstd")
"""What values can be written with."""


def compressor(name: str, level: int | None) -> Transform:
    """Return the function that compresses with ``name`` at ``level``, None for the format's own default."""
    if name == "zlib":
        return lambda data: zlib.compress(data, zlib.Z_DEFAULT_COMPRESSION if level is None else level)
    zstd = _zstd()
    return lambda data: zstd.compress(data) if level is None else zstd.compress(data, level)


def problem(name: str | None, level: int | None) -> str | None:
    """Return what is wrong with the choice, as a line that names the cure."""
    if name == "zstd" and not _has_zstd():
        return "zstd needs Python 3.14 or a package: pip install backports.zstd."
    lowest, highest = (-1, 9) if name == "zlib" else (-(2**17), 22)
    if name is not None and level is not None and not lowest <= level <= highest:
        return f"COMPRESS_LEVEL of {name} must be from {lowest} to {highest}."
    return None


def is_compressed(data: bytes) -> bool:
    """Whether ``data`` begins as one of the formats does."""
    return _format(data) is not None


def decompress(data: bytes) -> bytes:
    """Return the content of what ``is_compressed``. Raises ``ValueError`` when it is cut or damaged."""
    found = _format(data)
    if found is None:
        raise ValueError("not compressed")
    try:
        return found(data)
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ValueError(f"a compressed value is damaged ({type(error).__name__}): delete it.") from error


def _format(data: bytes) -> Transform | None:
    for magic, function in _FORMATS:
        if data.startswith(magic):
            # RFC 1950, section 2.2: the first two bytes of zlib are a multiple of 31.
            if magic == b"x" and (len(data) < 2 or int.from_bytes(data[:2]) % 31):
                return None
            return function
    return None


def _unzstd(data: bytes) -> bytes:
    if not _has_zstd():
        raise ImproperlyConfigured("A cached value is compressed with zstd, which needs: pip install backports.zstd.")
    content: bytes = _zstd().decompress(data)
    return content


_FORMATS: tuple[tuple[bytes, Transform], ...] = (
    (b"x", zlib.decompress),
    (b"\x28\xb5\x2f\xfd", _unzstd),
    (b"\x1f\x8b", gzip.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
)

FIRST_BYTES = frozenset(magic[:1] for magic, _ in _FORMATS)


@cache
def _zstd() -> Any:
    """The standard library's module since Python 3.14 (PEP 784), or its backport."""
    try:
        return import_module("compression.zstd")
    except ModuleNotFoundError:
        return import_module("backports.zstd")


def _has_zstd() -> bool:
    try:
        _zstd()
    except ModuleNotFoundError:
        return False
    return True
