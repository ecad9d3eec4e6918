"""What a READONLY reply means: the server was demoted, or the name leads to another one now.

Such a command was refused, so to send it again is safe. The connection that refused it is replaced, which resolves the
name again. A name that goes on leading to a replica would cost a connection for each write, so replacements are rare
then: the time between two doubles, up to a second. Between two, a refused command waits until the name has been looked
up: where it leads elsewhere, connections are replaced at once, and no caller loses a write after the name has moved.
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
"""Seconds between two replacements of which the first has not helped."""

_LOOK_EVERY = 0.1
"""Seconds between two looks at the name, whatever number of callers wait for one."""

_LONGEST_LOOK = 1.0
"""Seconds for which a caller waits for a look at the most, as where the name server does not answer."""

_MOST_ANSWERS = 16
"""So many answers of a name server lead to a replacement at once until a write is accepted; it may rotate them."""

_SHOWN_FOR = 60.0
"""Seconds for which a refusal is shown that no other follows: perhaps there has been no write since."""

_WORDS = ("You can't write against a read only", "Can not run script with write flag on readonly")
"""How the server words it, which a script's own error does not."""


_UNBLOCKED = ("UNBLOCKED", "instance state changed")
"""What the server says to a command that waits while it becomes a replica, and not to one that CLIENT UNBLOCK ends."""

REFUSALS = (redis_exceptions.ReadOnlyError, redis_exceptions.ExecAbortError)


def is_refusal(reply: Any) -> bool:
    """Whether a reply says that the server, being a replica, has not carried out a command."""
    if isinstance(reply, redis_exceptions.ReadOnlyError):
        said = str(reply)
        return any(words in said for words in _WORDS)
    # EXEC after a demotion: nothing of the transaction was carried out.
    return isinstance(reply, redis_exceptions.ExecAbortError) and "READONLY" in str(reply)


def is_unblocked(error: Exception) -> bool:
    """Whether a reply says that a command that waited was not carried out, as its server becomes a replica."""
    said = str(error)
    return isinstance(error, redis_exceptions.ResponseError) and all(words in said for words in _UNBLOCKED)


def to_send_again(
    args: tuple[Any, ...], error: redis_exceptions.ResponseError, started: float
) -> tuple[Any, ...] | None:
    """Return what is sent once more of a dedicated command that was answered by ``error``; None if nothing is.

    A command that waits gets the time that is left to it; ``started`` is when it began (monotonic seconds).
    """
    if is_refusal(error):
        return args
    return with_time_left(args, monotonic() - started) if is_unblocked(error) else None


class ReadOnlyPolicy:
    """Decides for one shared connection, or one pool, when a refusal replaces connections.

    ``name`` is the host and the port that connections are made to, None where there is no name that could move.
    """

    def __init__(self, monitor: Monitor | None, name: tuple[str, int] | None = None) -> None:
        self._monitor = monitor
        self._name = name
        self._look_from = -math.inf
        self._looked_at = -math.inf
        """When the last look that has ended began (monotonic seconds)."""
        self._answers: set[frozenset[str]] = set()
        """What the name has led to since a write was accepted."""
        self.refused_at = -math.inf
        """When the last refusal came (monotonic seconds)."""
        self.replaced_at = -math.inf
        """When connections were last replaced (monotonic seconds)."""
        self._replace_from = -math.inf
        self._wait = 0.0

    def may_replace(self) -> bool:
        """Whether a refusal that has come now may replace the connection; False where that was done just before."""
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
        """Wait for a look at the name that begins after now, up to ``until`` (monotonic seconds).

        If it leads elsewhere, the caller that looked calls ``replace`` before any other goes on.
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
        """The twin of ``look_up``."""
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
        """Return how long a caller that ``asked`` waits now; 0 if it is the one that looks, None if it goes on."""
        now = monotonic()
        if self._name is None or self._looked_at >= asked or now >= until:
            return None
        if now < self._look_from:
            return min(self._look_from, until) - now
        self._look_from = now + _LOOK_EVERY
        return 0.0

    def _leads_elsewhere(self, found: Sequence[str]) -> bool:
        """Whether connections are to be replaced, since the name has led to these addresses for the first time."""
        answer = frozenset(found)
        if not answer or answer in self._answers or len(self._answers) >= _MOST_ANSWERS:
            return False
        self._answers.add(answer)
        self._retire(monotonic())
        return True

    def accepted(self) -> None:
        """A command that had been refused was accepted by another connection."""
        self._wait, self._answers = 0.0, set()
        if self._monitor is not None:
            self._monitor.warn(FaultKind.READONLY, None)

    def refused_again(self, error: Exception) -> None:
        """A command was refused by the new connection, too: its caller gets ``error``."""
        if self._monitor is not None:
            self._monitor.warn(FaultKind.READONLY, classify(error, self._monitor.where), seconds=_SHOWN_FOR)


def policy_of(pool: Any) -> ReadOnlyPolicy:
    """Return the policy of a pool, which its shared connection and its dedicated connections have in common."""
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
    """Return which commands of a pipeline without MULTI are sent again, on another connection, after refusals.

    WAIT after a refused write answers for it there. Where a command changes its connection (SELECT, a raw MULTI), the
    others would mean something else without it: nothing is sent again.
    """
    if any(leaves_state(args) or "EXEC" in sent_words(args, 1) for args, _ in commands):
        return []
    later = range(refused[0] + 1, len(commands))
    return sorted({*refused, *(at for at in later if WAITING.intersection(sent_words(commands[at][0], 1)))})


def refused_in_exec(reply: Any) -> list[Exception]:
    """Return the refusals within the reply to EXEC: a script does not say that it writes before it does."""
    # Most replies have none, and this look at them is one C call.
    if reply.__class__ is not list or redis_exceptions.ReadOnlyError not in map(type, reply):
        return []
    return [each for each in reply if is_refusal(each)]


@contextmanager
def second_attempt(pool: Any, own: Any = None) -> Iterator[None]:
    """Send again in the block what was refused on a dedicated connection.

    ``own``: the connection that a client keeps for itself, if that was it; it is closed, so that it connects again.
    """
    policy = policy_of(pool)
    replaced = replace_for(pool)
    if own is not None and (replaced or _was_made_before(own, policy)):
        own.disconnect()
    with _judged(policy):
        yield


@asynccontextmanager
async def second_attempt_async(pool: Any, own: Any = None) -> AsyncIterator[None]:
    """The twin of ``second_attempt``."""
    policy = policy_of(pool)
    replaced = await replace_for_async(pool)
    if own is not None and (replaced or _was_made_before(own, policy)):
        await own.disconnect(nowait=True)
    with _judged(policy):
        yield


def replace_for(pool: Any) -> bool:
    """A command was refused on a dedicated connection: let the next one be new, if that may be or the name has moved.

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
    """The twin of ``replace_for``."""
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
    """What was refused is not sent again, but a later command finds another server, if the name leads to one."""
    if not replace_for(pool):
        policy_of(pool).refused_again(error)


async def note_refusal_async(pool: Any, error: Exception) -> None:
    """The twin of ``note_refusal``."""
    if not await replace_for_async(pool):
        policy_of(pool).refused_again(error)


def _was_made_before(connection: Any, policy: ReadOnlyPolicy) -> bool:
    """Whether a connection is older than the last replacement; redis-py's own do not say."""
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
