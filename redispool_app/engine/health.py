"""The health of one server as this process knows it: a state machine without I/O, safe for threads.

``unknown → healthy ⇄ unhealthy``. Any reply is proof of health for ``interval`` seconds, so a busy process never
pays for a PING. Unhealthy comes in two strengths: *doubted* (something failed; the next caller's PING decides) and
*confirmed* (callers fail at once while probes follow a backoff with full jitter, see
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from .faults import Fault
from .runtime import fork


class HealthState(StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


def full_jitter(
    failures: int, base: float, cap: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return a delay in seconds, uniform between 0 and ``min(cap, base * 2 ** failures)``."""
    # The exponent is bounded so that a week of failures cannot overflow a float.
    return uniform(0.0, min(cap, base * 2.0 ** min(failures, 32)))


class Health:
    """What is known about one server, and what may be concluded from it.

    Every method is a plain function that cannot be interrupted half-way; times
    are seconds of ``clock`` (monotonic). ``fresh_until`` is read on the hot path
    without the lock: it lies in the future only while the state is healthy.
    """

    def __init__(
        self,
        *,
        interval: float,
        backoff_base: float,
        backoff_cap: float,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.interval = interval
        self.backoff_base = backoff_base
        self.backoff_cap = backoff_cap
        self._clock = clock
        self._uniform = uniform
        self._lock = threading.Lock()
        self.state = HealthState.UNKNOWN
        self.fresh_until = -math.inf
        self.confirmed = False  # callers fail at once; only the recovery probes
        self.held = False
        """Whether new commands are held back (see ``pause``)."""
        self.barred = False
        """Whether a command must look closer before it is sent: ``confirmed`` or ``held``. Read on the hot path."""
        self.on_change: Callable[[HealthState, Fault | None], None] | None = None
        """Told each change of the state or its cause, under the lock, so that changes are told in their order."""
        self.fault: Fault | None = None
        self.last_reply = -math.inf
        self.last_outage = -math.inf
        """When callers began to fail at once. What was connected by then may have died without a word."""
        self.last_check: float | None = None
        self.latency: float | None = None
        self.checks = 0
        self.failures = 0
        self.next_probe = -math.inf
        self.since = clock()
        fork.register(self.after_fork_in_child)

    @property
    def is_healthy(self) -> bool:
        return self.state is HealthState.HEALTHY

    def check_due(self) -> bool:
        """Whether the next caller must PING before it may trust the server."""
        with self._lock:
            return not self.confirmed and self._clock() >= self.fresh_until

    def retry_after(self) -> float:
        """Seconds until the next probe is due; 0 when it is due now."""
        with self._lock:
            return max(0.0, self.next_probe - self._clock()) if self.confirmed else 0.0

    def probe_delay(self) -> float | None:
        """Seconds until a probe without a caller is due; None while nothing is wrong."""
        with self._lock:
            if self.state is not HealthState.UNHEALTHY:
                return None
            return max(0.0, self.next_probe - self._clock())

    def saw_reply(self, at: float | None = None) -> None:
        """Take a reply, now or ``at`` (monotonic seconds), as proof of life; an unhealthy server waits for its PING."""
        at = self._clock() if at is None else at
        with self._lock:
            self.last_reply = max(self.last_reply, at)
            if self.state is HealthState.HEALTHY:
                self.fresh_until = self.last_reply + self.interval

    def doubt(self, fault: Fault) -> bool:
        """Something failed that may or may not be the server's fault. Return True when this changed the state."""
        with self._lock:
            changed = self.state is not HealthState.UNHEALTHY
            if changed:
                self._become(HealthState.UNHEALTHY)
                # Callers have until then to find out by themselves.
                self.next_probe = self._clock() + self.backoff_cap
            if not self.confirmed:
                self.fault = fault
            if changed:
                self._tell()
            return changed

    def passed(self, latency: float) -> bool:
        """A PING came back after ``latency`` seconds. Return True when this changed the state."""
        now = self._clock()
        with self._lock:
            changed = self.state is not HealthState.HEALTHY
            if changed:
                self._become(HealthState.HEALTHY)
            self._confirm_nothing()
            self.checks += 1
            self.last_check = self.last_reply = now
            self.latency = latency
            self.fresh_until = now + self.interval
            if changed:
                self._tell()
            return changed

    def failed(self, fault: Fault) -> bool:
        """A PING failed. Return True when this is news: another state or another kind."""
        now = self._clock()
        with self._lock:
            news = self._confirm(fault)
            self.checks += 1
            self.last_check = now
            self.next_probe = now + full_jitter(self.failures, self.backoff_base, self.backoff_cap, self._uniform)
            self.failures += 1
            return news

    def failed_since(self, fault: Fault, started: float) -> bool | None:
        """A command that began to wait at ``started`` failed: as good as a PING, unless a reply has come since.

        Return None then, because the server lives; else True when this is news.
        """
        now = self._clock()
        with self._lock:
            if self.last_reply > started:
                return None
            if self.confirmed:
                return False  # known; its probes say when it becomes something else
            self.next_probe = now + full_jitter(0, self.backoff_base, self.backoff_cap, self._uniform)
            return self._confirm(fault)

    def _confirm(self, fault: Fault) -> bool:
        news = not self.confirmed or self.fault is None or self.fault.kind is not fault.kind
        if self.state is not HealthState.UNHEALTHY:
            self._become(HealthState.UNHEALTHY)
        if not self.confirmed:
            self.last_outage = self._clock()
        self.confirmed = self.barred = True
        self.fault = fault
        self.fresh_until = -math.inf
        if news:
            self._tell()
        return news

    def hold(self, held: bool) -> None:
        """New commands are held back from now on, or no longer. Who waited may then find out whether the server is up.

        They waited because the server was to go away and come back, so what was confirmed meanwhile is only doubted.
        """
        with self._lock:
            self.held = held
            if not held and self.confirmed:
                self.confirmed = False
                self.next_probe = self._clock()
            self.barred = held or self.confirmed

    def forget(self) -> None:
        """Return to unknown: the next caller checks."""
        with self._lock:
            changed = self.state is not HealthState.UNKNOWN
            self._become(HealthState.UNKNOWN)
            self._confirm_nothing()
            if changed:
                self._tell()

    def expire(self, last_check: float) -> None:
        """Pretend that the last check, and the last reply, were at ``last_check``."""
        with self._lock:
            self.last_check = self.last_reply = last_check
            if self.state is HealthState.HEALTHY:
                self.fresh_until = last_check + self.interval

    def after_fork_in_child(self) -> None:
        """In a forked child nothing is known; no listener is told, for nothing has happened to this process yet."""
        self._lock = threading.Lock()
        self.held = False
        self._become(HealthState.UNKNOWN)
        self._confirm_nothing()

    def _confirm_nothing(self) -> None:
        self.confirmed = False
        self.barred = self.held
        self.fault = None
        self.failures = 0

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self.state, self.fault)

    def _become(self, state: HealthState) -> None:
        self.state = state
        self.since = self._clock()
        self.fresh_until = -math.inf
