"""Names that resolve to what a test says, or not at all."""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import Any

HOST = "redis.lab"
"""The host of every pool under test."""
UNREACHABLE = "224.0.0.1"
"""The kernel knows at once, and without sending a packet, that no TCP connection leads to a multicast address."""


_LONG = 30.0


class Resolver:
    """Stands in for ``socket.getaddrinfo``, through which asyncio and blocking sockets alike resolve."""

    def __init__(self, address: str) -> None:
        self.address: str | None = address
        self.asked: list[float] = []
        """When each look-up began, in monotonic seconds."""
        self.waiting = self.most_waiting = 0
        """How many threads hang in here now, and how many have at once."""
        self._answering = threading.Event()
        self._answering.set()
        self._original = socket.getaddrinfo

    def __enter__(self) -> Resolver:
        socket.getaddrinfo = self._getaddrinfo
        return self

    def __exit__(self, *args: object) -> None:
        self.answer()
        socket.getaddrinfo = self._original

    def hang(self) -> None:
        """Answer nobody until ``answer()``."""
        self._answering.clear()

    def answer(self) -> None:
        self._answering.set()

    def fail(self) -> None:
        """Know no such name any more."""
        self.address = None

    def point_nowhere(self) -> None:
        """Resolve to an address that no route leads to."""
        self.address = UNREACHABLE

    def _getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (HOST, HOST.encode()):
            return self._original(host, *args, **kwargs)
        self.asked.append(monotonic())
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        self._answering.wait(_LONG)
        self.waiting -= 1
        if self.address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._original(self.address, *args, **kwargs)
