"""A path to a server that can be cut, slowed, split up and blocked: a TCP proxy in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from tests.support.servers import free_port

_PATIENCE = 10.0
_SLICE = 0.01
"""Seconds' worth of the bandwidth that pass at once."""


class Proxy:
    """Forwards a free loopback port to ``target_port``, and does what a bad network does when told to.

    ``request_delay`` and ``reply_delay`` (seconds) hold back each piece that passes, and ``jitter`` up to so much more;
    ``bandwidth`` (bytes per second) is what passes each way; ``piece`` (bytes) splits what passes into pieces of that
    size; ``swallow`` drops all replies; ``garbage`` is sent in place of each. ``heal`` undoes them all.
    ``opened`` counts the connections accepted, at the ``accepted`` times; ``cuts`` those that this proxy ended.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.target_port = target_port
        self.host = host
        self.port = port or free_port()
        self.request_delay = 0.0
        self.reply_delay = 0.0
        self.jitter = 0.0
        self.bandwidth = 0.0
        self.piece = 0
        self.swallow = False
        self.garbage = b""
        self.opened = 0
        self.accepted: list[float] = []
        self.cuts = 0
        self.cut_before: bytes | None = None
        """Cut instead of forwarding the next request that holds these bytes (once)."""
        self.cut_after: bytes | None = None
        """Forward the next request that holds these bytes, and cut when the server answers (once)."""
        self.cut_after_reply_bytes: int | None = None
        """Let so many bytes of replies pass, then cut (once)."""
        self.silent_after_reply_bytes: int | None = None
        """Let so many bytes of replies pass, then no more on that connection, which stays open (once)."""
        self.cut_always: bytes | None = None
        """Cut instead of forwarding whatever request holds these bytes."""
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped: asyncio.Event | None = None
        self._blocked: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    # Life.

    def start(self) -> Proxy:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), name="tests-proxy")
        self._thread.start()
        started.result(_PATIENCE)
        return self

    def stop(self) -> None:
        if self._thread is None:
            return
        self._call(self._stopped.set)
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "the proxy does not end"
        self._thread = None

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, *args: object) -> None:
        self.stop()

    # Faults.

    def cut(self, reset: bool = True) -> int:
        """End every connection now, with RST or with FIN; return how many there were."""

        async def cut() -> int:
            count = self._cut(reset)
            # An aborted transport closes its socket, which sends the RST, one turn of the loop later.
            await asyncio.sleep(0)
            return count

        return self._await(cut())

    def swallow_replies_of_open_connections(self) -> None:
        """Answer nothing any more on the connections open now; new ones work."""
        for link in list(self._links):
            link.swallow = True

    def half_open(self) -> int:
        """Forget every connection without telling the client; return how many there were.

        No FIN, no RST, and nothing is answered any more.
        """

        async def forget() -> int:
            links = list(self._links)
            for link in links:
                link.forget_server()
            return len(links)

        return self._await(forget())

    def refuse(self) -> None:
        """Let nothing listen here; open connections stay."""
        self._await(self._stop_listening())

    def block(self) -> None:
        """Answer no connection attempt, neither yes nor no, as a firewall that drops packets; open ones stay."""
        self.refuse()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(0)
        self._blocked.append(listener)
        # With its queue full, the kernel drops the packets of whoever comes next.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            assert filler.connect_ex((self.host, self.port)) in (0, errno.EINPROGRESS)
            self._blocked.append(filler)

    def accept(self) -> None:
        """Listen again."""
        while self._blocked:
            self._blocked.pop().close()
        self._await(self._listen())

    def heal(self) -> None:
        """Forward everything again at once and whole."""
        self.request_delay, self.reply_delay, self.jitter, self.bandwidth, self.piece = 0.0, 0.0, 0.0, 0.0, 0
        self.swallow, self.garbage = False, b""
        self.cut_before = self.cut_after = self.cut_always = None
        self.cut_after_reply_bytes = self.silent_after_reply_bytes = None

    # Inside, on the proxy's own event loop.

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return function(*args)

        return self._await(call())

    def _await(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)

    async def _main(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            await self._listen()
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(None)
        await self._stopped.wait()
        await self._stop_listening()
        while self._blocked:
            self._blocked.pop().close()
        # Also who was accepted just now, and is a task but no link yet.
        while asyncio.all_tasks() - {asyncio.current_task()}:
            self._cut(reset=True)
            await asyncio.sleep(0.001)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, self.host, self.port, backlog=4096)

    async def _stop_listening(self) -> None:
        # A server that closes before it has attached whom it accepted leaks them (asyncio.base_events.Server._attach).
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening.fileno())
        await asyncio.sleep(0)
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.accepted.append(monotonic())
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def _cut(self, reset: bool) -> int:
        links = list(self._links)
        for link in links:
            link.cut(reset)
        return len(links)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writers = [writer]
        self.swallow = False
        self.forgotten = False
        self._cut_on_reply = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        pumps: list[asyncio.Task[None]] = []
        try:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.target_port)
                self.writers.append(writer)
                for each in self.writers:
                    each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pumps = [
                    asyncio.create_task(self._pump(self._forward_request, self.reader)),
                    asyncio.create_task(self._pump(self._forward_reply, reader)),
                ]
                await self._ended.wait()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in self.writers:
                writer.close()
            for writer in self.writers:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await writer.wait_closed()
                writer.transport.abort()

    def forget_server(self) -> None:
        self.forgotten = True
        for writer in self.writers[1:]:
            writer.transport.abort()

    def cut(self, reset: bool = True) -> None:
        if self._ended.is_set():
            return
        self.proxy.cuts += 1
        self._ended.set()
        if reset:
            for writer in self.writers:
                with contextlib.suppress(OSError):
                    # Closing a socket that lingers for no time sends RST and forgets what was not sent yet.
                    held = writer.get_extra_info("socket")
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _pump(self, forward: Callable[[bytes], Any], reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(1 << 16):
                    await forward(data)
        finally:
            # The client of a half-open link must not learn that the server's side is gone.
            if not self.forgotten or reader is self.reader:
                self._ended.set()

    async def _forward_request(self, data: bytes) -> None:
        proxy = self.proxy
        if self.forgotten:
            return
        if proxy.cut_before is not None and proxy.cut_before in data:
            proxy.cut_before = None
            self.cut()
            return
        if proxy.cut_always is not None and proxy.cut_always in data:
            self.cut()
            return
        if proxy.cut_after is not None and proxy.cut_after in data:
            proxy.cut_after = None
            self._cut_on_reply = True
        await self._write(self.writers[1], data)

    async def _forward_reply(self, data: bytes) -> None:
        proxy = self.proxy
        if self._cut_on_reply:
            self.cut()
            return
        if proxy.swallow or self.swallow:
            return
        if proxy.garbage:
            await self._write(self.writers[0], proxy.garbage)
            return
        if proxy.silent_after_reply_bytes is not None:
            data = self._before_silence(data)
        left = proxy.cut_after_reply_bytes
        if left is None or len(data) < left:
            if left is not None:
                proxy.cut_after_reply_bytes = left - len(data)
            await self._write(self.writers[0], data)
            return
        proxy.cut_after_reply_bytes = None
        await self._write(self.writers[0], data[:left])
        # RST would overtake what has just been sent.
        self.cut(reset=False)

    def _before_silence(self, data: bytes) -> bytes:
        left = self.proxy.silent_after_reply_bytes
        if len(data) < left:
            self.proxy.silent_after_reply_bytes = left - len(data)
            return data
        self.proxy.silent_after_reply_bytes = None
        self.swallow = True
        return data[:left]

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        proxy, requests, start = self.proxy, writer is not self.writers[0], 0
        while start < len(data):
            # Looked at for each piece, so that healing ends what is under way too.
            size = proxy.piece or (max(1, int(proxy.bandwidth * _SLICE)) if proxy.bandwidth else len(data))
            piece = data[start : start + size]
            start += len(piece)
            delay = proxy.request_delay if requests else proxy.reply_delay
            if delay or proxy.jitter:
                await asyncio.sleep(delay + random.uniform(0.0, proxy.jitter))
            if proxy.bandwidth:
                await asyncio.sleep(len(piece) / proxy.bandwidth)
            writer.write(piece)
            await writer.drain()
            if proxy.piece:
                await asyncio.sleep(0)
