"""Reads the error that a server sends before it closes a new connection.

A server at its client limit writes one error and closes without reading (Valkey's ``acceptCommonHandler``). redis-py
writes first. If that fails, it closes the socket and loses the unread error. Over a Unix socket this is almost certain.
Over TCP it happens whenever the second command is written before the first reply.
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
"""First bytes of a reply in RESP2 and RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""


class HandshakeErrors:
    """A second descriptor of a connection's socket during the handshake. It stays open when the first is closed."""

    def __init__(self, connection: Any) -> None:
        self._received: bytes | bytearray = b""
        self._socket: socket.socket | None = None
        writer = getattr(connection, "_writer", None)
        held: Any = getattr(connection, "_sock", None)
        if isinstance(writer, asyncio.StreamWriter):
            held = writer.get_extra_info("socket")
            # Data that asyncio has read already. redis-py reads the same private buffer: there is no public one.
            self._received = connection._reader._buffer
            if writer.get_extra_info("ssl_object") is not None:
                return  # any other data there is encrypted
        elif isinstance(held, ssl.SSLSocket) or not isinstance(held, socket.socket):
            return  # encrypted, or a test double whose descriptor may belong to another file
        with contextlib.suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(held.fileno()))

    def __enter__(self) -> HandshakeErrors:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the second descriptor."""
        if self._socket is not None:
            self._socket.close()

    def explain(self, error: redis_exceptions.RedisError) -> redis_exceptions.RedisError:
        """Return the server's own error if it says more than ``error``; otherwise return ``error``."""
        if type(error) is redis_exceptions.ConnectionError:
            return self._left_behind() or error
        if isinstance(error, redis_exceptions.ResponseError) and str(error).startswith("DENIED"):
            # Protected mode refuses the whole connection. redis-py takes that for the reply to CLIENT SETINFO.
            return redis_exceptions.ConnectionError(str(error))
        return error

    def _left_behind(self) -> redis_exceptions.RedisError | None:
        said = bytes(self._received[:_LONGEST])
        if not said and self._socket is not None:
            with contextlib.suppress(OSError):
                said = self._socket.recv(_LONGEST, socket.MSG_DONTWAIT)
        if said and said[:1] not in _FIRST_BYTES:
            # For example a web server that closed the connection during the handshake.
            return redis_exceptions.InvalidResponse(f"Protocol error: {said[:1]!r} does not begin a reply")
        if not said.startswith(b"-"):
            return None
        words = said[1:].splitlines()[0].decode(errors="replace")
        return redis_exceptions.ConnectionError(words.removeprefix("ERR "))
