"""Handles READONLY replies: the server was demoted, or its name leads to another server now.

The server refused the command, so it is safe to send it again. The connection is replaced, which resolves the name
again. If the name keeps leading to a replica, this would cost a connection for each write. So the time between two
replacements doubles, up to a second. Between two replacements a refused command waits for a name lookup. If the name
leads elsewhere, connections are replaced at once. After the name has moved, a caller loses at most the one write that
was under way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, sleep
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.protocol.commands import leaves_state, sent_words
from redispool_app.engine.protocol.refusals import WAITING

from . import dns
from .blocking import with_time_left

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 1.0
"""Minimum and maximum seconds between two replacements of which the first has not helped."""

_LOOK_EVERY = 0.1
"""Minimum seconds between two lookups of the name, for any number of waiting callers."""

_LONGEST_LOOK = 1.0
"""Maximum seconds that a caller waits for a lookup, for example of a silent name server."""

_MOST_ANSWERS = 16
"""Maximum number of name server answers that cause a replacement until a write is accepted.

The name server may rotate them.
"""

_SHOWN_FOR = 60.0
"""Seconds for which the status shows a refusal without a later one. There may have been no write since."""

_WORDS = ("You can't write against a read only", "Can not run script with write flag on readonly")
"""The server's own wording, which differs from a script's own error."""


_UNBLOCKED = ("UNBLOCKED", "instance state changed")
"""The server's error for a waiting command when it becomes a replica. CLIENT UNBLOCK sends another one."""

REFUSALS = (redis_exceptions.ReadOnlyError, redis_exceptions.ExecAbortError)


def is_refusal(reply: Any) -> bool:
    """Whether a reply says that the server, a replica, has not run a command."""
    if isinstance(reply, redis_exceptions.ReadOnlyError):
        said = str(reply)
        return any(words in said for words in _WORDS)
    # EXEC after a demotion: no command of the transaction was run.
    return isinstance(reply, redis_exceptions.ExecAbortError) and "READONLY" in str(reply)


def is_unblocked(error: Exception) -> bool:
    """Whether a reply says that a waiting command was not run because its server becomes a replica."""
    said = str(error)
    return isinstance(error, redis_exceptions.ResponseError) and all(words in said for words in _UNBLOCKED)


def to_send_again(
    args: tuple[Any, ...], error: redis_exceptions.ResponseError, started: float
) -> tuple[Any, ...] | None:
    """Return what to send again of a dedicated command that was answered by ``error``; None if nothing.

    A waiting command keeps its remaining time. ``started`` is when it began (monotonic seconds).
    """
    if is_refusal(error):
        return args
    return with_time_left(args, monotonic() - started) if is_unblocked(error) else None


class ReadOnlyPolicy:
    """Decides for one shared connection, or one pool, when a refusal replaces connections.

    ``name`` is the host and port of the connections; None if there is no name that could move.
    """

    def __init__(self, monitor: Monitor | None, name: tuple[str, int] | None = None) -> None:
        self._monitor = monitor
        self._name = name
        self._look_from = -math.inf
        self._looked_at = -math.inf
        """When the last finished lookup began (monotonic seconds)."""
        self._answers: set[frozenset[str]] = set()
        """The addresses that the name has led to since a write was accepted."""
        self.refused_at = -math.inf
        """When the last refusal came (monotonic seconds)."""
        self.replaced_at = -math.inf
        """When connections were last replaced (monotonic seconds)."""
        self._replace_from = -math.inf
        self._wait = 0.0

    def may_replace(self) -> bool:
        """Whether a new refusal may replace the connection. False if that has just been done."""
        now = monotonic()
        if now < self._replace_from:
            return False
        if now > self._replace_from + _SHOWN_FOR:
            self._wait, self._answers = 0.0, set()
        self._wait = min(_LONGEST_WAIT, self._wait * 2 or _FIRST_WAIT)
        self._replace_from = now + self._wait
        self._retire(now)
        return True

    def _retire(self, now: float) -> None:
        self.replaced_at = now
        if self._monitor is not None:
            self._monitor.retire_connections()

    def look_up(self, until: float, replace: Callable[[], object]) -> None:
        """Wait for a lookup of the name that begins after now, up to ``until`` (monotonic seconds).

        If the name leads elsewhere, the caller that looked it up calls ``replace`` before any other caller goes on.
        """
        asked = monotonic()
        until = min(until, asked + _LONGEST_LOOK)
        while (wait := self._seconds_to_look(asked, until)) is not None:
            if wait > 0:
                sleep(wait)
                continue
            began, (host, port) = monotonic(), self._name or ("", 0)
            try:
                found = dns.resolve_sync(host, port, until - began)
            except OSError:
                found = []
            if self._leads_elsewhere(found):
                replace()
            self._looked_at = began

    async def look_up_async(self, until: float, replace: Callable[[], Awaitable[object]]) -> None:
        """Async version of ``look_up``."""
        asked = monotonic()
        until = min(until, asked + _LONGEST_LOOK)
        while (wait := self._seconds_to_look(asked, until)) is not None:
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            began, (host, port) = monotonic(), self._name or ("", 0)
            try:
                found = await dns.resolve(host, port, until - began)
            except OSError:
                found = []
            if self._leads_elsewhere(found):
                await replace()
            self._looked_at = began

    def _seconds_to_look(self, asked: float, until: float) -> float | None:
        """Return the seconds that a caller waits; 0 if it must do the lookup, None if it goes on.

        ``asked`` is when it asked (monotonic seconds).
        """
        now = monotonic()
        if self._name is None or self._looked_at >= asked or now >= until:
            return None
        if now < self._look_from:
            return min(self._look_from, until) - now
        self._look_from = now + _LOOK_EVERY
        return 0.0

    def _leads_elsewhere(self, found: Sequence[str]) -> bool:
        """Whether to replace connections because the name leads to these addresses for the first time."""
        answer = frozenset(found)
        if not answer or answer in self._answers or len(self._answers) >= _MOST_ANSWERS:
            return False
        self._answers.add(answer)
        self._retire(monotonic())
        return True

    def accepted(self) -> None:
        """A command that had been refused was accepted on another connection."""
        self._wait, self._answers = 0.0, set()
        if self._monitor is not None:
            self._monitor.warn(FaultKind.READONLY, None)

    def refused_again(self, error: Exception) -> None:
        """The new connection refused a command, too. Its caller gets ``error``."""
        if self._monitor is not None:
            self._monitor.warn(FaultKind.READONLY, classify(error, self._monitor.where), seconds=_SHOWN_FOR)


def policy_of(pool: Any) -> ReadOnlyPolicy:
    """Return the policy of a pool. Its shared connection and its dedicated connections use the same one."""
    kwargs = pool.connection_kwargs
    host = kwargs.get("host")
    name = None if "path" in kwargs or not host or dns.is_address(host) else (host, int(kwargs.get("port", 6379)))
    policy: ReadOnlyPolicy = pool.__dict__.setdefault(
        "_read_only", ReadOnlyPolicy(getattr(pool, "monitor", None), name)
    )
    return policy


def refused_of(replies: Sequence[Any]) -> list[int]:
    """Return the positions of refusals."""
    return [at for at, reply in enumerate(replies) if is_refusal(reply)]


def to_repeat(commands: Sequence[Any], refused: Sequence[int]) -> list[int]:
    """Return the commands of a pipeline without MULTI to send again on another connection, after refusals.

    WAIT after a refused write is sent again with it. If a command changes its connection (SELECT, a raw MULTI), the
    others would have another meaning without it: nothing is sent again.
    """
    if any(leaves_state(args) or "EXEC" in sent_words(args, 1) for args, _ in commands):
        return []
    later = range(refused[0] + 1, len(commands))
    return sorted({*refused, *(at for at in later if WAITING.intersection(sent_words(commands[at][0], 1)))})


def refused_in_exec(reply: Any) -> list[Exception]:
    """Return the refusals within the reply to EXEC. A script does not announce that it writes."""
    # Most replies have none, and this check of them is one C call.
    if reply.__class__ is not list or redis_exceptions.ReadOnlyError not in map(type, reply):
        return []
    return [each for each in reply if is_refusal(each)]


@contextmanager
def second_attempt(pool: Any, own: Any = None) -> Iterator[None]:
    """Run the block for a second attempt after a refusal on a dedicated connection.

    ``own``: the connection that a client keeps for itself, if that was it. It is closed, so that it connects again.
    """
    policy = policy_of(pool)
    replaced = replace_for(pool)
    if own is not None and (replaced or _was_made_before(own, policy)):
        own.disconnect()
    with _judged(policy):
        yield


@asynccontextmanager
async def second_attempt_async(pool: Any, own: Any = None) -> AsyncIterator[None]:
    """Async version of ``second_attempt``."""
    policy = policy_of(pool)
    replaced = await replace_for_async(pool)
    if own is not None and (replaced or _was_made_before(own, policy)):
        await own.disconnect(nowait=True)
    with _judged(policy):
        yield


def replace_for(pool: Any) -> bool:
    """Replace connections after a refusal on a dedicated one, if that is allowed or the name has moved.

    Return whether connections were replaced, by this caller or by another one meanwhile.
    """
    policy, began = policy_of(pool), monotonic()

    def replace() -> None:
        _replace_shared(pool)
        if not hasattr(pool, "monitor"):
            pool.disconnect(inuse_connections=False)  # redis-py's own pool cannot tell old connections from new ones

    if policy.may_replace():
        replace()
    else:
        policy.look_up(math.inf, replace)
    return policy.replaced_at >= began


async def replace_for_async(pool: Any) -> bool:
    """Async version of ``replace_for``."""
    policy, began = policy_of(pool), monotonic()

    async def replace() -> None:
        _replace_shared(pool)
        if not hasattr(pool, "monitor"):
            await pool.disconnect(inuse_connections=False)

    if policy.may_replace():
        await replace()
    else:
        await policy.look_up_async(math.inf, replace)
    return policy.replaced_at >= began


def note_refusal(pool: Any, error: Exception) -> None:
    """Record a refusal that is not retried. A later command finds another server, if the name leads to one."""
    if not replace_for(pool):
        policy_of(pool).refused_again(error)


async def note_refusal_async(pool: Any, error: Exception) -> None:
    """Async version of ``note_refusal``."""
    if not await replace_for_async(pool):
        policy_of(pool).refused_again(error)


def _was_made_before(connection: Any, policy: ReadOnlyPolicy) -> bool:
    """Whether a connection is older than the last replacement. redis-py's own connections do not know."""
    return bool(getattr(connection, "_opened_at", math.inf) < policy.replaced_at)


def _replace_shared(pool: Any) -> None:
    sharing = getattr(pool, "_sharing", None)
    if sharing is not None:
        sharing.replace()


@contextmanager
def _judged(policy: ReadOnlyPolicy) -> Iterator[None]:
    try:
        yield
    except redis_exceptions.ResponseError as error:
        if is_refusal(error):
            policy.refused_again(error)
        raise
    policy.accepted()
