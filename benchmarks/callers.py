"""Concurrent callers of one ``get``, as asyncio tasks or as threads, each with a key and a value of its own.

Every value is checked, so that a reply that reaches the wrong caller is found.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from .samples import Sample

AsyncGet = Callable[[str], Awaitable[Any]]
Get = Callable[[str], Any]
Values = list[tuple[str, Any]]


class Stopwatch:
    """Takes the time, and the processor time of this process, from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def sample(self, operations: int) -> Sample:
        seconds, cpu_seconds = time.perf_counter() - self._started, time.process_time() - self._cpu_started
        return Sample(operations, seconds, cpu_seconds)


def tasks(values: Values) -> Callable[[AsyncGet, int], Awaitable[Sample]]:
    """Return what times a task for each of ``values``."""

    async def timed(get: AsyncGet, each: int) -> Sample:
        watch = Stopwatch()
        await asyncio.gather(*(_task(get, key, value, each) for key, value in values))
        return watch.sample(each * len(values))

    return timed


async def _task(get: AsyncGet, key: str, expected: Any, times: int) -> None:
    for _ in range(times):
        value = await get(key)
        if value != expected:
            raise wrong(key, value)


class Crew:
    """Threads that stay, as those of a server do, and all call at once. Each looks up its ``get`` for itself."""

    def __init__(self, size: int, executor: ThreadPoolExecutor, look_up: Callable[[], Get]) -> None:
        self._executor = executor
        self._barrier = threading.Barrier(size)  # so that no thread can take the work of two
        self._look_up = look_up

    def work(self, values: Values, each: int) -> None:
        for done in [self._executor.submit(self._thread, key, value, each) for key, value in values]:
            done.result()

    def _thread(self, key: str, expected: Any, times: int) -> None:
        self._barrier.wait(60)
        get = self._look_up()
        for _ in range(times):
            value = get(key)
            if value != expected:
                raise wrong(key, value)


@asynccontextmanager
async def crew(size: int, look_up: Callable[[], Get]) -> AsyncIterator[Crew]:
    with ThreadPoolExecutor(size) as executor:
        yield Crew(size, executor, look_up)


def threads(values: Values) -> Callable[[Crew, int], Awaitable[Sample]]:
    """Return what times a crew with a thread for each of ``values``. The event loop, which has no work, waits."""

    async def timed(crew: Crew, each: int) -> Sample:
        watch = Stopwatch()
        crew.work(values, each)
        return watch.sample(each * len(values))

    return timed


def wrong(key: str, value: Any) -> AssertionError:
    return AssertionError(f"{key} came back as {value!r:.60}")


def texts(count: int, size: int) -> dict[str, str]:
    """Return a key with a text of its own, of ``size`` ASCII characters, for each of ``count`` callers."""
    return {f"bench:{number}": f"{number:04d}".ljust(size, "x") for number in range(count)}
