"""A server that understands commands and answers each with whatever bytes it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading

import hiredis

HELLO = b"%3\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n+modules\r\n*0\r\n"


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def echo(args: list[bytes]) -> bytes:
    """Answer with the last argument, so that a reply tells whose it is."""
    return bulk(args[-1])


class ScriptedServer:
    """Answers ``answers[last argument]``, else ``echo``; None hangs up, ``(bytes, None)`` hangs up after them.

    The handshake is answered as a Redis server does, unless ``answers`` has its command. Two commands that come
    together are answered together.
    """

    def __init__(self, **answers):
        self.answers = {key.encode(): value for key, value in answers.items()}
        self.accepted = 0
        self._connections = set()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *args):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes) -> None:
        """Send what nobody asked for, to everybody who is connected."""
        for connection in list(self._connections):
            connection.sendall(data)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        self._connections.add(connection)
        reader = hiredis.Reader()
        with connection, contextlib.suppress(OSError, hiredis.ProtocolError):
            going = True
            while going and (data := connection.recv(64 * 1024)):
                reader.feed(data)
                said = b""
                while going and (args := reader.gets()) is not False:
                    answer = self._answer(args)
                    going = not (answer is None or isinstance(answer, tuple))
                    said += (answer[0] if isinstance(answer, tuple) else answer) or b""
                if said:
                    connection.sendall(said)
        self._connections.discard(connection)

    def _answer(self, args):
        name = args[0].upper()
        for key in (args[-1], name):
            if key in self.answers:
                answer = self.answers[key]
                return answer(args) if callable(answer) else answer
        if name in (b"CLIENT", b"SELECT", b"AUTH"):
            return b"+OK\r\n"
        return {b"HELLO": HELLO, b"PING": b"+PONG\r\n"}.get(name) or echo(args)
