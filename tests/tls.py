"""A TLS end in front of a plain server, with a certificate made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import ssl
import subprocess
import threading
import warnings

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


HANDSHAKE = 5
"""Seconds after which a handshake that a client has left is given up."""


def clients_of(server):
    """How many connections an asyncio server has, which it says nowhere in public; its name for that has changed."""
    return getattr(server, "_active_count", 0) or len(getattr(server, "_clients", ()))


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
        self.thread.join(HANDSHAKE + 2)
        assert not self.thread.is_alive()
        with warnings.catch_warnings():
            # asyncio leaves the server's half of a broken handshake to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    async def serve(self):
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        self.tasks = set()
        server = await asyncio.start_server(
            self.accept, "127.0.0.1", 0, ssl=self.context, ssl_handshake_timeout=HANDSHAKE
        )
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.stopping.wait()
        server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        # Aborted transports close their sockets in the next rounds of the loop; a handshake that the client broke off
        # is known to nobody but the server.
        for turn in range(100 * (HANDSHAKE + 1)):
            if turn >= 5 and not clients_of(server):
                break
            await asyncio.sleep(0.01)

    async def accept(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
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
                writer.transport.abort()
                downstream.transport.abort()

    async def copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
