"""GET by 1 to 200 concurrent callers through each asyncio client, whole round trips, every value checked."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from .floor import FLOOR, Floor
from .peers import PEERS, Get
from .samples import Sample, Series, in_turn
from .server import Server

SIZES = (100, 10_000)
CALLERS = (1, 10, 50, 200)


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    round_seconds: float


@dataclass(frozen=True)
class Situation:
    """One block of the table."""

    size: int
    callers: int
    series: list[Series]


def measure(server: Server, effort: Effort, report: Callable[[Situation], None]) -> list[Situation]:
    """Measure every size of value with every number of callers; ``report`` gets each block as it is done."""
    situations = []
    for size in SIZES:
        values = _fill(server, size)
        for callers in CALLERS:
            situation = Situation(size, callers, asyncio.run(_compare(server, effort, values, callers)))
            report(situation)
            situations.append(situation)
    return situations


def _fill(server: Server, size: int) -> list[tuple[str, bytes]]:
    """Give each caller a key with a value of its own, so that a reply that reaches the wrong caller is found."""
    values = [(f"bench:{number}", b"%04d" % number + b"x" * (size - 4)) for number in range(max(CALLERS))]
    server.control.mset(dict(values))
    return values


async def _compare(server: Server, effort: Effort, values: list[tuple[str, bytes]], callers: int) -> list[Series]:
    mine = values[:callers]
    async with AsyncExitStack() as stack:
        runs: dict[str, tuple[Get, list[tuple[str, bytes]], int]] = {}
        series: dict[str, Series] = {}
        for peer in PEERS:
            series[peer.name] = Series(peer.name)
            if peer.version is None:
                continue
            newest = server.newest_client()
            get = await stack.enter_async_context(peer.connect(server.port, callers))
            runs[peer.name] = (get, mine, await _calibrate(get, mine, effort.round_seconds))
            series[peer.name].connections = server.opened_since(newest)
        # Nothing is stored, so all callers of the floor get the same value.
        floor_values = [(key, values[0][1]) for key, _ in mine]
        get = Floor(values[0][1]).get
        runs[FLOOR] = (get, floor_values, await _calibrate(get, floor_values, effort.round_seconds))
        series[FLOOR] = Series(FLOOR, connections=0)

        gc.collect()
        gc.freeze()  # the modules of all contenders, so that no collection of garbage walks them in anybody's round
        try:
            for turn in range(effort.rounds):
                for name in in_turn(list(runs), turn):
                    gc.collect()
                    series[name].samples.append(await _timed(*runs[name]))
        finally:
            gc.unfreeze()
    return list(series.values())


async def _calibrate(get: Get, values: list[tuple[str, bytes]], seconds: float) -> int:
    """Warm up; return how often each caller has to call to fill about ``seconds``."""
    each = 1
    while True:
        sample = await _timed(get, values, each)
        if sample.seconds >= seconds / 4:
            return max(1, round(each * seconds / sample.seconds))
        each *= 4


async def _timed(get: Get, values: list[tuple[str, bytes]], each: int) -> Sample:
    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_caller(get, key, value, each) for key, value in values))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Sample(each * len(values), seconds, cpu_seconds)


async def _caller(get: Get, key: str, expected: bytes, times: int) -> None:
    for _ in range(times):
        value = await get(key)
        if value != expected:
            raise AssertionError(f"{key} came back as {value!r:.60}")
