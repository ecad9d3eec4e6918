"""Callers that work without pause, check every reply and write down what they saw: coroutines, or threads."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import random
import threading
from collections.abc import Iterator
from time import monotonic, sleep
from traceback import format_exception
from typing import Any

import redis
from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import classify
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import Caller, joined

from .lag import Sample, measure_loop_lag, measure_thread_lag
from .operations import FAILED, OK, UNKNOWN, Operation

_PACE = 0.005
"""A caller rests up to twice as long between operations, or the callers would measure how they wait for each other."""
_PATIENCE = 20.0

Request = tuple[str, str, Any]


def requests(caller: int) -> Iterator[Request]:
    """What one caller asks for: every value is unique, every key and every ledger its own."""
    for number in itertools.count():
        key = f"k:{caller}:{number}"
        yield "set", key, f"value {number} of caller {caller}"
        yield "get", key, None
        yield "incr", ledger_of(caller), None
        yield "get", f"k:{caller}:{random.randrange(number + 1)}", None


def ledger_of(caller: int) -> str:
    return f"ledger:{caller}"


def observed(caller: int, request: Request, asked: float, granted: float | None, result: Any) -> Operation:
    """Return what a caller saw just now; ``result`` is the reply, or the exception that came instead."""
    ended = monotonic()
    kind, key, value = request
    seen = {"caller": caller, "kind": kind, "key": key, "value": value, "asked": asked, "granted": granted}
    seen["ended"] = ended
    if not isinstance(result, Exception):
        return Operation(**seen, outcome=OK, reply=result)
    # Any other exception promises that nothing has been done; the server's books will tell.
    outcome = UNKNOWN if isinstance(result, OutcomeUnknown) else FAILED
    known = isinstance(result, redis_exceptions.RedisError)
    fault = str(classify(result, "the laboratory").kind) if known else ""
    if outcome == UNKNOWN:
        fault = "outcome unknown"
    error = f"{type(result).__name__}: {result}"[:200] if known else "".join(format_exception(result))
    return Operation(**seen, outcome=outcome, error=error, fault=fault)


class Driver:
    """So many callers of one subject, from ``start()`` to ``stop()``."""

    def __init__(self, subject: Any, callers: int, pace: float = _PACE) -> None:
        self.subject = subject
        self.callers = callers
        self.pace = pace
        self.operations: list[Operation] = []
        self.lag: list[Sample] = []
        self._ended = threading.Event()
        self._working = threading.Event()
        self._working.set()
        self._busy = 0
        self._waited_for = set(range(callers))
        self._looked_at = 0

    def __enter__(self) -> Driver:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def block(self, seconds: float) -> None:
        """Let no caller run for so long: the event loop, or the interpreter, is kept busy."""
        raise NotImplementedError

    def get(self, key: str) -> Any:
        """GET a key as one more caller."""
        raise NotImplementedError

    def pause(self) -> None:
        """Let no caller begin anything; return when all are idle."""
        self._working.clear()
        until = monotonic() + _PATIENCE
        while self._busy:
            assert monotonic() < until, f"{self._busy} callers do not come to an end"
            sleep(0.001)

    def resume(self) -> None:
        self._working.set()

    def all_served_since(self, moment: float) -> bool:
        """Whether every caller has asked after ``moment`` and been served; always called with the same moment."""
        seen = self.operations[self._looked_at :]
        self._looked_at += len(seen)
        self._waited_for -= {each.caller for each in seen if each.outcome == OK and each.asked >= moment}
        return not self._waited_for

    def final(self, admin: redis.Redis) -> dict[str, Any]:
        return self.subject.final(admin, {each.key for each in self.operations})

    @property
    def ledgers(self) -> list[str]:
        return [ledger_of(caller) for caller in range(self.callers)]

    def _rest(self) -> float:
        return random.uniform(0.0, 2 * self.pace)


class Coroutines(Driver):
    """Callers in one event loop, which runs in a thread of its own."""

    def start(self) -> None:
        self._thread = Caller(lambda: self.subject.run(self._main()), name="lab-loop")
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self.resume()
        joined([self._thread], _PATIENCE)
        if isinstance(self._thread.outcome, BaseException):
            raise self._thread.outcome

    def block(self, seconds: float) -> None:
        # What a view does that forgets where it runs.
        self._loop.call_soon_threadsafe(sleep, seconds)

    def get(self, key: str) -> Any:
        async def get() -> Any:
            return await (await self.subject.client()).get(key)

        return asyncio.run_coroutine_threadsafe(get(), self._loop).result(_PATIENCE)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        measuring = asyncio.create_task(measure_loop_lag(self.lag))
        async with asyncio.TaskGroup() as group:
            for caller in range(self.callers):
                group.create_task(self._call(caller))
        measuring.cancel()
        await self.subject.leave()

    async def _call(self, caller: int) -> None:
        subject = self.subject
        await asyncio.sleep(self._rest())
        for request in requests(caller):
            while not self._working.is_set():
                await asyncio.sleep(0.002)
            if self._ended.is_set():
                return
            kind, key, value = request
            self._busy += 1
            granted, asked = None, monotonic()
            try:
                client = await subject.client()
                granted = monotonic()
                arguments = (client, key, value) if kind == "set" else (client, key)
                result = await getattr(subject, kind)(*arguments)
            except Exception as error:
                result = error
            finally:
                self._busy -= 1
            self.operations.append(observed(caller, request, asked, granted, result))
            await asyncio.sleep(self._rest())


class Threads(Driver):
    """Callers that are threads."""

    def start(self) -> None:
        self._lock = threading.Lock()
        self._threads = [Caller(lambda n=n: self._call(n), name=f"lab-{n}") for n in range(self.callers)]
        self._meter = Caller(lambda: measure_thread_lag(self.lag, self._ended), name="lab-lag")
        for thread in (*self._threads, self._meter):
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        self.resume()
        joined([*self._threads, self._meter], _PATIENCE)
        self.subject.leave()
        for thread in self._threads:
            if isinstance(thread.outcome, BaseException):
                raise thread.outcome

    def block(self, seconds: float) -> None:
        # Called through this class a C function keeps the interpreter's lock, as a long regular expression does.
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))

    def get(self, key: str) -> Any:
        return self.subject.client().get(key)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _call(self, caller: int) -> None:
        subject = self.subject
        sleep(self._rest())
        for request in requests(caller):
            self._working.wait()
            if self._ended.is_set():
                return
            kind, key, value = request
            with self._at_work():
                granted, asked = None, monotonic()
                try:
                    client = subject.client()
                    granted = monotonic()
                    arguments = (client, key, value) if kind == "set" else (client, key)
                    result = getattr(subject, kind)(*arguments)
                except Exception as error:
                    result = error
                self.operations.append(observed(caller, request, asked, granted, result))
            sleep(self._rest())


def callers_of(subject: Any) -> int:
    """Return how many callers suit a subject, or a class of subjects."""
    return 30 if subject.is_async else 8


def driver_of(subject: Any, callers: int | None = None, pace: float = _PACE) -> Driver:
    """Return the driver that suits a subject: coroutines, or threads."""
    kind = Coroutines if subject.is_async else Threads
    return kind(subject, callers or callers_of(subject), pace)
