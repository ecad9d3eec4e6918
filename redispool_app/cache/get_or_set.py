"""``get_or_set``: one caller in the whole fleet computes what is missing, the others wait for it or take a stale copy.

Who computes is settled by a lock beside the key, which expires if that caller dies. In a process only one caller per
key, thread or task, asks the server; the others wait for what it finds. If a computation fails, only its caller gets
the error, and the next one computes. All decisions are in ``steps``, a generator that sync and async code drive alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from inspect import isawaitable
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from redis import exceptions as redis_exceptions

from redispool_app.engine.runtime.jitter import uniform
from redispool_app.engine.runtime.single_flight import Flight, Flights
from redispool_app.plans import Plan, Script, script_plan, send, send_async

from .keys import LOCK, STALE
from .scripts import CLAIM, FULFIL, RELEASE

if TYPE_CHECKING:
    from .context import Setup

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25
_MISSING = object()

under_way: Flights[tuple[str, str], bytes] = Flights()
"""What callers of this process compute now, by pool and key; a flight lands with the serialized value."""


# What the driver of ``steps`` is asked to do. A plan: to send it and send back the reply as it came.


class Pause(NamedTuple):
    seconds: float


class Await(NamedTuple):
    """Wait for a flight to land."""

    flight: Flight[bytes]
    seconds: float


class Compute(NamedTuple):
    """Call the caller's function and send back what it returns."""


Step = Plan[Any] | Pause | Await | Compute
Steps = Generator[Step, Any, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One caller's missing value: its full key, how long it is to live in seconds, and what the cache is set to."""

    setup: Setup
    key: str
    timeout: int | None

    def steps(self, task: asyncio.Task[Any] | None = None) -> Steps:
        """Return the value, computed once; ``task`` is the caller's, None if it blocks its thread."""
        deadline = monotonic() + self.setup.options.stampede_wait
        name = (self.setup.manager.alias, self.key)
        while (left := deadline - monotonic()) > 0:
            own: Flight[bytes] = Flight(task)
            try:
                flight = under_way.join(name, own)
                if flight is own:
                    return (yield from self._find(own, deadline))
            finally:
                # Before any call, which may be interrupted: from here on others take its place.
                own.ended = True
                under_way.leave(name, own)
            if own.is_nested_in(flight):
                break  # this very caller computes the value, and was interrupted by itself
            yield Await(flight, left)
            if flight.has_landed:
                return self.setup.codec.loads(flight.result())
        return (yield from self._compute(Flight(task), uuid4().hex, has_lock=False))

    def _find(self, flight: Flight[bytes], deadline: float) -> Steps:
        """Wait for the value, a stale copy or the lock, whichever comes first."""
        token = uuid4().hex
        milliseconds = max(1, round(self.setup.options.stampede_lock_timeout * 1000))
        for pause in _pauses(deadline):
            try:
                value, *rest = yield _run(CLAIM, self._keys, token, milliseconds)
            except GeneratorExit:
                raise  # no caller carries out another step
            except BaseException as error:
                # The server may have granted what no caller will use: its reply was lost, or the caller left.
                yield from self._release(token)
                if not (isinstance(error, redis_exceptions.RedisError) and self.setup.ignores(error)):
                    raise
                return (yield from self._compute_unstored(flight))
            has_lock, stale = rest or (0, None)
            found = value if value is not None else stale
            if found is not None:
                flight.land(found)
            if has_lock:
                return (yield from self._compute(flight, token, has_lock=True))
            if found is not None:
                return self.setup.codec.loads(found)
            yield Pause(pause)
        return (yield from self._compute(flight, token, has_lock=False))

    def _compute(self, flight: Flight[bytes], token: str, *, has_lock: bool) -> Steps:
        try:
            value = yield Compute()
            data = self.setup.codec.dumps(value)
            kept = yield from self._fulfil(token, data)
        except GeneratorExit:
            raise  # no caller carries out another step
        except BaseException:
            if has_lock:
                yield from self._release(token)
            raise
        stored = data if kept is None else kept
        flight.land(stored)
        return self.setup.codec.loads(stored)

    def _compute_unstored(self, flight: Flight[bytes]) -> Steps:
        """Do it without the server: the value is for its caller and those of this process who wait for it."""
        data = self.setup.codec.dumps((yield Compute()))
        flight.land(data)
        return self.setup.codec.loads(data)

    def _fulfil(self, token: str, data: bytes) -> Steps:
        """Store the value and give the lock back; return what somebody else has stored meanwhile, which counts."""
        try:
            return (yield _run(FULFIL, self._keys, token, data, *self._expiries()))
        except redis_exceptions.RedisError as error:
            if not self.setup.ignores(error):
                raise
            # Where only the value was refused, or only one connection lost, others need not wait for the lock to end.
            yield from self._release(token)
            return None

    def _release(self, token: str) -> Steps:
        with suppress(redis_exceptions.RedisError):
            yield _run(RELEASE, (self.key + LOCK,), token)

    @property
    def _keys(self) -> tuple[str, str, str]:
        return self.key, self.key + LOCK, self.key + STALE

    def _expiries(self) -> tuple[Any, Any]:
        """Those of the value and of its stale copy; '' for none, or for no copy."""
        if self.timeout is None:
            return "", ""
        beyond = self.setup.options.stale_timeout
        return self.timeout, self.timeout + beyond if beyond else ""


def _run(script: Script, keys: tuple[str, ...], *arguments: Any) -> Plan[Any]:
    return script_plan(script, keys, arguments, _as_it_came)


def _as_it_came(reply: Any) -> Any:
    return reply


def _pauses(deadline: float) -> Iterator[float]:
    """Yield pauses in seconds, longer and longer, each up to half shorter so that processes ask apart."""
    longest = _SHORTEST_PAUSE
    while (left := deadline - monotonic()) > 0:
        yield min(uniform(longest / 2, longest), left)
        longest = min(_LONGEST_PAUSE, longest * 2)


def drive(steps: Steps, wanted: Wanted, function: Callable[[], Any]) -> Any:
    """Carry out the steps with blocking calls; return what they return."""

    def perform(step: Step) -> Any:
        if isinstance(step, Plan):
            return send(wanted.setup.manager.get_sync_client(), step)
        if isinstance(step, Compute):
            return function()
        if isinstance(step, Await):
            return step.flight.wait(step.seconds)
        return time.sleep(step.seconds)

    try:
        step = next(steps)
        while True:
            done = None  # an interrupt that comes as the loop goes back is met here, inside of the outer ``try``
            try:
                done = perform(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()  # they have not met an interrupt that came between two of them


async def adrive(steps: Steps, wanted: Wanted, function: Callable[[], Any]) -> Any:
    """The twin of ``drive``; ``function`` may return an awaitable."""

    async def perform(step: Step) -> Any:
        if isinstance(step, Plan):
            manager = wanted.setup.manager
            client = manager.ready_client() or await manager.get_client()
            return await send_async(client, step)
        if isinstance(step, Compute):
            value = function()
            return await value if isawaitable(value) else value
        if isinstance(step, Await):
            return await step.flight.wait_async(step.seconds)
        return await asyncio.sleep(step.seconds)

    try:
        step = next(steps)
        while True:
            done = None  # as above
            try:
                done = await perform(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


class CacheStampede:
    """``get_or_set`` and its twin, for ``RedisPoolCache``."""

    if TYPE_CHECKING:
        _setup: Setup
        get: Callable[..., Any]
        aget: Callable[..., Any]
        add: Callable[..., Any]
        aadd: Callable[..., Any]
        _full_key: Callable[..., str]
        get_backend_timeout: Callable[..., int | None]

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> Any:
        """Return the value; a missing one is made of ``default``, called if it can be, and stored.

        Of all callers with a function, in all processes, one calls it; the others wait up to ``STAMPEDE_WAIT`` seconds
        for its value. Raises what the function raises.
        """
        value = self.get(key, _MISSING, version=version)
        if value is not _MISSING:
            return value
        wanted = self._wanted(key, default, timeout, version)
        if wanted is not None:
            return drive(wanted.steps(), wanted, default)
        value = default() if callable(default) else default
        self.add(key, value, timeout=timeout, version=version)
        # Somebody else may have been faster.
        return self.get(key, value, version=version)

    async def aget_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> Any:
        """The twin of ``get_or_set``; ``default`` may also be a coroutine function."""
        value = await self.aget(key, _MISSING, version=version)
        if value is not _MISSING:
            return value
        wanted = self._wanted(key, default, timeout, version)
        if wanted is not None:
            return await adrive(wanted.steps(asyncio.current_task()), wanted, default)
        value = default() if callable(default) else default
        if callable(default) and isawaitable(value):
            value = await value
        await self.aadd(key, value, timeout=timeout, version=version)
        return await self.aget(key, value, version=version)

    def _wanted(self, key: Any, default: Any, timeout: Any, version: Any) -> Wanted | None:
        """Return what is to be computed once; None where there is nothing to compute, or nothing would be shared."""
        if not callable(default) or not self._setup.options.stampede_wait:
            return None
        seconds = self.get_backend_timeout(timeout)
        return None if seconds == 0 else Wanted(self._setup, self._full_key(key, version), seconds)
