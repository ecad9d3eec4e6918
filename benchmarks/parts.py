"""The parts of a run, each measured by itself, and how long each is measured."""

from __future__ import annotations

from collections.abc import Callable

from . import async_engine, django_cache, django_view, publishing, sync_engine
from .contest import Effort
from .samples import Situation
from .server import Server

Measure = Callable[[Server, Effort, Callable[[Situation], None]], list[Situation]]

PARTS: dict[str, Measure] = {
    "get": async_engine.measure,
    "sync": sync_engine.measure,
    "cache": django_cache.measure,
    "view": django_view.measure_gets,
    "cacheview": django_view.measure_cache,
    "publishing": publishing.measure,
}
VIEWS = ("view", "cacheview")
# A publication a second: what one costs is only seen in rounds that are longer.
LONG_ROUNDS = ("publishing",)


def effort_of(part: str, rounds: int, *, quick: bool = False) -> Effort:
    """Return the rounds of ``part`` and their seconds; ``rounds`` are those of a part with short rounds."""
    if part in VIEWS:
        # A round of requests takes longer, as a process has to start for it.
        return Effort((rounds + 1) // 2, 0.8 if quick else 1.2)
    return Effort(rounds, 2.0 if part in LONG_ROUNDS else 0.15)
