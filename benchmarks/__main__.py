"""Measure AsyncRedis against the other asyncio clients: ``make bench``, or ``python -m benchmarks --quick``."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from . import async_engine, django_view, goals, in_flight, report
from .server import running_server

RESULTS = Path(__file__).with_name("results.json")
PICTURE = Path(__file__).parent.parent / "docs" / "benchmark.png"
PARTS = ("get", "crowd", "view")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of each contender in each situation (21)")
    parser.add_argument("--quick", action="store_true", help="three rounds: a rough look, under a minute")
    parser.add_argument("--only", choices=PARTS, help="measure one part only")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rounds = 3 if options.quick else options.rounds
    parts = (options.only,) if options.only else PARTS
    met: list[goals.Goal] = []
    situations, footprints, view = [], [], []
    with running_server() as server:
        facts = report.machine(server.version)
        report.show_machine(facts)
        if "get" in parts:
            effort = async_engine.Effort(rounds, 0.15)
            situations = async_engine.measure(server, effort, report.show_situation)
            met += goals.of_engine(situations)
        if "crowd" in parts:
            footprints = in_flight.measure(server)
            report.show_footprints(footprints)
            met += goals.of_crowd(footprints)
        if "view" in parts:
            effort_of_view = django_view.Effort.lasting((rounds + 1) // 2, 1.2)
            view = django_view.measure(server, effort_of_view, report.show_view)
            met += goals.of_view(view)
    report.show_goals(met)
    if options.quick or options.only:
        print(f"\nA full run writes {RESULTS.name} and {PICTURE.name}; this one does not.")
        return
    results = report.as_json(facts, situations, footprints, view, met)
    report.write_json(RESULTS, results)
    if importlib.util.find_spec("matplotlib") is None:
        print(f"\nmatplotlib is not installed: {PICTURE.name} stays as it is.")
        return
    from .picture import draw

    draw(results, PICTURE)


if __name__ == "__main__":
    main()
