"""What has come from a shared socket, on its way from the kernel to replies; only the leader touches it."""

from __future__ import annotations

import ssl
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.protocol.replies import INCOMPLETE, error_parser, exhaust
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .socket_sync import ENDED, SocketCalls

_FIRST = (0,)


class Incoming:
    """Replies of one connection, never decoded: each caller decodes its own, in its own thread.

    A leader may be interrupted between any two calls here; the next finds every byte where it was.
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
        """Parses the next reply; ``INCOMPLETE`` where there is none yet. Raises what is in ``NOT_A_REPLY``."""
        self.pushes = int(connection.get_protocol()) == 3
        """Whether the server may send what nobody asked for."""
        self.received: list[bytes] = []
        self.replies: list[Any] = []
        """Parsed and not yet handed out."""
        self.unfinished = False
        """Whether something may have come that is not handed out yet."""

    def receive(self, how: tuple[tuple[int], ...]) -> int:
        """Take what is there, or wait for it, to the parser; ``how`` is what the call to receive takes.

        Return how many bytes that were, 0 at the end. Raises what the call raises, ``InvalidResponse`` and
        ``MemoryError``.
        """
        received = self.received
        if not received:
            if self._calls.lock is None:
                receive = map(self._calls.receive, *how)
                # Nothing can run between this look and the call that reads.
                if not mark[0]:
                    _end_in_child()
                received.extend(receive)
            else:
                self._receive_in_tls(received)
        size = len(received[0])
        self.unfinished = True
        if size:
            # From the socket to the parser in one C call.
            exhaust(map(self._feed, map(received.pop, _FIRST)))
        return size

    def _receive_in_tls(self, received: list[bytes]) -> None:
        """A TLS session holds back decrypted bytes that no poll sees, so read to its end; the leader comes back."""
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
    """The process was forked during a call, which goes on in the child: it must not read what is the parent's."""
    fork.renew()
    raise ConnectionResetError("The process was forked during this call.")
