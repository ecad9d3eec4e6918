"""What one process knows about one server: health, counters, and which caller checks when.

Connections report here (a reply, a failure, opened, closed). Pools call
``ensure_available`` here before they lend a connection.

Checks join their single flight here. No I/O except through the recovery thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.runtime import fork, threads
from redispool_app.engine.runtime.hooks import Untold, tell, tell_all
from redispool_app.engine.runtime.single_flight import Flight, SingleFlight
from redispool_app.engine.stats.histogram import ConnectionTimes
from redispool_app.engine.stats.log_throttle import LogThrottle
from redispool_app.engine.stats.slow_log import SlowLog
from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable

from .faults import (
    AMBIGUOUS,
    ANSWERED,
    Fault,
    FaultKind,
    classify,
    denies_health_check,
    holds_writes_back,
    says_elsewhere,
)
from .history import Change
from .pause import Pause
from .recovery import Recovery
from .state import Health, HealthState, Snapshot

logger = logging.getLogger("redispool_app.health")
pool_logger = logging.getLogger("redispool_app.pool")

_MOST_UNTOLD = 1000
"""Maximum number of reports that wait for delivery. The oldest one is dropped."""

_EXHAUSTED_INTERVAL = 1.0
"""Minimum seconds between two notices to listeners that a pool is exhausted."""


@dataclass(slots=True)
class Counters:
    """Counts since the process started (or forked). ``opened - closed`` connections are open now."""

    opened: int = 0
    closed: int = 0
    timeouts: int = 0
    errors: int = 0
    exhausted: int = 0
    acquire_timeouts: int = 0
    """Callers that got no connection or no room in time. They are part of ``exhausted``."""


class Listener:
    """Receives the events of a pool, called by the caller that caused them. That caller holds nothing.

    A listener should return at once. Its exceptions are logged and go no further.
    """

    def health_changed(self, change: Change) -> None: ...

    def pool_exhausted(self, reason: str, total: int) -> None: ...


class _Quiet:
    """Marks a thread whose failures do not change the health, until ``ended``."""

    __slots__ = ("ended", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.ended = False


class Monitor:
    """Decides whether a server is fit to use. There is one monitor for each server.

    ``where`` names the server without credentials. ``probe`` is one blocking PING, used while the server is down. A
    check that takes longer than ``longest_check`` seconds is given up.

    There is no lock. Counts change in one statement without a call, which no other thread or signal handler can
    interrupt. Listeners are called last, after the state has changed, the waiters are awake and the recovery has begun.
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
        self.last_error: Fault | None = None
        self.was_moved = False
        """Whether a reply has said that another server has a key: MOVED and related errors."""
        self.retired_before = -math.inf
        """Connections made before this moment (monotonic seconds) are replaced when they are free."""
        self._warnings: dict[FaultKind, tuple[Fault, float]] = {}
        self.pause = Pause(max_waiting, health.hold, self._resumed)
        self.untold: Untold = deque(maxlen=_MOST_UNTOLD)
        """Reports that callers left here while they held a role of a shared connection."""
        self.slow_commands = SlowLog(alias, slow_command, untold=self.untold)
        self.client_name = client_name
        """Returns the name of a new connection; None if connections have no names."""
        self._listener = listener or Listener()
        self._exhausted_limit = LogThrottle()
        self._next_exhausted = 0.0
        self._told = health.newest()
        self._telling: SingleFlight[None] = SingleFlight()
        """The role of the caller that delivers reports. Other callers leave their reports to it."""
        self._probe = probe
        self.checks: SingleFlight[bool] = SingleFlight()
        """The check in progress. It ends with the verdict, or without one if it was abandoned."""
        self.reply = health.saw_reply
        """Record a reply, now or ``at`` (monotonic seconds). It proves that the server is up."""
        self.on_opened: Callable[[], None] = lambda: None
        """Called when a connection has been opened: the pool is in use."""
        self.on_outage: Callable[[float], None] = lambda since: None
        """Called by the probing thread before each probe in an outage, with the time when the outage was confirmed."""
        self.login: Any = None
        """The last AUTH that the server has accepted for all connections."""
        self.on_login: Callable[[Any, Any], None] = lambda login, pool: None
        """Called when AUTH on ``pool`` has been accepted. The other pools of the server then use its password, too."""
        self._quiet: list[_Quiet] = []
        self._recovery = Recovery(f"redispool-recovery-{alias}", self._recovery_delay, self._recover)
        fork.register(self.after_fork_in_child)

    def _fault_in(self, error: BaseException) -> Fault:
        """Classify an exception. Takes into account whether a connection to this server has been made before."""
        return classify(error, self.where, speaks_tls=self.counters.opened > 0)

    # Reports of connections.

    def opened(self, connection: Any) -> None:
        """Count a connection as open, once. One statement, so that an interrupt finds it either counted or not."""
        if not connection._counted:
            connection._counted, self.counters.opened = True, self.counters.opened + 1
        tell(self.on_opened)

    def disconnected(self, connection: Any) -> None:
        """Count a connection as closed, once."""
        if connection._counted:
            connection._counted, self.counters.closed = False, self.counters.closed + 1

    def error_reply(self, error: BaseException, *, later: bool = False) -> None:
        """Record an error reply; ``reply`` is called as well. The status page may show the server's error.

        ``later``: keep the report in ``untold``, because the caller holds a role of a shared connection.
        """
        if self._is_quiet() or denies_health_check(error):
            return
        fault = self._fault_in(error)
        if says_elsewhere(error) and not self.closed:
            self.was_moved = True
            self.mark_suspect(fault, later=later)  # the next check asks which slots this server has
        # One denied command is no outage: it may be the only one that this user may not send.
        if fault.kind in ANSWERED or fault.kind is FaultKind.AUTH:
            self.last_error = fault

    def failure(self, error: BaseException, started: float, *, hurried: bool = False, later: bool = False) -> None:
        """Record a failed connection. ``started`` is when (monotonic seconds) it began to wait.

        ``hurried``: its time was so short that a timeout says nothing about the server. ``later``: as in
        ``error_reply``.
        """
        if self._is_quiet():
            return
        fault = self._fault_in(error)
        timed_out = isinstance(error, redis_exceptions.TimeoutError | TimeoutError)
        self.counters.errors += 1
        self.counters.timeouts += timed_out
        self.last_error = fault
        if self.closed:
            return
        is_no_verdict = fault.kind in AMBIGUOUS or (hurried and timed_out)
        news = None if is_no_verdict else self.health.failed_since(fault, started)
        if news is None:
            self.mark_suspect(fault, later=later)
        else:
            self._recovery.start()
            self._tell_or_leave(later)

    def held_back(self, seconds: float, *, later: bool = False) -> None:
        """Record that writes timed out while the server answered on another connection.

        This is no outage. It is shown for ``seconds``.
        """
        if self._is_quiet() or self.closed:
            return
        self.counters.errors += 1
        self.counters.timeouts += 1
        self.last_error = fault = holds_writes_back(self.where)
        if later:
            self.untold.append(partial(self.warn, FaultKind.HELD_BACK, fault, seconds))
        else:
            self.warn(FaultKind.HELD_BACK, fault, seconds)

    def mark_suspect(self, fault: Fault, *, later: bool = False) -> None:
        """Record a failure that the server may not have caused. The next caller checks, or else the recovery thread."""
        if self.health.mark_suspect(fault):
            self._recovery.start()
            self._tell_or_leave(later)

    def _tell_or_leave(self, later: bool) -> None:
        if later:
            self.untold.append(self.tell_changes)
        else:
            self.tell_changes()

    def warn(self, kind: FaultKind, fault: Fault | None, seconds: float = math.inf) -> None:
        """Show a ``fault`` of a healthy server, or remove it with None. It is logged once.

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
            tell(logger.warning, "Redis pool %r: %s", self.alias, fault.message, extra=extra)

    @property
    def warning(self) -> Fault | None:
        """The fault of a healthy server that is shown; the first one if there are several."""
        now = monotonic()
        return next((fault for fault, until in list(self._warnings.values()) if until > now), None)

    def shows(self, kind: FaultKind) -> bool:
        """Whether a warning of this kind is shown."""
        return kind in self._warnings

    def retire_connections(self) -> None:
        """Replace every connection of this process when it is free: the name may lead to another server now."""
        self.retired_before = monotonic()

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Let failures of this thread meanwhile not change the health: no caller's command depends on them."""
        mark = _Quiet()
        try:
            self._quiet.append(mark)
            yield
        finally:
            mark.ended = True  # before any call, which may be interrupted
            self._quiet[:] = [each for each in self._quiet if not each.ended]

    def _is_quiet(self) -> bool:
        thread = threading.get_ident()
        return any(mark.thread == thread and not mark.ended for mark in list(self._quiet))

    def exhausted(self, error: PoolTimeout | PoolQueueFull) -> None:
        """A caller was refused because there was no connection, no room on a shared one, or no place to wait."""
        now, is_timeout, counters = monotonic(), isinstance(error, PoolTimeout), self.counters
        counters.exhausted += 1
        counters.acquire_timeouts += is_timeout
        total = counters.exhausted
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
            tell(self._listener.pool_exhausted, str(error), total)

    def _resumed(self) -> None:
        extra = {"pool": self.alias, "state": "resumed"}
        tell(pool_logger.info, "Redis pool %r is resumed.", self.alias, extra=extra)

    # Delivering reports: in the order of the changes, by one caller at a time. No other caller waits for it.

    def tell_changes(self) -> None:
        """Report each new change of the health to the log and to the listener."""
        if self.untold:
            tell_all(self.untold)
        while self._told.successor:
            own: Flight[None] = Flight()
            try:
                if self._telling.join(own) is not own:
                    return  # that caller checks again before it ends
                while True:
                    before = self._told
                    if not before.successor:
                        break
                    # First, so that an interrupted report is not repeated.
                    self._told = after = before.successor[0]
                    if after.history is not before.history:
                        self._tell(before, after)
            finally:
                own.ended = True

    def _tell(self, before: Snapshot, after: Snapshot) -> None:
        extra = {"pool": self.alias, "state": str(after.state), "where": self.where, "fault_kind": None}
        if after.confirmed and after.fault is not None:
            extra["fault_kind"] = str(after.fault.kind)
            tell(logger.warning, "Redis pool %r is unhealthy: %s", self.alias, after.fault.message, extra=extra)
        elif before.confirmed and after.state is HealthState.HEALTHY:
            tell(logger.info, "Redis pool %r is healthy again: %s answers.", self.alias, self.where, extra=extra)
        tell(self._listener.health_changed, after.history[-1])

    # Queries of pools and callers.

    def ensure_available(self) -> None:
        """Let a caller pass, or raise ``PoolClosed`` or ``RedisUnavailable`` without any I/O.

        Where no thread can probe (uWSGI's master, uWSGI without ``--enable-threads``), the caller itself sends a probe
        if one is due. While the pool is paused, an outage refuses no caller: the pause was made for it.
        """
        known = self.health.now
        if not (known.blocked or known.closed or known.successor):
            return
        if self.closed:
            raise PoolClosed("This Redis manager is closed: call initialize() to open it again.")
        if self.is_refusing:
            if not self._recovery.is_running:
                self._recovery.start()  # its start was interrupted, or there were too many threads
                self.probe_if_no_thread_can()
            if self.is_refusing:
                raise self.unavailable()

    @property
    def is_refusing(self) -> bool:
        """Whether callers fail at once: an outage is confirmed, and the pool is not paused."""
        if not self.health.confirmed or self.pause.is_on:
            return False
        return self.health.confirmed  # checking an expired pause ends it, and what was confirmed during it

    def unavailable(self) -> RedisUnavailable:
        """Return the exception that says why Redis cannot be used now."""
        fault = self.health.fault
        if fault is None:
            return RedisUnavailable(f"Redis at {self.where} has not passed a health check yet.")
        return RedisUnavailable(fault.message, kind=fault.kind, retry_after=self.health.retry_after())

    # Checks: one at a time in the whole process. All callers share the verdict.

    def claim(self, own: Flight[bool], longest: float | None = None) -> Flight[bool]:
        """Return the check in progress. If there is none, return ``own``, which its maker must run.

        A check that takes more than ``longest`` seconds (``longest_check`` if None) is taken over.
        """
        return self.checks.join(own, self.longest_check if longest is None else longest)

    def passed(self, latency: float) -> None:
        """Record a successful PING and its ``latency`` in seconds. After ``close()`` this changes nothing."""
        self.health.passed(latency)
        self._land(not self.closed)
        self.tell_changes()

    def failed(self, error: BaseException) -> None:
        """Record a failed health check. Problems of this process's own pool say nothing about the server."""
        fault = self._fault_in(error)
        self.last_error = fault
        if isinstance(error, PoolTimeout | PoolQueueFull | PoolClosed) or self.closed:
            self.health.mark_suspect(fault)
        else:
            self.health.failed(fault)
        self._land(False)
        self._recovery.start()
        self.tell_changes()

    def _land(self, healthy: bool) -> None:
        """Give the verdict to all callers that wait for the check in progress, even if another check found it."""
        flight = self.checks.latest
        flight.land(healthy)
        flight.ended = True

    # Outage and recovery.

    def _recovery_delay(self) -> float | None:
        """Seconds until the next probe; None if there is nothing to recover from."""
        return None if self.closed else self.health.probe_delay()

    def _recover(self) -> None:
        if (flight := self._try_probe()) is not None:
            flight.wait(self.health.backoff_cap)

    def probe_if_no_thread_can(self) -> None:
        """Probe in the caller's thread if a probe is due and no thread can run it.

        This takes at most ``HEALTH_CHECK_TIMEOUT``.
        """
        if not threads.run_freely() and self._recovery_delay() == 0.0:
            self._try_probe()

    def _try_probe(self) -> Flight[bool] | None:
        """Probe. If another caller's check is in progress, return that check instead."""
        own: Flight[bool] = Flight()
        try:
            flight = self.claim(own)
            if flight is own:
                self._probe_now()
        finally:
            own.ended = True
            own.leave()
        return None if flight is own else flight

    def _probe_now(self) -> None:
        now = self.health.newest()
        if now.confirmed:
            tell(self.on_outage, now.last_outage)
        try:
            latency = self._probe()
        except Exception as error:
            self.failed(error)
        else:
            self.passed(latency)

    # Life cycle.

    @property
    def closed(self) -> bool:
        """Whether new work is refused because the manager is closed."""
        return self.health.closed

    def open(self) -> None:
        self.health.forget(closed=False)

    def close(self) -> None:
        """Refuse new work and stop probing. The knowledge about the server is dropped."""
        self.health.forget(closed=True)
        self.pause.end()
        self._recovery.stop()
        self.tell_changes()

    def after_fork_in_child(self) -> None:
        """In a forked child: no check is in progress, no connection is open."""
        self._told = self.health.newest()
        self.untold.clear()
        self._quiet = []
        self.counters = Counters()
        self.times = ConnectionTimes()
        self._next_exhausted = 0.0
