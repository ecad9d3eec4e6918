"""Compare the ratios of a run with the recorded ones: ``make bench-check``, or ``python -m benchmarks.check --help``.

A ratio is this project's speed divided by a peer's in the same run, so machines of different speed can be compared. The
check takes the ratios of the goals. It measures the part of a low ratio again, and fails if it is low both times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .goals import RATIOS, SIZE, Ratio
from .parts import PARTS, effort_of
from .report import as_json, machine
from .samples import Situation
from .server import running_server

RECORDED = Path(__file__).with_name("results.json")
LEAST = 0.8
ROUNDS = 9
PART_OF_WORK = {
    "get": "get",
    "sync_get": "sync",
    "cache_aget": "cache",
    "cache_get": "cache",
    "django_view": "view",
    "cache_view": "cacheview",
}
"""The part of a run that measures each kind of work of the goals."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One ratio, as recorded and as measured now; ``measured`` is None when the run has no figure for it."""

    ratio: Ratio
    recorded: float
    measured: float | None

    @property
    def kept(self) -> bool:
        return self.measured is not None and self.measured >= LEAST * self.recorded

    @property
    def title(self) -> str:
        situation = Situation(self.ratio.work, self.ratio.callers, [], SIZE)
        return f"{situation.title}, against {self.ratio.against}{', by CPU' if self.ratio.by_cpu else ''}"


def ratio_in(results: Results, ratio: Ratio) -> float | None:
    """Return ``ratio`` in the JSON of a run, or None when the run has not measured both contenders."""
    rate = "per_cpu_second" if ratio.by_cpu else "per_second"
    for situation in results.get(ratio.work.key, ()):
        if (situation["bytes"], situation["callers"]) == (SIZE, ratio.callers):
            rates = {one["contender"]: one[rate] for one in situation["results"]}
            if ratio.work.ours in rates and ratio.against in rates:
                return float(rates[ratio.work.ours] / rates[ratio.against])
    return None


def compare(recorded: Results, measured: Results) -> list[Comparison]:
    """Compare every ratio that is recorded."""
    known = [(ratio, ratio_in(recorded, ratio)) for ratio in RATIOS]
    return [Comparison(ratio, before, ratio_in(measured, ratio)) for ratio, before in known if before is not None]


def check(recorded: Results, measure: Callable[[Iterable[str]], Results]) -> list[Comparison]:
    """Compare a run with ``recorded``, then measure the parts again in which a ratio is low.

    ``measure`` measures the parts that it is given and returns the JSON of that run.
    """
    found = compare(recorded, measure(PART_OF_WORK[key] for key in PART_OF_WORK if key in recorded))
    low_parts = {PART_OF_WORK[one.ratio.work.key] for one in found if one.measured is not None and not one.kept}
    if not low_parts:
        return found
    show(found)
    print(f"\nMeasured again, because a ratio is low: {', '.join(sorted(low_parts))}")
    again = {one.ratio: one for one in compare(recorded, measure(low_parts))}
    return [one if one.kept else again[one.ratio] for one in found]


def measure_parts(rounds: int) -> Callable[[Iterable[str]], Results]:
    """Return a function that measures parts with ``rounds`` rounds each."""

    def measure(parts: Iterable[str]) -> Results:
        chosen = set(parts)
        with running_server() as server:
            situations = [
                situation
                for part, measure_part in PARTS.items()
                if part in chosen
                for situation in measure_part(server, effort_of(part, rounds), lambda _: None)
            ]
            return as_json(machine(server.version), situations, [], [])

    return measure


def show(found: list[Comparison]) -> None:
    width = max((len(one.title) for one in found), default=0) + 2
    print(f"\n{'Ratios':<{width}}{'recorded':>9}{'measured':>9}{'share':>7}")
    for one in found:
        if one.measured is None:
            print(f"{one.title:<{width}}{one.recorded:>9.2f}{'':>16}  NOT MEASURED: install the peer with `make bench`")
            continue
        share = one.measured / one.recorded
        print(f"{one.title:<{width}}{one.recorded:>9.2f}{one.measured:>9.2f}{share:>7.2f}{'' if one.kept else '  LOW'}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("measured", nargs="?", type=Path, help="the results of an earlier run; without it, measure now")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help=f"results to compare with ({RECORDED.name})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each contender ({ROUNDS})")
    options = parser.parse_args(arguments)
    recorded = json.loads(options.recorded.read_text())
    if options.measured:
        found = compare(recorded, json.loads(options.measured.read_text()))
    else:
        found = check(recorded, measure_parts(options.rounds))
    show(found)
    if not found:
        print(f"No ratio is recorded in {options.recorded}: run `make bench`.")
        return 1
    low = sum(not one.kept for one in found)
    print(f"\n{len(found)} ratios compared; {low} low (below {LEAST:g} of the recorded one) or not measured.")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
