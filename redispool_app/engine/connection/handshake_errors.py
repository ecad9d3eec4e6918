"""What a server says before it hangs up on a new connection.

A server at its client limit writes one error and closes, having read nothing (Valkey's ``acceptCommonHandler``).
redis-py writes first. When that fails it closes the socket, and with it what lies there unread: over a Unix socket
almost always, over TCP whenever the second command is written before the first is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any

from redis import exceptions as redis_exceptions

_LONGEST = 1024
_FIRST_BYTES = b"+-:$*_#,(!=%|~>"
"""What a reply begins with, in RESP2 and RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""


class LastWords:
    """A second descriptor of a connection's socket, held during the handshake, which outlives the first."""

    def __init__(self, connection: Any) -> None:
        self._received: bytes | bytearray = b""
        self._socket: socket.socket | None = None
        writer = getattr(connection, "_writer", None)
        held: Any = getattr(connection, "_sock", None)
        if isinstance(writer, asyncio.StreamWriter):
            held = writer.get_extra_info("socket")
            # What asyncio has read already. redis-py looks at the same buffer, there being no public one.
            self._received = connection._reader._buffer
            if writer.get_extra_info("ssl_object") is not None:
                return  # what else lies there is encrypted
        elif isinstance(held, ssl.SSLSocket) or not isinstance(held, socket.socket):
            return  # encrypted, or a stand-in, whose descriptor may be that of another file
        with contextlib.suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(held.fileno()))

    def __enter__(self) -> LastWords:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the second descriptor."""
        if self._socket is not None:
            self._socket.close()

    def explain(self, error: redis_exceptions.RedisError) -> redis_exceptions.RedisError:
        """Return what the server said of this connection if that says more than ``error``, else ``error``."""
        if type(error) is redis_exceptions.ConnectionError:
            return self._left_behind() or error
        if isinstance(error, redis_exceptions.ResponseError) and str(error).startswith("DENIED"):
            # Protected mode refuses the whole connection; redis-py takes it for the answer to CLIENT SETINFO.
            return redis_exceptions.ConnectionError(str(error))
        return error

    def _left_behind(self) -> redis_exceptions.RedisError | None:
        said = bytes(self._received[:_LONGEST])
        if not said and self._socket is not None:
            with contextlib.suppress(OSError):
                said = self._socket.recv(_LONGEST, socket.MSG_DONTWAIT)
        if said and said[:1] not in _FIRST_BYTES:
            # A web server, say, that has hung up on the rest of the handshake.
            return redis_exceptions.InvalidResponse(f"Protocol error: {said[:1]!r} begins no reply")
        if not said.startswith(b"-"):
            return None
        words = said[1:].splitlines()[0].decode(errors="replace")
        return redis_exceptions.ConnectionError(words.removeprefix("ERR "))
