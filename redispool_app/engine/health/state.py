"""The health of one server as this process knows it: a state machine without I/O, safe for threads.

``unknown → healthy ⇄ unhealthy``. Any reply proves health for ``interval`` seconds, so a busy process sends no PING.
*Unhealthy* has two levels. *Doubted*: something failed, and the next caller's PING decides. *Confirmed*: callers fail
at once, and probes follow a backoff with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

There is no lock. The knowledge is an immutable ``Snapshot``. Each event computes the next snapshot from it, and only
one of them becomes its successor. So a signal handler or finalizer that uses Redis may interrupt any line here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.jitter import uniform

from .faults import Fault
from .history import History, with_change

_NEXT = 0

T = TypeVar("T")


class HealthState(StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


def full_jitter(failures: int, base: float, cap: float, uniform: Callable[[float, float], float] = uniform) -> float:
    """Return a delay in seconds, uniform between 0 and ``min(cap, base * 2 ** failures)``."""
    # The exponent is limited so that many failures cannot overflow a float.
    return uniform(0.0, min(cap, base * 2.0 ** min(failures, 32)))


@dataclass(slots=True, kw_only=True, eq=False)
class Snapshot:
    """What is known at one moment. Only ``fresh_until`` changes: each reply moves it on."""

    state: HealthState = HealthState.UNKNOWN
    since: float
    closed: bool = False
    """Whether the pool is closed. A check that ends later changes nothing."""
    confirmed: bool = False
    """Whether callers fail at once, and only the recovery probes."""
    held: bool = False
    """Whether new commands are held back (see ``pause``)."""
    blocked: bool = field(init=False)
    """Whether a command must check more before it is sent: ``confirmed`` or ``held``. Read on the hot path."""
    fresh_until: float = -math.inf
    """Until when no check is due. In the past unless the state is healthy. Read on the hot path."""
    fault: Fault | None = None
    last_outage: float = -math.inf
    """When callers began to fail at once. Older connections may have died without notice."""
    last_check: float | None = None
    latency: float | None = None
    checks: int = 0
    failures: int = 0
    next_probe: float = -math.inf
    history: History = ()
    successor: dict[int, Snapshot] = field(init=False, default_factory=dict, repr=False)
    """The next snapshot, if there is one. ``setdefault`` decides in one step which it is."""

    def __post_init__(self) -> None:
        self.blocked = self.confirmed or self.held
        if self.state is not HealthState.HEALTHY:
            self.fresh_until = -math.inf


class _Of(Generic[T]):
    """An attribute of the newest snapshot, read through its ``Health``."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, health: Health, owner: type[Any]) -> T:
        found: T = getattr(health.newest(), self._name)
        return found


class Health:
    """What is known about one server, and what follows from it.

    Every method is a plain function that neither waits nor calls user code. Times are seconds of ``clock`` (monotonic).
    The hot path reads ``now.fresh_until`` and ``now.blocked``.
    """

    state = _Of[HealthState]()
    since = _Of[float]()
    closed = _Of[bool]()
    confirmed = _Of[bool]()
    held = _Of[bool]()
    blocked = _Of[bool]()
    fresh_until = _Of[float]()
    fault = _Of[Fault | None]()
    last_outage = _Of[float]()
    last_check = _Of[float | None]()
    latency = _Of[float | None]()
    checks = _Of[int]()
    failures = _Of[int]()
    next_probe = _Of[float]()
    history = _Of[History]()

    def __init__(
        self,
        *,
        interval: float,
        backoff_base: float,
        backoff_cap: float,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = uniform,
    ) -> None:
        self.interval = interval
        self.backoff_base = backoff_base
        self.backoff_cap = backoff_cap
        self._clock = clock
        self._uniform = uniform
        self.last_reply = -math.inf
        """When the last reply came. A plain store, because it happens for each batch of replies."""
        self.now = Snapshot(since=clock())
        """The newest snapshot, for the hot path. ``newest()`` is exact."""
        fork.register(self.after_fork_in_child)

    def newest(self) -> Snapshot:
        """Return the newest snapshot. Publish it if an interrupt or another thread left an earlier one."""
        snapshot = self.now
        while snapshot.successor:
            self.now = snapshot = snapshot.successor[_NEXT]
        return snapshot

    def advance(self, step: Callable[[Snapshot], Snapshot]) -> tuple[Snapshot, Snapshot]:
        """Let ``step`` compute the next snapshot from the newest. Repeat if another thread was faster.

        Return the snapshots before and after. They are the same if ``step`` returned its argument.
        """
        while True:
            before = self.newest()
            after = step(before)
            if after is before:
                return before, before
            try:
                settled = before.successor.setdefault(_NEXT, after)
            finally:
                # No call here: an interrupt after the line above finds the snapshot published.
                if before.successor:
                    self.now = before.successor[_NEXT]
            self.newest()
            if settled is after:
                return before, after

    @property
    def is_healthy(self) -> bool:
        return self.state is HealthState.HEALTHY

    def check_due(self) -> bool:
        """Whether the next caller must PING before it may trust the server."""
        now = self.newest()
        return not now.confirmed and self._clock() >= now.fresh_until

    def retry_after(self) -> float:
        """Seconds until the next probe is due; 0 if it is due now."""
        now = self.newest()
        return max(0.0, now.next_probe - self._clock()) if now.confirmed else 0.0

    def probe_delay(self) -> float | None:
        """Seconds until a probe without a caller is due; None while nothing is wrong, or if the pool is closed."""
        now = self.newest()
        if now.state is not HealthState.UNHEALTHY or now.closed:
            return None
        return max(0.0, now.next_probe - self._clock())

    def saw_reply(self, at: float | None = None) -> None:
        """Take a reply, now or ``at`` (monotonic seconds), as proof of life. An unhealthy server waits for its PING."""
        if at is None:
            at = self._clock()
        if at > self.last_reply:
            self.last_reply = at
            now = self.now
            if now.state is HealthState.HEALTHY:
                now.fresh_until = at + self.interval

    # Events. Each returns whether it is news: another state, or another kind of fault.

    def mark_suspect(self, fault: Fault) -> bool:
        """Record a failure that the server may not have caused. Return True if this changed the state.

        Nothing changes after ``close``.
        """

        def step(now: Snapshot) -> Snapshot:
            if now.closed:
                return now
            if now.state is HealthState.UNHEALTHY:
                return now if now.confirmed else replace(now, fault=fault)
            # Until then callers should find out by themselves.
            return self._changed(now, HealthState.UNHEALTHY, fault, next_probe=self._clock() + self.backoff_cap)

        return _is_news(*self.advance(step))

    def passed(self, latency: float) -> bool:
        """Record a successful PING and its ``latency`` in seconds. Return True if this changed the state.

        Nothing changes after ``close``.
        """
        at = self._clock()

        def step(now: Snapshot) -> Snapshot:
            if now.closed:
                return now
            known: dict[str, Any] = {
                "confirmed": False,
                "failures": 0,
                "checks": now.checks + 1,
                "last_check": at,
                "latency": latency,
                "fresh_until": at + self.interval,
            }
            if now.state is HealthState.HEALTHY:
                return replace(now, fault=None, **known)
            return self._changed(now, HealthState.HEALTHY, None, **known)

        self.last_reply = at
        return _is_news(*self.advance(step))

    def failed(self, fault: Fault) -> bool:
        """Record a failed PING. Return True if this is news: another state or another kind."""
        at = self._clock()

        def step(now: Snapshot) -> Snapshot:
            if now.closed:
                return now
            delay = full_jitter(now.failures, self.backoff_base, self.backoff_cap, self._uniform)
            return self._confirmed(
                now, fault, checks=now.checks + 1, last_check=at, next_probe=at + delay, failures=now.failures + 1
            )

        return _is_news(*self.advance(step))

    def failed_since(self, fault: Fault, started: float) -> bool | None:
        """Record a failed command that began to wait at ``started`` (monotonic seconds).

        It counts as a failed PING, unless a reply has come since. In that case the server is up, and the result is
        None. Otherwise return True if this is news.
        """
        if self.last_reply > started:
            return None

        def step(now: Snapshot) -> Snapshot:
            if now.confirmed or now.closed:
                return now  # known; its probes find out when it becomes another fault
            delay = full_jitter(0, self.backoff_base, self.backoff_cap, self._uniform)
            return self._confirmed(now, fault, next_probe=self._clock() + delay)

        return _is_news(*self.advance(step))

    def hold(self, held: bool) -> None:
        """Set whether new commands are held back. After the end, waiting callers may find out whether the server is up.

        The pause was made for a server that goes away and comes back, so a fault confirmed meanwhile is only doubted.
        """

        def step(now: Snapshot) -> Snapshot:
            if not held and now.confirmed:
                return replace(now, held=held, confirmed=False, next_probe=self._clock())
            return replace(now, held=held) if now.held is not held else now

        self.advance(step)

    def forget(self, *, closed: bool | None = None) -> None:
        """Return to unknown, so that the next caller checks. ``closed``: whether the pool is closed."""

        def step(now: Snapshot) -> Snapshot:
            known: dict[str, Any] = {
                "confirmed": False,
                "failures": 0,
                "closed": now.closed if closed is None else closed,
            }
            if now.state is HealthState.UNKNOWN:
                return replace(now, fault=None, since=self._clock(), **known)
            return self._changed(now, HealthState.UNKNOWN, None, **known)

        self.advance(step)

    def expire(self, last_check: float) -> None:
        """Set the time of the last check and of the last reply to ``last_check``."""
        self.last_reply = last_check
        self.advance(lambda now: replace(now, last_check=last_check, fresh_until=last_check + self.interval))

    def after_fork_in_child(self) -> None:
        """In a forked child nothing is known. No listener is notified, because nothing has happened to this process."""
        self.now = Snapshot(since=self._clock(), closed=self.newest().closed)

    # The next snapshot.

    def _confirmed(self, now: Snapshot, fault: Fault, **known: Any) -> Snapshot:
        if now.confirmed and now.fault is not None and now.fault.kind is fault.kind:
            return replace(now, fault=fault, **known)
        if now.state is HealthState.UNHEALTHY:
            known["since"] = now.since
        outage = now.last_outage if now.confirmed else self._clock()
        return self._changed(now, HealthState.UNHEALTHY, fault, confirmed=True, last_outage=outage, **known)

    def _changed(self, now: Snapshot, state: HealthState, fault: Fault | None, **known: Any) -> Snapshot:
        history = with_change(now.history, str(state), fault)
        return replace(now, **{"since": self._clock(), "state": state, "fault": fault, "history": history, **known})


def _is_news(before: Snapshot, after: Snapshot) -> bool:
    return after.history is not before.history
