"""What one process knows about one server: health, counters, and who checks when.

Connections report here (a reply, a failure, opened, closed); pools ask here before they hand anything out
(``gate``); checks claim their single flight here. No I/O except through the recovery thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable

from .durations import ConnectionTimes
from .faults import AMBIGUOUS, ANSWERED, Fault, FaultKind, classify, denies_health_check, says_elsewhere
from .health import Health, HealthState
from .history import Change, History
from .log_limit import LogLimit
from .pause import Pause
from .recovery import Recovery
from .runtime import fork
from .slow_commands import SlowCommands

logger = logging.getLogger("redispool_app.health")
pool_logger = logging.getLogger("redispool_app.pool")

_EXHAUSTED_INTERVAL = 1.0
"""Who listens hears at most once in so many seconds that a pool is exhausted."""


@dataclass(slots=True)
class Counters:
    """Counts since the process started (or forked). ``opened - closed`` connections are open now."""

    opened: int = 0
    closed: int = 0
    timeouts: int = 0
    errors: int = 0
    exhausted: int = 0
    acquire_timeouts: int = 0
    """Callers that waited in vain for a connection or for room; they are among the exhausted."""


class Listener:
    """Told what happens to a pool, as it happens, by whoever made it happen: must return at once and not raise."""

    def health_changed(self, change: Change) -> None: ...

    def pool_exhausted(self, reason: str, total: int) -> None: ...


class Flight(Future[bool | None]):
    """A check under way; its result is the verdict, None when there was none. ``thread`` carries it out."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.began = monotonic()


class Monitor:
    """The one place that decides whether a server is fit to use.

    ``where`` names the server without credentials; ``probe`` is one blocking
    PING, used while the server is down; a check that takes longer than
    ``longest_check`` seconds has been given up.
    """

    def __init__(
        self,
        alias: str,
        where: str,
        health: Health,
        probe: Callable[[], float],
        longest_check: float = 30.0,
        *,
        max_waiting: int = 1000,
        slow_command: float = math.inf,
        client_name: Callable[[], str] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.longest_check = longest_check
        self.alias = alias
        self.where = where
        self.health = health
        self.counters = Counters()
        self.times = ConnectionTimes()
        self.closed = False
        self.last_error: Fault | None = None
        self.was_moved = False
        """Whether a reply has said that another server has a key: MOVED and its kin."""
        self.retired_before = -math.inf
        """Connections made before this moment (monotonic seconds) are replaced when they are free."""
        self._warnings: dict[FaultKind, tuple[Fault, float]] = {}
        self.history = History()
        self.pause = Pause(max_waiting, health.hold, self._resumed)
        self.slow_commands = SlowCommands(alias, slow_command)
        self.client_name = client_name
        """Returns the name of a connection that is made now; None where connections have none."""
        self._listener = listener or Listener()
        self._exhausted_limit = LogLimit()
        self._next_exhausted = 0.0
        health.on_change = self._changed
        self._probe = probe
        self._lock = threading.Lock()
        self._flight: Flight | None = None
        self.on_opened: Callable[[], None] = lambda: None
        """Called when a connection has been opened: the pool is in use."""
        self.on_outage: Callable[[float], None] = lambda since: None
        """Called before each probe in an outage, by the thread that probes, with when that was confirmed."""
        self.on_login: Callable[[Any, Any], None] = lambda login, pool: None
        """Called when AUTH on ``pool`` has been accepted: the other pools of the server use its password too."""
        self._quiet: set[int] = set()
        self._recovery = Recovery(f"redispool-recovery-{alias}", self._recovery_delay, self._recover)
        fork.register(self.after_fork_in_child)

    def _fault_in(self, error: BaseException) -> Fault:
        """Classify an exception, knowing whether a connection to this server has been made before."""
        return classify(error, self.where, speaks_tls=self.counters.opened > 0)

    # What connections report.

    def opened(self, connection: Any) -> None:
        """Count a connection as open, once; one statement, so that an interrupt finds it counted or not."""
        with self._lock:
            if not connection._counted:
                connection._counted, self.counters.opened = True, self.counters.opened + 1
        self.on_opened()

    def disconnected(self, connection: Any) -> None:
        """Count a connection as closed, once."""
        with self._lock:
            if connection._counted:
                connection._counted, self.counters.closed = False, self.counters.closed + 1

    def reply(self, at: float | None = None) -> None:
        """A reply came, now or ``at`` (monotonic seconds): the server lives."""
        self.health.saw_reply(at)

    def error_reply(self, error: BaseException) -> None:
        """A reply, of which ``reply`` tells too, was an error: the status page may name what the server said."""
        if threading.get_ident() in self._quiet or denies_health_check(error):
            return
        fault = self._fault_in(error)
        if says_elsewhere(error) and not self.closed:
            self.was_moved = True
            self.doubt(fault)  # the next check asks which slots this server has
        # One command denied is no outage: perhaps it is the only one this user may not send.
        if fault.kind in ANSWERED or fault.kind is FaultKind.AUTH:
            self.last_error = fault

    def failure(self, error: BaseException, started: float, *, hurried: bool = False) -> None:
        """A connection failed; ``started`` is when (monotonic seconds) it began to wait.

        ``hurried``: it was given so little time that a time-out says nothing about the server.
        """
        if threading.get_ident() in self._quiet:
            return
        fault = self._fault_in(error)
        timed_out = isinstance(error, redis_exceptions.TimeoutError | TimeoutError)
        with self._lock:
            self.counters.errors += 1
            self.counters.timeouts += timed_out
        self.last_error = fault
        if self.closed:
            return
        is_no_verdict = fault.kind in AMBIGUOUS or (hurried and timed_out)
        news = None if is_no_verdict else self.health.failed_since(fault, started)
        if news is None:
            self.doubt(fault)
        else:
            self._went_down(fault, news)

    def doubt(self, fault: Fault) -> None:
        """Something failed, perhaps not by the server's fault: the next caller checks, else the recovery."""
        if self.health.doubt(fault):
            self._recovery.start()

    def warn(self, kind: FaultKind, fault: Fault | None, seconds: float = math.inf) -> None:
        """Show a ``fault`` that stands although the server is healthy, or with None no longer; logged once.

        It is shown for ``seconds`` from the last call.
        """
        if fault is None:
            self._warnings.pop(kind, None)
            return
        shown, until = self._warnings.get(kind, (None, -math.inf))
        now = monotonic()
        self._warnings[kind] = (fault, now + seconds)
        if shown != fault or until <= now:
            extra = {"pool": self.alias, "state": "healthy", "where": self.where, "fault_kind": str(kind)}
            logger.warning("Redis pool %r: %s", self.alias, fault.message, extra=extra)

    @property
    def warning(self) -> Fault | None:
        """What stands although the server is healthy, the first if there are several."""
        now = monotonic()
        return next((fault for fault, until in list(self._warnings.values()) if until > now), None)

    def shows(self, kind: FaultKind) -> bool:
        """Whether a warning of this kind stands."""
        return kind in self._warnings

    def retire_connections(self) -> None:
        """Let every connection of this process be replaced when it is free: the name may lead elsewhere now."""
        self.retired_before = monotonic()

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Let what fails in this thread meanwhile say nothing about the pool: nobody's command depends on it."""
        self._quiet.add(threading.get_ident())
        try:
            yield
        finally:
            self._quiet.discard(threading.get_ident())

    def exhausted(self, error: PoolTimeout | PoolQueueFull) -> None:
        """A caller was refused for want of a connection, of room on the shared one, or even of room to wait."""
        now = monotonic()
        with self._lock:
            self.counters.exhausted += 1
            self.counters.acquire_timeouts += isinstance(error, PoolTimeout)
            total = self.counters.exhausted
            told = now >= self._next_exhausted
            if told:
                self._next_exhausted = now + _EXHAUSTED_INTERVAL
        self._exhausted_limit.log(
            pool_logger,
            logging.WARNING,
            "Redis pool %r is exhausted: %s",
            self.alias,
            str(error).rstrip("."),
            extra={"pool": self.alias, "reason": type(error).__name__, "exhausted_total": total},
        )
        if told:
            self._listener.pool_exhausted(str(error), total)

    def _resumed(self) -> None:
        extra = {"pool": self.alias, "state": "resumed"}
        pool_logger.info("Redis pool %r is resumed.", self.alias, extra=extra)

    def _changed(self, state: HealthState, fault: Fault | None) -> None:
        self._listener.health_changed(self.history.add(str(state), fault))

    # What pools and callers ask.

    def gate(self) -> None:
        """Let a caller through, or raise ``PoolClosed`` or ``RedisUnavailable`` without any I/O.

        While the pool is paused an outage refuses nobody: it is what the pause was made for.
        """
        if self.closed:
            raise PoolClosed("This Redis manager is closed: call initialize() to open it again.")
        if self.is_refusing:
            raise self.unavailable()

    @property
    def is_refusing(self) -> bool:
        """Whether callers fail at once: an outage is confirmed, and nobody has paused the pool for it."""
        if not self.health.confirmed or self.pause.is_on:
            return False
        return self.health.confirmed  # a look at a pause whose time is over ends it, and what was confirmed with it

    def unavailable(self) -> RedisUnavailable:
        """The exception that says why Redis cannot be used now."""
        fault = self.health.fault
        if fault is None:
            return RedisUnavailable(f"Redis at {self.where} has not passed a health check yet.")
        return RedisUnavailable(fault.message, kind=fault.kind, retry_after=self.health.retry_after())

    # Checks: one at a time in the whole process, everyone shares the verdict.

    def claim(self) -> tuple[Flight, bool]:
        """Return the check in flight, and whether the caller is the one who must carry it out."""
        with self._lock:
            if self._flight is None or monotonic() - self._flight.began > self.longest_check:
                # Whoever was to carry out the other was interrupted before it could say so.
                self._flight = Flight()
                return self._flight, True
            return self._flight, False

    def passed(self, latency: float) -> None:
        """A PING came back after ``latency`` seconds. After ``close()`` that changes nothing any more."""
        with self._lock:
            was_down, closed = self.health.confirmed, self.closed
            if not closed:
                self.health.passed(latency)
        if was_down and not closed:
            extra = {"pool": self.alias, "state": "healthy", "where": self.where, "fault_kind": None}
            logger.info("Redis pool %r is healthy again: %s answers.", self.alias, self.where, extra=extra)
        self._land(not closed)

    def failed(self, error: BaseException) -> None:
        """A health check failed. Trouble within this process's own pool says nothing about the server."""
        fault = self._fault_in(error)
        self.last_error = fault
        if isinstance(error, PoolTimeout | PoolQueueFull | PoolClosed) or self.closed:
            self.doubt(fault)
        else:
            self._went_down(fault, self.health.failed(fault))
        self._land(False)

    def abandoned(self) -> None:
        """The check in flight ended without a verdict (its event loop is ending); waiters look again."""
        self._land(None)

    def _land(self, healthy: bool | None) -> None:
        with self._lock:
            flight, self._flight = self._flight, None
        if flight is not None and not flight.done():
            flight.set_result(healthy)

    # Going down and coming back.

    def _went_down(self, fault: Fault, news: bool) -> None:
        if news:
            extra = {"pool": self.alias, "state": "unhealthy", "where": self.where, "fault_kind": str(fault.kind)}
            logger.warning("Redis pool %r is unhealthy: %s", self.alias, fault.message, extra=extra)
        self._recovery.start()

    def _recovery_delay(self) -> float | None:
        """Seconds until the next probe; None when there is nothing to recover from."""
        return None if self.closed else self.health.probe_delay()

    def _recover(self) -> None:
        flight, mine = self.claim()
        if not mine:
            with contextlib.suppress(TimeoutError):
                flight.result(self.health.backoff_cap)
            return
        if self.health.confirmed:
            self.on_outage(self.health.last_outage)
        try:
            latency = self._probe()
        except Exception as error:
            self.failed(error)
        else:
            self.passed(latency)

    # Life cycle.

    def open(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Refuse new work and stop probing; what is known about the server is forgotten."""
        with self._lock:
            self.closed = True
            self.health.forget()
        self.pause.end()
        self._recovery.stop()

    def after_fork_in_child(self) -> None:
        """In a forked child: no check is in flight, nothing is open."""
        self._lock = threading.Lock()
        self._flight = None
        self._quiet = set()
        self.counters = Counters()
        self.times = ConnectionTimes()
        self._next_exhausted = 0.0
