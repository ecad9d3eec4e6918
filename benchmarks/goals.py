"""What the measurement must show, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .async_engine import Situation
from .django_view import WITHOUT
from .floor import FLOOR
from .in_flight import CROWD, Footprint
from .peers import GLIDE, OURS, REDIS_PY
from .samples import Series

_SIZE = 100

RATIOS = (
    # callers, against, at least
    (1, REDIS_PY, 1.2),
    (50, REDIS_PY, 10.0),
    (200, REDIS_PY, 10.0),
    (50, GLIDE, 4.0),
    (200, FLOOR, 0.5),
)
VIEW_RATIO = 0.85


@dataclass(frozen=True)
class Goal:
    """``by_cpu``: the same ratio in work per second of the client's processor time."""

    what: str
    goal: str
    measured: str
    by_cpu: str
    met: bool


def of_engine(situations: list[Situation]) -> Iterator[Goal]:
    for callers, against, least in RATIOS:
        for situation in situations:
            if (situation.size, situation.callers) == (_SIZE, callers):
                what = f"GET of {_SIZE} bytes, {callers} caller{'s' * (callers > 1)}, against {against}"
                yield from _ratio(what, situation.series, OURS, against, least)


def of_crowd(footprints: list[Footprint]) -> Iterator[Goal]:
    by_name = {footprint.contender: footprint for footprint in footprints}
    ours = by_name[OURS]
    opened = ours.connections
    yield Goal(f"connections opened by {CROWD:,} callers at once", "1", str(opened), "", opened == 1)
    mine, theirs = ours.bytes_per_caller, by_name[REDIS_PY].bytes_per_caller
    if mine is not None and theirs is not None:
        what = "memory per caller in flight, in bytes"
        yield Goal(what, f"< {theirs:,} ({REDIS_PY})", f"{mine:,}", "", mine < theirs)


def of_view(series: list[Series]) -> Iterator[Goal]:
    what = "Django view with five GETs, against the view without Redis"
    yield from _ratio(what, series, OURS, WITHOUT, VIEW_RATIO)


def _ratio(what: str, series: list[Series], name: str, against: str, least: float) -> Iterator[Goal]:
    by_name = {one.contender: one for one in series if one.samples}
    if against not in by_name:
        return
    ours, other = by_name[name], by_name[against]
    ratio = ours.per_second / other.per_second
    by_cpu = ours.per_cpu_second / other.per_cpu_second
    # Compared as it is shown.
    yield Goal(what, f">= {least:g}", f"{ratio:.2f}", f"{by_cpu:.2f}", round(ratio, 2) >= least)
