"""Rules of a shared connection that are the same for event loops and for threads. No I/O and no waiting."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from redis import exceptions as redis_exceptions
from redis._defaults import DEFAULT_SOCKET_TIMEOUT

from redispool_app.engine.connection import credentials, dns
from redispool_app.engine.connection.credentials import tokens_of
from redispool_app.engine.connection.read_only import is_refusal, policy_of
from redispool_app.engine.connection.renewal import Renewal
from redispool_app.engine.errors import ConnectionLostError, ReplyTimeoutError, ReplyTooLargeError
from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.state import full_jitter
from redispool_app.engine.protocol.packing import is_utf8
from redispool_app.engine.runtime.hooks import tell, tell_all
from redispool_app.engine.runtime.jitter import uniform
from redispool_app.engine.stats.counters import Statistics
from redispool_app.engine.stats.opentelemetry import Telemetry
from redispool_app.engine.stats.slow_log import SlowLog
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout

from .retry import FailedCommandError, RetryBudget, RetryDecision, StalledError, decide

logger = logging.getLogger("redispool_app.pool")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiplexerLimits:
    """Limits of one shared connection. Sizes are in bytes, times in seconds."""

    max_in_flight: int = 20_000
    max_in_flight_bytes: int = 64 * 1024 * 1024
    max_waiting: int = 20_000
    max_shared_bytes: int = 1024 * 1024
    """A command or pipeline above this size uses a dedicated connection."""
    max_connections: int = 4
    """Maximum number of shared connections while one is stalled. Normally there is one."""
    retry_writes: bool = False
    backoff_base: float = 0.05
    backoff_cap: float = 1.0
    surely_room: int = field(init=False)
    """Below this number of callers there is room for another one of any size, so bytes need not be counted."""

    def __post_init__(self) -> None:
        largest = max(1, self.max_shared_bytes)
        object.__setattr__(self, "surely_room", min(self.max_in_flight, self.max_in_flight_bytes // largest))


_DEFAULT_LIMITS = MultiplexerLimits()

_MOST_RESENT = 3
"""How often a command that was written and lost is sent again. The command itself may be what ends the connections."""

_WHOLE = 0.9
"""Silence for this share of a timeout counts as the whole timeout.

A second shared connection, made during the stall, may have been answered a moment after the stalled one.
"""

_SHOWN_FOR = 10.0
"""Seconds for which the status shows that writes are held back, after a write has timed out."""

FAILURES = (redis_exceptions.RedisError, OSError, PoolClosed)
"""Errors of connecting itself.

Any other exception comes from outside, or from foreign code such as a credential provider.
"""

_FINAL = (ReplyTimeoutError, ReplyTooLargeError)
"""Losses after which no other attempt can help."""


def limits_of(pool: Any) -> MultiplexerLimits | None:
    """Return what callers of ``pool`` may share; None if every command needs a dedicated connection."""
    limits: MultiplexerLimits | None = getattr(pool, "sharing_limits", _DEFAULT_LIMITS)
    # If the pool may have only one connection, keep it for commands that cannot share.
    if pool.max_connections < 2 or pool.connection_kwargs.get("parser_class") is not None:
        return None
    # Client-side caching needs its own connections.
    return None if getattr(pool, "cache", None) is not None else limits


@dataclass(slots=True)
class Request:
    """What one caller sends, and what its attempts have used up. Times are in monotonic seconds.

    Each attempt has three steps. *Admit* waits until the caller may send, and returns a connection. *Send* sends the
    request on it and waits for the reply. *Decide* chooses after a lost reply: another attempt, or an exception.
    """

    packed: bytes
    commands: int
    """Number of commands in a pipeline; 0 for a single command, whose reply is not a list."""
    reads: bool
    """Whether the request only reads. It may then be sent again after it was written."""
    started: float
    """When the caller asked."""
    deadline: float
    decode: bool | Sequence[bool] = False
    """Which replies are decoded as text. Used on event loops only."""
    resent: int = 0
    """How often the request was sent again after it had been written."""
    sent_at: float = math.inf
    """When the last attempt sent the request."""
    was_refused: bool = False
    """Whether the server has answered READONLY to the request."""
    looks_up: bool = False
    """Whether the host name must be looked up before the request is sent again."""

    @property
    def sent(self) -> tuple[bytes, int]:
        """The packed bytes, and the number of commands in them."""
        return self.packed, self.commands or 1

    def was_held_back(self, seconds: float) -> None:
        """Leave the time of a pool pause out of the measured time."""
        self.started += seconds
        self.deadline += seconds


class MultiplexerBase:
    """State of a shared connection that does not depend on how its callers wait."""

    def __init__(self, pool: Any, monitor: Monitor | None, limits: MultiplexerLimits) -> None:
        self.pool = pool
        self.monitor = monitor
        self.limits = limits
        self.statistics = Statistics()
        self.telemetry = Telemetry.of(pool)
        self.budget = RetryBudget(limits.max_in_flight)
        self.read_only = policy_of(pool)
        self.renewal = Renewal(pool)
        self.tokens = tokens_of(pool)
        if self.tokens is not None:
            self.tokens.add(self.use_token)
        self.slow_commands = monitor.slow_commands if monitor is not None else SlowLog()
        self.closed = False
        self.encoder = pool.get_encoder()
        self.plain_encoding = is_utf8(self.encoder)
        self.timeout: float | None = pool.connection_kwargs.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT)
        self._failures = 0
        self._not_before = 0.0
        self._accident: BaseException | None = None
        """The first exception of foreign code that ended an attempt since the last connection was made."""

    def ensure_available(self) -> None:
        """Raise ``PoolClosed`` or ``RedisUnavailable`` if the caller must not go on."""
        if self.closed:
            raise PoolClosed()
        if self.monitor is not None:
            self.monitor.ensure_available()

    @property
    def is_paused(self) -> bool:
        """Whether new commands are held back."""
        return self.monitor is not None and self.monitor.pause.is_on

    def note_slow(self, request: Request) -> None:
        """Record a caller that was slow because it waited before sending.

        The connection records the time after that.
        """
        now, threshold = monotonic(), self.slow_commands.threshold
        if now - request.started >= threshold > now - request.sent_at:
            self.slow_commands.note_all([request.sent], now - request.started)
            tell_all(self.slow_commands.untold)

    def decide_retry(self, request: Request, error: FailedCommandError) -> None:
        """Return if the request should be sent again; otherwise raise the exception for its caller."""
        if isinstance(error, redis_exceptions.ReadOnlyError):
            self._judge_refusal(request, error)
            return
        if isinstance(error, StalledError) and not self.closed and monotonic() < request.deadline:
            return  # the request only reads, and nothing was lost
        # After a timeout the deadline is over. A reply that did not fit in memory will not fit again. A closed
        # connection takes no commands.
        over = self.closed or isinstance(error, _FINAL) or (error.written and request.resent == _MOST_RESENT)
        decision = decide(
            written=error.written,
            reads=request.reads,
            retry_writes=self.limits.retry_writes,
            deadline=-math.inf if over else request.deadline,
            budget=self.budget,
        )
        # No lock: no other thread or signal handler can run within a statement that makes no call.
        self.statistics.retries += decision is RetryDecision.AGAIN
        self.statistics.unknown += decision is RetryDecision.UNKNOWN
        if decision is RetryDecision.AGAIN:
            request.resent += error.written
            return
        if decision is RetryDecision.UNKNOWN:
            raise OutcomeUnknown(f"{error} (the command may or may not have been carried out)") from error
        if isinstance(error, _FINAL):
            raise error
        if error.stuck:
            raise redis_exceptions.TimeoutError(str(error)) from error
        raise redis_exceptions.ConnectionError(str(error)) from error

    def _judge_refusal(self, request: Request, error: redis_exceptions.ReadOnlyError) -> None:
        """The server refused a command. Send it again once, on a new connection if one may be made."""
        if request.was_refused or not is_refusal(error):
            if request.was_refused:
                self.read_only.refused_again(error)
            raise error
        if self.closed or monotonic() >= request.deadline:
            raise error
        request.was_refused = True
        request.looks_up = not self.replace_if_due()

    def replace_if_due(self) -> bool:
        """Decide how to resend a refused command. Return True if a new connection is made for it.

        If False, the host name is looked up first.
        """
        self.statistics.retries += 1
        if self.read_only.may_replace():
            self.replace()
            return True
        return False

    def replace(self) -> None:
        """Send no new commands on the connection.

        It closes after its last pending reply. The next command makes a new one.
        """
        raise NotImplementedError

    def count_unknown(self) -> None:
        """Count a write whose reply was lost on a dedicated connection."""
        self.statistics.unknown += 1

    def may_connect_again(self, error: redis_exceptions.ConnectionError, deadline: float) -> bool:
        """Nothing was written. A caller with time left waits for the next attempt, unless it cannot succeed."""
        if self.closed or monotonic() >= deadline or isinstance(error, redis_exceptions.AuthenticationError):
            return False
        if self.monitor is not None:
            return not self.monitor.is_refusing
        # Without a manager redis-py's own policy has been followed. Only a cut during the handshake leaves the health
        # unknown.
        return self._says_closed(error)

    def was_cut(self, error: redis_exceptions.ConnectionError) -> bool:
        """Whether the connection was closed from outside.

        Other connections may be fine, so the health check needs another try.
        """
        lost = isinstance(error, ConnectionLostError)
        return not self.closed and (lost or self._says_closed(error))

    def may_probe_again(self, error: redis_exceptions.ConnectionError, cuts: int, began: float) -> bool:
        """Whether a check goes on after a cut.

        The second time it does so only if the server has answered others meanwhile.
        """
        lives = self.monitor is not None and self.monitor.health.last_reply > began
        return self.was_cut(error) and cuts <= 1 + lives

    def _says_closed(self, error: redis_exceptions.ConnectionError) -> bool:
        opened = self.statistics.commands if self.monitor is None else self.monitor.counters.opened
        return classify(error, "", speaks_tls=opened > 0).kind is FaultKind.CLOSED

    def too_many(self, in_flight: int, waiting: int) -> PoolQueueFull:
        """Count and return the refusal of a caller when the wait queue is full."""
        self.statistics.refused += 1
        refusal = PoolQueueFull(
            f"{in_flight} commands are in flight and {waiting} callers wait: "
            "Redis or this process is too slow for this load."
        )
        self._exhausted(refusal)
        return refusal

    def no_room(self) -> PoolTimeout:
        """Count and return the refusal of a caller that waited for room without success."""
        refusal = PoolTimeout(f"No room on the shared Redis connection within {self.timeout} s.")
        self._exhausted(refusal)
        return refusal

    def _exhausted(self, refusal: PoolTimeout | PoolQueueFull) -> None:
        if self.monitor is not None:
            self.monitor.exhausted(refusal)

    # Connecting.

    def attempt_delay(self) -> float:
        """Seconds until the next attempt may begin."""
        return self._not_before - monotonic()

    def attempt_at_once(self) -> None:
        """Allow the next attempt at once: the server may be up again."""
        self._not_before = 0.0

    def attempt_failed(self, uniform: Callable[[float, float], float] = uniform) -> None:
        self._failures += 1
        self._not_before = monotonic() + full_jitter(
            self._failures, self.limits.backoff_base, self.limits.backoff_cap, uniform
        )

    def attempt_succeeded(self) -> None:
        self._failures = 0
        if self.statistics.commands:
            self.statistics.reconnects += 1

    def too_late(self, waited: float) -> redis_exceptions.TimeoutError:
        """Return the exception for a caller that has waited this many seconds for a shared attempt to connect."""
        error = redis_exceptions.TimeoutError("Timeout connecting to server")
        long, kwargs = max(0.05, waited / 2), self.pool.connection_kwargs
        error.__cause__ = dns.unanswered(kwargs.get("host"), long) or credentials.unanswered(
            kwargs.get("credential_provider"), long
        )
        return error

    # Tokens of a streaming credential provider.

    def latest_token(self) -> Any:
        """Return the last token that the provider has streamed; None without one."""
        return None if self.tokens is None else self.tokens.latest

    def use_token(self, token: Any) -> None:
        """Log in with a new token on the open shared connection. May be called in any thread; must not wait."""
        raise NotImplementedError

    def login_failed(self, error: Any) -> None:
        """The server refused a new token. Replace the connection by one that asks for its own credentials."""
        extra = {"pool": getattr(self.monitor, "alias", None), "fault_kind": "auth"}
        text = "Redis refused a new token (%s): the shared connection is replaced."
        tell(logger.warning, text, type(error).__name__, extra=extra)

    # What the connection reports.

    def report_error(self, error: Exception) -> None:
        """The server answered with an error. Some errors concern every caller, such as LOADING and NOAUTH."""
        if is_refusal(error):
            self.read_only.refused_at = monotonic()
        if self.monitor is None:
            return
        if isinstance(error, redis_exceptions.ConnectionError):
            self.monitor.failure(error, monotonic(), later=True)
        else:
            self.monitor.error_reply(error, later=True)
        self._left_untold()

    def report_loss(
        self, error: BaseException, oldest: float | None, *, was_passed: bool = False, held_back: bool = False
    ) -> None:
        """The connection ended. ``oldest`` is when the longest waiting caller asked, None if no caller waited.

        ``was_passed``: the server answered on another connection while this one was stalled. A timeout is then a reason
        to check, but no proof of an outage. ``held_back``: the server has just answered there, and holds writes back.
        """
        if self.monitor is None:
            return
        timed_out = isinstance(error, redis_exceptions.TimeoutError)
        if timed_out and held_back and self.timeout is not None:
            self.monitor.held_back(max(_SHOWN_FOR, 3 * self.timeout), later=True)
            self._left_untold()
        elif oldest is not None or timed_out:
            now, last = monotonic(), self.monitor.health.last_reply
            started = now if oldest is None else oldest
            if timed_out and self.timeout is not None and now - last >= self.timeout * _WHOLE:
                started = max(started, last)
            if timed_out and was_passed:
                started = -math.inf
            self.monitor.failure(error, started, later=True)
            self._left_untold()

    def _left_untold(self) -> None:
        """Called when a connection may have left reports in ``untold``. It cannot deliver them while it holds roles."""


def is_silent(connection: Any, since: float) -> bool:
    """Whether no caller waits on a connection that has received nothing since ``since`` (monotonic seconds)."""
    return bool(connection.in_flight == 0 and connection.last_received <= since)
