"""Measure this project's clients and cache against their peers: ``make bench``, or ``python -m benchmarks --quick``."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from . import goals, in_flight, publishing, report
from .parts import PARTS, effort_of
from .samples import Situation
from .server import running_server

RESULTS = Path(__file__).with_name("results.json")
PICTURES = Path(__file__).parent.parent / "docs"
CROWD = "crowd"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of each contender in each situation (21)")
    parser.add_argument("--quick", action="store_true", help="three rounds: a rough look, in a minute and a half")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the results of a full run there, and draw no pictures"
    )
    parser.add_argument("--only", choices=(*PARTS, CROWD), help="measure one part only")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rounds = 3 if options.quick else options.rounds
    situations: list[Situation] = []
    footprints: list[in_flight.Footprint] = []
    met: list[goals.Goal] = []
    with running_server() as server:
        facts = report.machine(server.version)
        report.show_machine(facts)
        for part, measure in PARTS.items():
            if options.only in (None, part):
                situations += measure(server, effort_of(part, rounds, quick=options.quick), report.show_situation)
        if options.only in (None, "publishing"):
            met.append(goals.of_publishing(publishing.share_of_a_processor(server)))
        if options.only in (None, CROWD):
            footprints = in_flight.measure(server)
            report.show_footprints(footprints)
            met += goals.of_crowd(footprints)
    met = [*goals.of_ratios(situations), *goals.of_connections(situations), *met]
    report.show_goals(met)
    if options.quick or options.only:
        print(f"\nA full run writes {RESULTS.name} and its pictures; this one does not.")
        return
    results = report.as_json(facts, situations, footprints, met)
    report.write_json(options.json or RESULTS, results)
    if options.json:
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("\nmatplotlib is not installed: the pictures stay as they are.")
        return
    from .picture import draw_all

    draw_all(results, PICTURES)


if __name__ == "__main__":
    main()
