"""Contenders that do the same work in turn: warm-up, a count of work that fills the time, then alternating rounds."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar

from .samples import Sample, Series
from .server import Server

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    round_seconds: float


class Contest:
    """An async context manager: ``enter`` each contender, then ``run``; leaving it closes the contenders."""

    def __init__(self, server: Server, effort: Effort) -> None:
        self._server = server
        self._effort = effort
        self._stack = AsyncExitStack()
        self._series: dict[str, Series] = {}
        self._rounds: dict[str, Callable[[], Awaitable[Sample]]] = {}

    async def __aenter__(self) -> Contest:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def leave_out(self, name: str, reason: str) -> None:
        """Name a contender that cannot take part."""
        self._series[name] = Series(name, absent=reason)

    async def enter(
        self, name: str, opening: AbstractAsyncContextManager[T], timed: Callable[[T, int], Awaitable[Sample]]
    ) -> None:
        """Open a contender and warm it up; ``timed`` makes each of its callers do as many operations as it is told."""
        with self._server.watching() as seen:
            contender = await self._stack.enter_async_context(opening)
            each = await self._calibrate(partial(timed, contender))
        self._rounds[name] = partial(timed, contender, each)
        self._series[name] = Series(name, connections=seen.most, opened=seen.opened)

    async def _calibrate(self, timed: Callable[[int], Awaitable[Sample]]) -> int:
        """Warm up; return how often each caller has to call to fill about a round."""
        await timed(1)  # connects
        each = 1
        while True:
            seconds = (await timed(each)).seconds
            if seconds >= self._effort.round_seconds / 4:
                # Again, as something else on the machine may have taken the time.
                seconds = min(seconds, (await timed(each)).seconds)
            if seconds >= self._effort.round_seconds / 4:
                return max(1, round(each * self._effort.round_seconds / seconds))
            each *= 4

    async def run(self) -> list[Series]:
        """Let the contenders alternate; return what they and those left out showed, in the order of their entry."""
        gc.collect()
        gc.freeze()  # the modules of all contenders, so that no collection of garbage walks them in anybody's round
        try:
            for turn in range(self._effort.rounds):
                for name in in_turn(list(self._rounds), turn):
                    gc.collect()
                    self._series[name].samples.append(await self._rounds[name]())
        finally:
            gc.unfreeze()
        return list(self._series.values())


def in_turn(names: list[str], turn: int) -> list[str]:
    """Return the order of round ``turn``: each starts with the next one, every other round runs backwards."""
    start = turn % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if turn % 2 else order
