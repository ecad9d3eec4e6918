"""The calls that move a shared connection's bytes, as bound C functions.

An interrupt comes before or after such a call, never within. One call that waits in the kernel (``SO_RCVTIMEO``) reads
a plain socket, which saves a ``poll``. TLS sockets, and sockets replaced by other code (gevent), are polled.
"""

from __future__ import annotations

import _socket
import contextlib
import select
import socket
import ssl
import struct
import threading
from typing import Any

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Nothing to read, or no room to write."""

ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The peer closed a TLS session."""

_SIZE = 64 * 1024


class SocketCalls:
    """The calls of one socket. ``receive(*receive_now)`` and ``transmit(data, *transmit_now)`` never wait.

    ``receive(*receive_waiting)`` waits for up to ``timeout`` seconds if ``waits`` is true.
    """

    __slots__ = ("lock", "poll", "receive", "receive_now", "receive_waiting", "transmit", "transmit_now", "waits")

    def __init__(self, sock: Any, timeout: float | None) -> None:
        self.receive, self.transmit = sock.recv, sock.send
        self.receive_now: tuple[tuple[int], ...] = ((_SIZE,),)
        self.receive_waiting: tuple[tuple[int], ...] = ((_SIZE,),)
        self.transmit_now: tuple[tuple[int], ...] = ()
        self.lock: Any = None
        """Lock for calls that must not run at the same time; None if they may."""
        self.waits = False
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN)
        self.poll = poller.poll
        if isinstance(sock, ssl.SSLSocket):
            sock.setblocking(False)
            # The C methods behind the socket's own: no Python frame in which an interrupt could lose bytes.
            session: Any = sock._sslobj  # type: ignore[attr-defined]
            self.receive, self.transmit = session.read, session.write
            # One TLS session must not be read and written at the same moment.
            self.lock = threading.Lock()
        elif timeout is not None and type(sock).recv is _socket.socket.recv and hasattr(socket, "MSG_DONTWAIT"):
            with contextlib.suppress(OSError):
                sock.setblocking(True)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))
                self.waits = True
        if not self.waits:
            sock.setblocking(False)
            return
        self.receive_now = ((_SIZE,), (socket.MSG_DONTWAIT,))
        self.transmit_now = ((socket.MSG_DONTWAIT,),)


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    # Not zero, which would mean no timeout.
    return struct.pack("@ll", whole, max(1, int((seconds - whole) * 1_000_000)))
