"""The aligned table on standard output, and the same figures as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from .async_engine import Situation
from .django_view import CLIENTS, WITHOUT
from .goals import Goal
from .in_flight import CALLERS, CROWD, Footprint
from .peers import PEERS, REDIS_PY, installed_version
from .samples import Series

_COLUMNS = "{:<18}{:>12}{:>9}{:>12}{:>9}{:>13}"


def machine(server_version: str) -> dict[str, Any]:
    names = ["redis", "hiredis", "coredis", "valkey-glide", "django", "uvicorn"]
    return {
        "date": datetime.date.today().isoformat(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "valkey": server_version,
        "versions": {name: installed_version(name) for name in names},
    }


def show_machine(facts: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["versions"].items())
    print(f"Python {facts['python']}, {facts['cpus']} CPUs ({facts['architecture']}), Valkey {facts['valkey']}")
    print(f"{versions}; {facts['date']}")
    print("Medians of alternating rounds; ± is half the distance between their quartiles.")


def show_situation(situation: Situation) -> None:
    callers = f"{situation.callers} caller{'s' * (situation.callers > 1)}"
    print(f"\nGET of {situation.size:,} bytes, {callers}")
    print(_COLUMNS.format("", "ops/s", "±", "ops/CPU s", "ratio", "connections"))
    _show_series(situation.series, REDIS_PY)


def show_view(series: list[Series]) -> None:
    print(f"\nDjango async view with five awaited GETs under uvicorn, {CLIENTS} keep-alive clients")
    print(_COLUMNS.format("", "requests/s", "±", "req/CPU s", "ratio", "connections"))
    _show_series(series, WITHOUT)


def _show_series(series: list[Series], against: str) -> None:
    reference = next((one.per_second for one in series if one.contender == against and one.samples), None)
    for one in series:
        if not one.samples:
            print(f"  {one.contender:<16}{'not installed':>12}")
            continue
        ratio = f"{one.per_second / reference:.2f}x" if reference else ""
        shown = ["  " + one.contender, f"{one.per_second:,.0f}", f"{one.spread:.0%}", f"{one.per_cpu_second:,.0f}"]
        print(_COLUMNS.format(*shown, ratio, one.connections))


def show_footprints(footprints: list[Footprint]) -> None:
    print(f"\nCallers of plain commands at once: connections of {CROWD:,}; peak of traced memory for each of {CALLERS}")
    print(f"{'':<18}{'connections':>12}{'bytes/caller':>14}")
    by_name = {footprint.contender: footprint for footprint in footprints}
    for peer in PEERS:
        if peer.name not in by_name:
            print(f"  {peer.name:<16}{'not installed':>12}")
            continue
        found = by_name[peer.name]
        memory = "" if found.bytes_per_caller is None else f"{found.bytes_per_caller:,}"
        print(f"  {peer.name:<16}{found.connections:>12,}{memory:>14}")


def show_goals(goals: list[Goal]) -> None:
    if not goals:
        return
    width = max(len(goal.what) for goal in goals) + 2
    print(f"\n{'Goals':<{width}}{'goal':>26}{'measured':>10}{'by CPU':>8}")
    for goal in goals:
        met = "met" if goal.met else "MISSED"
        print(f"{goal.what:<{width}}{goal.goal:>26}{goal.measured:>10}{goal.by_cpu:>8}  {met}")


def as_json(
    facts: dict[str, Any],
    situations: list[Situation],
    footprints: list[Footprint],
    view: list[Series],
    goals: list[Goal],
) -> dict[str, Any]:
    return {
        "machine": facts,
        "get": [
            {
                "bytes": situation.size,
                "callers": situation.callers,
                "results": [one.as_json() for one in situation.series if one.samples],
            }
            for situation in situations
        ],
        "crowd": [vars(footprint) for footprint in footprints],
        "django_view": [one.as_json() for one in view],
        "goals": [vars(goal) for goal in goals],
    }


def write_json(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")
