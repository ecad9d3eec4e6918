"""What a fault is: what it does, what undoes it, what is promised meanwhile; and the faults of a server."""

from __future__ import annotations

import threading
import time
from time import sleep
from typing import Any, ClassVar

import redis

from tests.support.servers import eventually, free_port

from .drivers import Driver
from .proxy import Proxy
from .stage import Stage
from .verdicts import ATTEMPTS_PER_SECOND

PASSWORD = "first-hunter2"


class Fault:
    """Something that happens to a server, to the way there or to this process."""

    name: ClassVar[str]
    proxied: ClassVar[bool] = True
    config: ClassVar[dict[str, object]] = {}
    keys: ClassVar[dict[str, Any]] = {}
    """More keys of REDIS_POOL."""
    hold: ClassVar[float] = 1.2
    """Seconds from the strike to the healing: time to notice, to be certain, and to see callers fail at once."""
    outage: ClassVar[bool] = True
    reads_survive: ClassVar[bool] = False
    writes_survive: ClassVar[bool] = False
    kinds: ClassVar[frozenset[str]] = frozenset()
    tolerated: ClassVar[frozenset[str]] = frozenset()
    """What a caller may be told at any time."""
    attempts_per_second: ClassVar[int] = ATTEMPTS_PER_SECOND
    losses_per_second: ClassVar[int] = 1
    """How often within a second it ends every connection."""
    known_after: ClassVar[float] = 0.1
    """Seconds that may pass between the first failure and the certainty that lets all callers fail at once."""
    last_error: ClassVar[str | None] = None
    """What the status names when the server answers and only some commands fail."""
    shown: ClassVar[bool] = True
    """Whether somebody looks at the pages while the fault lasts."""

    driver: Driver
    """The callers, set before the strike."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.server = stage.server
        self.numbers: dict[str, Any] = {}
        """What the fault itself measured."""

    @property
    def proxy(self) -> Proxy:
        assert self.stage.proxy is not None
        return self.stage.proxy

    def arrange(self) -> None:
        """Make the server ready, before anybody connects."""

    def strike(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError


# The server's process.


class ServerKilled(Fault):
    name = "SIGKILL and restart"
    proxied = False
    kinds = frozenset({"refused"})

    def strike(self) -> None:
        self.server.kill()

    def heal(self) -> None:
        self.server.start()


class ServerFrozen(Fault):
    name = "SIGSTOP and SIGCONT"
    kinds = frozenset({"timeout"})

    def strike(self) -> None:
        self.server.pause()

    def heal(self) -> None:
        self.server.resume()


class ClientsPaused(Fault):
    name = "CLIENT PAUSE"
    kinds = frozenset({"timeout"})
    # It ends by itself, whether or not everybody has looked by then.
    hold = 2.5

    def strike(self) -> None:
        self._until = time.monotonic() + self.hold
        with self.stage.admin() as admin:
            admin.client_pause(int(self.hold * 1000), all=True)

    def heal(self) -> None:
        sleep(max(0.0, self._until - time.monotonic()))


class ServerAsleep(Fault):
    name = "DEBUG SLEEP"
    kinds = frozenset({"timeout"})
    hold = 2.5

    def strike(self) -> None:
        def sleep_there() -> None:
            with self.stage.admin() as admin:
                admin.execute_command("DEBUG", "SLEEP", self.hold)

        self._sleep = threading.Thread(target=sleep_there)
        self._sleep.start()
        sleep(0.01)

    def heal(self) -> None:
        self._sleep.join()


class Loading(Fault):
    name = "LOADING after a restart"
    proxied = False
    config: ClassVar[dict[str, object]] = {"loading-process-events-interval-bytes": 1024}
    kinds = frozenset({"loading"})
    known_after = 0.5
    hold = 1.5

    def arrange(self) -> None:
        with self.stage.admin() as admin:
            admin.execute_command("DEBUG", "POPULATE", 20_000, "filling", 100)
            admin.bgrewriteaof()
            eventually(lambda: not admin.info("persistence")["aof_rewrite_in_progress"])

    def strike(self) -> None:
        self.server.kill()
        self.server.config["key-load-delay"] = 1000
        self.server.start(wait=False)
        eventually(self._is_loading)

    def _is_loading(self) -> bool:
        try:
            with self.stage.admin() as admin:
                return not admin.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False

    def heal(self) -> None:
        del self.server.config["key-load-delay"]
        with self.stage.admin() as admin:
            admin.execute_command("CONFIG", "SET", "key-load-delay", 0)
        self.server.wait_until_it_serves()


# What the server says.


class ConnectionsKilled(Fault):
    name = "CLIENT KILL, again and again"
    proxied = False
    outage = False
    reads_survive = True
    losses_per_second = 7
    every = 0.15

    def strike(self) -> None:
        self._ended = threading.Event()
        self._killer = threading.Thread(target=self._kill)
        self.numbers["kills"] = self.stage.cut_all()
        self._killer.start()

    def _kill(self) -> None:
        while not self._ended.wait(self.every):
            self.numbers["kills"] += self.stage.cut_all()

    def heal(self) -> None:
        self._ended.set()
        self._killer.join()
        assert self.numbers["kills"] > 1, "hardly a connection was killed"


class ReadOnly(Fault):
    name = "READONLY after a failover"
    proxied = False
    outage = False
    reads_survive = True
    last_error = "readonly"

    def strike(self) -> None:
        with self.stage.admin() as admin:
            admin.replicaof("127.0.0.1", str(free_port()))

    def heal(self) -> None:
        with self.stage.admin() as admin:
            admin.replicaof("NO", "ONE")


class OutOfMemory(Fault):
    name = "OOM"
    proxied = False
    outage = False
    reads_survive = True
    last_error = "oom"

    def strike(self) -> None:
        with self.stage.admin() as admin:
            admin.config_set("maxmemory", 1)

    def heal(self) -> None:
        with self.stage.admin() as admin:
            admin.config_set("maxmemory", 0)


class TooManyClients(Fault):
    name = "maxclients reached"
    proxied = False
    kinds = frozenset({"maxclients"})

    def strike(self) -> None:
        self._others = [self.stage.admin() for _ in range(3)]
        for other in self._others:
            other.ping()
        self._others[0].config_set("maxclients", len(self._others))
        self._others[0].client_kill_filter(laddr=f"127.0.0.3:{self.server.port}")

    def heal(self) -> None:
        self._others[0].config_set("maxclients", 4000)
        for other in self._others:
            other.close()


class PasswordRotated(Fault):
    name = "password rotated"
    proxied = False
    keys: ClassVar[dict[str, Any]] = {"PASSWORD": PASSWORD}
    kinds = frozenset({"auth"})

    def arrange(self) -> None:
        self._require(PASSWORD)

    def _require(self, password: str) -> None:
        with self.stage.admin() as admin:
            admin.config_set("requirepass", password)
        self.server.password = password

    def strike(self) -> None:
        self._require("second-hunter2")
        self.stage.cut_all()

    def heal(self) -> None:
        self._require(PASSWORD)


class UserRevoked(Fault):
    name = "ACL user deleted"
    proxied = False
    keys: ClassVar[dict[str, Any]] = {"USERNAME": "bob", "PASSWORD": PASSWORD}
    kinds = frozenset({"auth"})

    def arrange(self) -> None:
        with self.stage.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "bob", "on", f">{PASSWORD}", "~*", "+@all")

    def strike(self) -> None:
        with self.stage.admin() as admin:
            admin.execute_command("ACL", "DELUSER", "bob")

    def heal(self) -> None:
        self.arrange()


class PermissionRevoked(UserRevoked):
    name = "ACL permissions revoked"
    outage = False
    kinds = frozenset({"auth"})
    last_error = "auth"

    def strike(self) -> None:
        with self.stage.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "bob", "-@all")


SERVER_FAULTS = [
    ServerKilled, ServerFrozen, ClientsPaused, ServerAsleep, Loading, ConnectionsKilled, ReadOnly, OutOfMemory,
    TooManyClients, PasswordRotated, UserRevoked, PermissionRevoked,
]  # fmt: skip
