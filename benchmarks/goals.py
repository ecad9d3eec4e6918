"""What the measurement must show, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .async_engine import GET
from .cache_backends import DJANGO, DJANGO_REDIS, VCACHE
from .django_cache import CACHE_AGET, CACHE_GET
from .django_view import CACHE_VIEW, CLIENTS, VIEW, WITHOUT
from .floor import FLOOR
from .in_flight import CROWD, Footprint
from .peers import GLIDE, OURS, REDIS_PY
from .samples import Series, Situation, Work
from .sync_engine import GET_SYNC, REDIS_PY_SYNC

SIZE = 100


@dataclass(frozen=True)
class Ratio:
    """``by_cpu``: to be met in work per second of the client's processor time, not of the clock."""

    work: Work
    callers: int
    against: str
    least: float
    by_cpu: bool = False


RATIOS = (
    Ratio(GET, 1, REDIS_PY, 1.2),
    Ratio(GET, 50, REDIS_PY, 10),
    Ratio(GET, 200, REDIS_PY, 10),
    Ratio(GET, 50, GLIDE, 4),
    Ratio(GET, 200, FLOOR, 0.5),
    Ratio(VIEW, CLIENTS, WITHOUT, 0.85),
    Ratio(GET_SYNC, 1, REDIS_PY_SYNC, 1.3),
    Ratio(GET_SYNC, 16, REDIS_PY_SYNC, 4),
    *(Ratio(CACHE_AGET, callers, DJANGO, 25) for callers in (50, 300)),
    *(Ratio(CACHE_AGET, callers, DJANGO_REDIS, 20) for callers in (50, 300)),
    *(Ratio(CACHE_AGET, callers, VCACHE, 1.2) for callers in (50, 300)),
    *(Ratio(CACHE_AGET, callers, VCACHE, 1.5, by_cpu=True) for callers in (50, 300)),
    Ratio(CACHE_GET, 1, DJANGO, 2.2),
    Ratio(CACHE_GET, 1, DJANGO_REDIS, 1.4),
    Ratio(CACHE_GET, 1, VCACHE, 1),
    Ratio(CACHE_GET, 16, DJANGO, 8),
    Ratio(CACHE_GET, 16, DJANGO_REDIS, 5),
    Ratio(CACHE_GET, 16, VCACHE, 0.8),
    Ratio(CACHE_VIEW, CLIENTS, DJANGO, 4),
)
CONNECTIONS_OF_A_PROCESS = 2


@dataclass(frozen=True)
class Goal:
    """``by_cpu``: the same ratio in work per second of the client's processor time. ``met``: None if not measured."""

    what: str
    goal: str
    measured: str
    by_cpu: str
    met: bool | None


def of_ratios(situations: Iterable[Situation]) -> Iterator[Goal]:
    for situation in situations:
        for ratio in RATIOS:
            if (ratio.work, ratio.callers, SIZE) == (situation.work, situation.callers, situation.size):
                yield _compared(situation, ratio)


def _compared(situation: Situation, ratio: Ratio) -> Goal:
    what, goal = f"{situation.title}, against {ratio.against}", f">= {ratio.least:g}"
    if ratio.by_cpu:
        goal += " by CPU"
    ours, other = _of(situation, situation.work.ours), _of(situation, ratio.against)
    if not other.samples:
        return Goal(what, goal, "", "", None)
    # Compared as they are shown.
    by_clock = round(ours.per_second / other.per_second, 2)
    by_cpu = round(ours.per_cpu_second / other.per_cpu_second, 2)
    return Goal(what, goal, f"{by_clock:.2f}", f"{by_cpu:.2f}", (by_cpu if ratio.by_cpu else by_clock) >= ratio.least)


def of_connections(situations: Iterable[Situation]) -> Iterator[Goal]:
    """Look at what one process needs under the load of the view with cache calls."""
    for situation in situations:
        if situation.work is CACHE_VIEW:
            ours, theirs = _of(situation, situation.work.ours).connections, _of(situation, DJANGO).connections
            what = "connections at once under that load, of one process"
            goal = f"<= {CONNECTIONS_OF_A_PROCESS} ({DJANGO}: {theirs})"
            yield Goal(what, goal, str(ours), "", ours is not None and ours <= CONNECTIONS_OF_A_PROCESS)


def of_publishing(share: float) -> Goal:
    what = "processor time of one publication and one scrape of the metrics a second"
    return Goal(what, "< 1.00 %", f"{share:.2%}".replace("%", " %"), "", share < 0.01)


def of_crowd(footprints: list[Footprint]) -> Iterator[Goal]:
    by_name = {footprint.contender: footprint for footprint in footprints}
    ours = by_name[OURS]
    opened = ours.connections
    yield Goal(f"connections opened by {CROWD:,} callers at once", "1", str(opened), "", opened == 1)
    mine, theirs = ours.bytes_per_caller, by_name[REDIS_PY].bytes_per_caller
    if mine is not None and theirs is not None:
        what = "memory per caller in flight, in bytes"
        yield Goal(what, f"< {theirs:,} ({REDIS_PY})", f"{mine:,}", "", mine < theirs)


def _of(situation: Situation, contender: str) -> Series:
    return next(one for one in situation.series if one.contender == contender)
