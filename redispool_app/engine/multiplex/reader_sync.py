"""Reads a shared socket and parses replies. Only the leader uses it."""

from __future__ import annotations

import ssl
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.protocol.replies import INCOMPLETE, consume, error_parser
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .socket_sync import ENDED, SocketCalls

_FIRST = (0,)


class Incoming:
    """Replies of one connection, never decoded. Each caller decodes its own reply in its own thread.

    A leader may be interrupted between any two calls here. The next leader finds every byte in its place.
    """

    __slots__ = ("_calls", "_feed", "_reader", "gets", "pushes", "received", "replies", "unfinished")

    def __init__(self, connection: Any, calls: SocketCalls) -> None:
        self._calls = calls
        self._reader = hiredis.Reader(
            protocolError=redis_exceptions.InvalidResponse,
            replyError=error_parser(connection),
            notEnoughData=INCOMPLETE,
        )
        self._feed = self._reader.feed
        self.gets = self._reader.gets
        """Parses the next reply. Returns ``INCOMPLETE`` if there is none yet. Raises what is in ``NOT_A_REPLY``."""
        self.pushes = int(connection.get_protocol()) == 3
        """Whether the server may send messages that are not replies."""
        self.received: list[bytes] = []
        self.replies: list[Any] = []
        """Replies that are parsed and not yet handed out."""
        self.unfinished = False
        """Whether there may be data that is not handed out yet."""

    def receive(self, how: tuple[tuple[int], ...]) -> int:
        """Read what is there into the parser, or wait for it. ``how`` holds the arguments of the receive call.

        Return the number of bytes, 0 at the end of file. Raises what the call raises, ``InvalidResponse`` and
        ``MemoryError``.
        """
        received = self.received
        if not received:
            if self._calls.lock is None:
                receive = map(self._calls.receive, *how)
                # No code can run between this check and the call that reads.
                if not mark[0]:
                    _end_in_child()
                received.extend(receive)
            else:
                self._receive_in_tls(received)
        size = len(received[0])
        self.unfinished = True
        if size:
            # One C call from the socket to the parser.
            consume(map(self._feed, map(received.pop, _FIRST)))
        return size

    def _receive_in_tls(self, received: list[bytes]) -> None:
        """Read a TLS session until it is empty: a poll does not see its decrypted bytes. The leader calls again."""
        calls = self._calls
        if not mark[0]:
            _end_in_child()
        with calls.lock:
            try:
                while not received or received[-1]:
                    receive = map(calls.receive, *calls.receive_now)
                    if not mark[0]:
                        _end_in_child()
                    received.extend(receive)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not received:
                    raise
            except ENDED:
                received.append(b"")


def _end_in_child() -> None:
    """The process was forked during a call that goes on in the child. The child must not read the parent's replies."""
    fork.renew()
    raise ConnectionResetError("The process was forked during this call.")
