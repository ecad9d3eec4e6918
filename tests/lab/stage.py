"""Where a fault is played: a server, the way to it, and a name for it, all of which can be struck."""

from __future__ import annotations

from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import redis

from tests.support.tls import TLSEnd, make_certificate

from .attempts import Attempts
from .drivers import Driver
from .proxy import Proxy
from .resolver import HOST, UNREACHABLE, Resolver
from .servers import ADMIN_ADDRESS, POOL_ADDRESS, LabServer
from .verdicts import Rules, Run

SECOND_ADDRESS = "127.0.0.4"

QUICK = {
    "SOCKET_TIMEOUT": 0.5,
    "SOCKET_CONNECT_TIMEOUT": 0.5,
    "HEALTH_CHECK_TIMEOUT": 0.5,
    "RETRY_BACKOFF_CAP": 0.25,
}
"""The pool under test gives up sooner than by default, so that a scenario takes seconds."""
_WARMING = 0.3
_AFTER = 0.35
_TOO_LATE = 8.0


class Stage:
    """A server behind a proxy (or not), known to the pool under test as ``redis.lab``."""

    def __init__(
        self,
        *,
        program: str = "valkey",
        transport: str = "tcp",
        proxied: bool = True,
        config: dict[str, object] | None = None,
    ) -> None:
        self.server = LabServer(program, **(config or {}))
        self.transport = transport
        self.proxied = proxied or transport == "tls"
        self.keys: dict[str, object] = {}
        """What REDIS_POOL must say for this transport."""
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        enter = self._stack.enter_context
        self._socket = self.server.directory / "redis.sock"
        if self.transport == "unix":
            self.server.config["unixsocket"] = self._socket
        enter(self.server)
        self.proxy = enter(Proxy(self.server.port)) if self.proxied else None
        self.port = self.proxy.port if self.proxy else self.server.port
        if self.transport == "tls":
            # The server speaks plainly; what decrypts stands before the proxy, as it does in many a data centre.
            certificate, key = make_certificate(self.server.directory, HOST)
            self.keys["SSL_CA_CERTS"] = str(certificate)
            self.port = enter(TLSEnd(self.port, certificate, key)).port
        self.resolver = enter(Resolver(ADMIN_ADDRESS if self.proxied else POOL_ADDRESS))
        addresses = [(address, self.port) for address in (self.resolver.address, SECOND_ADDRESS, UNREACHABLE)]
        self.attempts = enter(Attempts(*addresses, str(self._socket)))
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        if self.transport == "unix":
            return f"unix://{self._socket}"
        return f"redis{'s' if self.transport == 'tls' else ''}://{HOST}:{self.port}/0"

    @property
    def plain_url(self) -> str:
        """The same for another process, which asks another resolver."""
        return f"redis://{self.resolver.address}:{self.port}/0"

    @property
    def connects(self) -> list[float]:
        """When this process tried to connect (monotonic seconds)."""
        return self.attempts.times

    @property
    def lookups(self) -> list[float]:
        """When this process asked for the server's address (monotonic seconds)."""
        return self.resolver.asked

    def admin(self) -> redis.Redis:
        """Return a client of the laboratory's own, which no fault of the network concerns."""
        return self.server.client()

    def cut_all(self) -> int:
        """End the connections of the pool under test; return how many those were."""
        with self.admin() as admin:
            return admin.client_kill_filter(_type="normal", skipme=True)


def rules_of(fault: Any, keys: dict[str, Any], *, managed: bool = True) -> Rules:
    """Return what is promised; without a manager nobody knows of an outage, so nobody fails at once."""
    return Rules(
        deadline=keys["SOCKET_TIMEOUT"],
        check=keys["HEALTH_CHECK_TIMEOUT"],
        backoff_cap=keys["RETRY_BACKOFF_CAP"],
        outage=fault.outage and managed,
        reads_survive=fault.reads_survive,
        writes_survive=fault.writes_survive,
        kinds=fault.kinds,
        tolerated=fault.tolerated,
        known_after=fault.known_after,
        attempts_per_second=fault.attempts_per_second,
    )


def play(
    fault: Any, stage: Stage, driver: Driver, *, load: bool, log: list[str], look: Any = None, ready: Any = None
) -> Run:
    """Let the callers work, strike, look at what is shown, heal, and see everybody come back.

    With ``load`` the fault finds commands in flight; without, it finds everybody idle, and they come back to it.
    ``ready`` is called when everything is ready for the strike, and may wait for others.
    """
    with stage.admin() as admin:
        driver.subject.prepare(admin, driver.ledgers)
    with driver:
        sleep(_WARMING)
        if not load:
            driver.pause()
        if ready is not None:
            ready()
        del log[:]
        struck = monotonic()
        fault.strike()
        if not load:
            sleep(0.1)
            driver.resume()
        if look is not None:
            sleep(max(0.0, struck + fault.hold * 0.6 - monotonic()))
            look()
        sleep(max(0.0, struck + fault.hold - monotonic()))
        healing = monotonic()
        fault.heal()
        healed = monotonic()
        while not driver.all_served_since(healed) and monotonic() < healed + _TOO_LATE:
            sleep(0.01)
        sleep(_AFTER)
    with stage.admin() as admin:
        final = driver.final(admin)
    return Run(
        operations=driver.operations,
        struck=struck,
        healing=healing,
        healed=healed,
        lag=driver.lag,
        attempts=None if stage.connects is None else [time for time in stage.connects if time >= struck],
        lookups=[time for time in stage.lookups if time >= struck],
        final=final,
        log=list(log),
        rest=2 * driver.pace,
    )
