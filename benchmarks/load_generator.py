"""A small HTTP load generator: keep-alive connections that each send the next request when the answer is in.

Run as ``python -m benchmarks.load_generator PORT PATH CLIENTS REQUESTS``; prints the seconds it took and ends.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection. ``remaining`` is shared by all of them: a list of one number."""

    def __init__(self, path: str, remaining: list[int], finished: asyncio.Future[None]) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._remaining = remaining
        self._finished = finished
        self._received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def next(self) -> None:
        if self._remaining[0] > 0:
            self._remaining[0] -= 1
            self.transport.write(self._request)
        elif not self._finished.done():
            self._finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            self._fail(f"unexpected answer: {head[:100]!r}")
        elif len(self._received) >= end + 4 + int(length[1]):
            self._received = b""
            self.next()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}")

    def _fail(self, reason: str) -> None:
        if not self._finished.done():
            self._finished.set_exception(RuntimeError(reason))


async def load(port: int, path: str, clients: int, requests: int) -> float:
    """Send ``requests`` in all, from ``clients`` connections; return the seconds from first request to last answer."""
    loop = asyncio.get_running_loop()
    remaining = [requests]
    connected = []
    futures = []
    for _ in range(clients):
        futures.append(finished := loop.create_future())
        _, client = await loop.create_connection(
            functools.partial(Client, path, remaining, finished), "127.0.0.1", port
        )
        connected.append(client)
    started = time.perf_counter()
    for client in connected:
        client.next()
    await asyncio.gather(*futures)
    seconds = time.perf_counter() - started
    for client in connected:
        client.transport.close()
    return seconds


if __name__ == "__main__":
    _, port, path, clients, requests = sys.argv
    print(asyncio.run(load(int(port), path, int(clients), int(requests))))
