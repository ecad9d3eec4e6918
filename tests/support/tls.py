"""A TLS end in front of a plain server, with a certificate made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest


def make_certificate(directory, name="localhost"):
    """Return the paths of a self-signed certificate for ``name`` and 127.0.0.1, and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine to make a certificate with")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    request = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", key, "-out", certificate]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    subprocess.run([*request, *files, *names], check=True, capture_output=True)
    return certificate, key


class TLSEnd:
    """Terminate TLS on a free port and pass everything on to ``port``."""

    def __init__(self, port, certificate, key):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.target = port
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *args):
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(5)
        assert not self.thread.is_alive()

    async def serve(self):
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        # Accepted here, not by an asyncio server, which tells nobody of a handshake that its client broke off.
        self.accepted = {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self.loop.add_reader(listener, self.accept, listener)
            self.ready.set()
            await self.stopping.wait()
            self.loop.remove_reader(listener)
        for task in self.accepted:
            task.cancel()
        await asyncio.gather(*self.accepted, return_exceptions=True)
        # Aborted transports close their sockets in the next rounds of the loop.
        for _ in range(5):
            await asyncio.sleep(0.01)
        for held in self.accepted.values():
            held.close()

    def accept(self, listener):
        held, _ = listener.accept()
        held.setblocking(False)
        self.accepted[asyncio.ensure_future(self.pass_on(held))] = held

    async def pass_on(self, held):
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            transport, _ = await self.loop.connect_accepted_socket(lambda: protocol, held, ssl=self.context)
            writer = asyncio.StreamWriter(transport, protocol, reader, self.loop)
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(self.copy(reader, downstream)),
                        asyncio.create_task(self.copy(upstream, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                transport.abort()
                downstream.transport.abort()

    async def copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
