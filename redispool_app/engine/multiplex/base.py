"""What the sharing of one connection decides alike for an event loop and for threads; no I/O and no waiting."""

from __future__ import annotations

import logging
import math
import random
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
from redispool_app.engine.stats.counters import Statistics
from redispool_app.engine.stats.opentelemetry import Telemetry
from redispool_app.engine.stats.slow_log import SlowCommands
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout

from .retry import FailedCommandError, RetryBudget, StalledError, Verdict, decide

logger = logging.getLogger("redispool_app.pool")


@dataclass(frozen=True, kw_only=True, slots=True)
class SharingLimits:
    """What one shared connection carries; sizes in bytes, times in seconds."""

    max_in_flight: int = 20_000
    max_in_flight_bytes: int = 64 * 1024 * 1024
    max_waiting: int = 20_000
    max_shared_bytes: int = 1024 * 1024
    """A command or unit above this size travels on a connection of its own."""
    max_connections: int = 4
    """So many connections may be shared at most, while one is stalled; normally there is one."""
    retry_writes: bool = False
    backoff_base: float = 0.05
    backoff_cap: float = 1.0
    surely_room: int = field(init=False)
    """Below so many callers there is room for another, of whatever size: nobody needs to count bytes."""

    def __post_init__(self) -> None:
        largest = max(1, self.max_shared_bytes)
        object.__setattr__(self, "surely_room", min(self.max_in_flight, self.max_in_flight_bytes // largest))


_DEFAULT_LIMITS = SharingLimits()

_MOST_RESENT = 3
"""A command that was lost after being written is sent again so often: perhaps it is what ends the connections."""

_WHOLE = 0.9
"""Silence for such a part of a time-out counts as the whole: another shared connection, made while this one was
stalled, may have been answered a moment after this one was."""

_SHOWN_FOR = 10.0
"""For so many seconds after a write has timed out it is shown that writes are held back."""

FAILURES = (redis_exceptions.RedisError, OSError, PoolClosed)
"""What connecting raises by itself; the rest comes from outside, or from code of others, such as credentials."""

_FINAL = (ReplyTimeoutError, ReplyTooLargeError)
"""Losses after which no other try can help."""


def limits_of(pool: Any) -> SharingLimits | None:
    """Return what may be shared of ``pool``; None where every command has a connection of its own."""
    limits: SharingLimits | None = getattr(pool, "sharing_limits", _DEFAULT_LIMITS)
    # With a single connection allowed, the one must be free for what cannot share.
    if pool.max_connections < 2 or pool.connection_kwargs.get("parser_class") is not None:
        return None
    # Client-side caching lives in connections of its own.
    return None if getattr(pool, "cache", None) is not None else limits


@dataclass(slots=True)
class Request:
    """What one caller sends, and what its attempts have used up; times in monotonic seconds.

    Each attempt is three steps: *admit* waits until the caller may send and returns a connection, *send* sends the
    request there and waits for the reply, *judge* decides what a lost reply means: another attempt, or an exception.
    """

    packed: bytes
    commands: int
    """How many commands a unit has; 0 for a single command, whose reply is not a list."""
    reads: bool
    """Whether the request only reads, so that it may be sent again after it was written."""
    started: float
    """When the caller asked."""
    deadline: float
    decode: bool | Sequence[bool] = False
    """Which replies are decoded as text; used on event loops only."""
    resent: int = 0
    """How often the request was sent again after it had been written."""
    sent_at: float = math.inf
    """When the last attempt sent it."""
    was_refused: bool = False
    """Whether the server has answered READONLY to it."""
    looks_up: bool = False
    """Whether the name is to be looked up before it is sent again."""

    @property
    def sent(self) -> tuple[bytes, int]:
        """The packed bytes, and how many commands they are."""
        return self.packed, self.commands or 1

    def was_held_back(self, seconds: float) -> None:
        """Do not count the time that a pause of the pool took."""
        self.started += seconds
        self.deadline += seconds


class SharingRules:
    """The state of a shared connection that does not depend on how its callers wait."""

    def __init__(self, pool: Any, monitor: Monitor | None, limits: SharingLimits) -> None:
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
        self.slow_commands = monitor.slow_commands if monitor is not None else SlowCommands()
        self.closed = False
        self.encoder = pool.get_encoder()
        self.plain_encoding = is_utf8(self.encoder)
        self.timeout: float | None = pool.connection_kwargs.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT)
        self._failures = 0
        self._not_before = 0.0
        self._accident: BaseException | None = None
        """The first exception of other code that has ended an attempt since the last connection was made."""

    def gate(self) -> None:
        """Raise ``PoolClosed`` or ``RedisUnavailable`` for a caller that must not go on."""
        if self.closed:
            raise PoolClosed()
        if self.monitor is not None:
            self.monitor.gate()

    @property
    def is_paused(self) -> bool:
        """Whether new commands are held back."""
        return self.monitor is not None and self.monitor.pause.is_on

    def note_slow(self, request: Request) -> None:
        """Remember a caller whose wait before it was sent made it slow; of what came then its connection knows."""
        now, threshold = monotonic(), self.slow_commands.threshold
        if now - request.started >= threshold > now - request.sent_at:
            self.slow_commands.note_all([request.sent], now - request.started)
            tell_all(self.slow_commands.untold)

    def judge(self, request: Request, error: FailedCommandError) -> None:
        """Return if the request is to be sent again; else raise what its caller should know."""
        if isinstance(error, redis_exceptions.ReadOnlyError):
            self._judge_refusal(request, error)
            return
        if isinstance(error, StalledError) and not self.closed and monotonic() < request.deadline:
            return  # it only reads, and nothing was lost
        # A time-out has used the deadline up, a reply without room will find none, a closed connection carries nothing.
        over = self.closed or isinstance(error, _FINAL) or (error.written and request.resent == _MOST_RESENT)
        verdict = decide(
            written=error.written,
            reads=request.reads,
            retry_writes=self.limits.retry_writes,
            deadline=-math.inf if over else request.deadline,
            budget=self.budget,
        )
        # No lock: neither another thread nor a signal handler can run within a statement without a call.
        self.statistics.retries += verdict is Verdict.AGAIN
        self.statistics.unknown += verdict is Verdict.UNKNOWN
        if verdict is Verdict.AGAIN:
            request.resent += error.written
            return
        if verdict is Verdict.UNKNOWN:
            raise OutcomeUnknown(f"{error} (the command may or may not have been carried out)") from error
        if isinstance(error, _FINAL):
            raise error
        if error.stuck:
            raise redis_exceptions.TimeoutError(str(error)) from error
        raise redis_exceptions.ConnectionError(str(error)) from error

    def _judge_refusal(self, request: Request, error: redis_exceptions.ReadOnlyError) -> None:
        """A command was not carried out: once it is sent again, on a new connection if that may be made."""
        if request.was_refused or not is_refusal(error):
            if request.was_refused:
                self.read_only.refused_again(error)
            raise error
        if self.closed or monotonic() >= request.deadline:
            raise error
        request.was_refused = True
        request.looks_up = not self.replace_if_due()

    def replace_if_due(self) -> bool:
        """What the server refused is to be sent again: on a new connection, if that may be made.

        Return whether it is; if not, the name is looked up first.
        """
        self.statistics.retries += 1
        if self.read_only.may_replace():
            self.replace()
            return True
        return False

    def replace(self) -> None:
        """Give the connection no new commands: what is due comes in, then it closes. The next command makes another."""
        raise NotImplementedError

    def count_unknown(self) -> None:
        """Count a write whose reply was lost on a connection of its own."""
        self.statistics.unknown += 1

    def may_connect_again(self, error: redis_exceptions.ConnectionError, deadline: float) -> bool:
        """Nothing was written, so a caller with time left waits for the next attempt, unless it is known to be vain."""
        if self.closed or monotonic() >= deadline or isinstance(error, redis_exceptions.AuthenticationError):
            return False
        if self.monitor is not None:
            return not self.monitor.is_refusing
        # Without a manager redis-py's own policy has been followed; only a cut during the handshake is no verdict.
        return self._says_closed(error)

    def was_cut(self, error: redis_exceptions.ConnectionError) -> bool:
        """Whether somebody closed a connection, perhaps only this one: the server's health needs another try."""
        lost = isinstance(error, ConnectionLostError)
        return not self.closed and (lost or self._says_closed(error))

    def may_probe_again(self, error: redis_exceptions.ConnectionError, cuts: int, began: float) -> bool:
        """Whether a check that was cut goes on: the second time only if the server has answered others meanwhile."""
        lives = self.monitor is not None and self.monitor.health.last_reply > began
        return self.was_cut(error) and cuts <= 1 + lives

    def _says_closed(self, error: redis_exceptions.ConnectionError) -> bool:
        opened = self.statistics.commands if self.monitor is None else self.monitor.counters.opened
        return classify(error, "", speaks_tls=opened > 0).kind is FaultKind.CLOSED

    def too_many(self, in_flight: int, waiting: int) -> PoolQueueFull:
        """Count and return the refusal of a caller for whom there is no room even to wait."""
        self.statistics.refused += 1
        refusal = PoolQueueFull(
            f"{in_flight} commands are in flight and {waiting} callers wait: "
            "Redis or this process is too slow for so many."
        )
        self._exhausted(refusal)
        return refusal

    def no_room(self) -> PoolTimeout:
        """Count and return the refusal of a caller that waited for room in vain."""
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
        """Let the next attempt begin now: the server may be up again."""
        self._not_before = 0.0

    def attempt_failed(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._failures += 1
        self._not_before = monotonic() + full_jitter(
            self._failures, self.limits.backoff_base, self.limits.backoff_cap, uniform
        )

    def attempt_succeeded(self) -> None:
        self._failures = 0
        if self.statistics.commands:
            self.statistics.reconnects += 1

    def too_late(self, waited: float) -> redis_exceptions.TimeoutError:
        """Return the exception of a caller that has waited so many seconds for somebody's attempt to connect."""
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
        """Log in with a new token on the shared connection, in place. Called in any thread; must not wait."""
        raise NotImplementedError

    def login_failed(self, error: Any) -> None:
        """The server has refused a new token: the connection is replaced by one with credentials of its own."""
        extra = {"pool": getattr(self.monitor, "alias", None), "fault_kind": "auth"}
        text = "Redis refused a new token (%s): the shared connection is replaced."
        tell(logger.warning, text, type(error).__name__, extra=extra)

    # What the connection reports.

    def report_error(self, error: Exception) -> None:
        """The server answered with an error. Some concern every caller: LOADING, NOAUTH."""
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
        """The connection ended; ``oldest``: when the caller that waited longest asked, None if no caller waited.

        ``was_passed``: the server answered on another connection while this one was stalled. So a time-out is a reason
        to check, but no proof of an outage. ``held_back``: it has answered there a moment ago, and holds writes back.
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
        """Called where something may have been left to be told, which the connection may not do: it holds roles."""


def is_silent(connection: Any, since: float) -> bool:
    """Whether nobody waits on a connection, on which nothing has come after ``since`` (monotonic seconds)."""
    return bool(connection.in_flight == 0 and connection.last_received <= since)
