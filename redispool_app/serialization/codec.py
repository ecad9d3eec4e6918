"""What lies between a value and the bytes at the server: integers as digits, a serializer, compression.

Reading goes by the bytes that were found, not by the options: so a site can switch serializer-compatible writers,
compression and its threshold while it runs.
"""

from __future__ import annotations

from typing import Any

from .compression import FIRST_BYTES, Transform, decompress, is_compressed
from .serializers import PickleSerializer, Serializer

# What int() takes first, besides digits.
_NUMBER = frozenset(bytes([byte]) for byte in b"0123456789-+ \t\n\r\v\f")


class Codec:
    """Writes and reads the values of one cache.

    ``compress`` is applied to what has at least ``min_size`` bytes, where that makes it smaller. ``own`` says that the
    serializer is a project's own, whose output could begin like a compressed format: then such output is always
    compressed, and without ``compress`` nothing is taken for compressed.
    """

    __slots__ = ("_compress", "_dumps", "_loads", "_min_size", "_own", "_pickles")

    def __init__(self, serializer: Serializer, compress: Transform | None, min_size: int, *, own: bool) -> None:
        self._dumps = serializer.dumps
        self._loads = serializer.loads
        self._compress = compress
        self._min_size = min_size
        self._own = own
        self._pickles = isinstance(serializer, PickleSerializer)

    def dumps(self, value: Any) -> bytes:
        """Return the bytes to store. Raises what the serializer raises."""
        # Not bool, nor any other subclass, whose type would be lost: as Django has it.
        if type(value) is int:
            return b"%d" % value
        data = self._dumps(value)
        if not isinstance(data, bytes):
            data = _as_bytes(data)
        return data if self._compress is None else self._compressed(data, self._compress)

    def _compressed(self, data: bytes, compress: Transform) -> bytes:
        if self._own and is_compressed(data):
            return compress(data)
        if len(data) < self._min_size:
            return data
        smaller = compress(data)
        return smaller if len(smaller) < len(data) else data

    def loads(self, data: bytes) -> Any:
        """Return the value. Raises ``ValueError`` or what the serializer raises for bytes that it did not write."""
        first = data[:1]
        # Pickle's first byte, and no number's or format's: the usual case comes first.
        if first == b"\x80":
            return self._loads(data)
        if first in _NUMBER:
            try:
                return int(data)
            except ValueError:
                # No pickle begins like this; django-valkey writes a float as text.
                return float(data) if self._pickles else self._loads(data)
        if first in FIRST_BYTES and is_compressed(data) and (self._compress is not None or not self._own):
            data = self._content(data)
        return self._loads(data)

    def _content(self, data: bytes) -> bytes:
        try:
            return decompress(data)
        except ValueError:
            if self._own:
                return data  # written before compression was switched on
            raise


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if type(data) is int:  # what Django's own RedisSerializer makes of a subclass's instance
        return b"%d" % data
    return bytes(data)
