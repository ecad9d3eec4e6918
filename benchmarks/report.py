"""The aligned table on standard output, and the same figures as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from .goals import Goal
from .in_flight import CALLERS, CROWD, Footprint
from .peers import PEERS, installed_version
from .samples import Situation

_COLUMNS = "{:<20}{:>12}{:>9}{:>12}{:>9}{:>13}{:>9}"


def machine(server_version: str) -> dict[str, Any]:
    clients = ["redis", "hiredis", "coredis", "valkey-glide"]
    names = [*clients, "django", "django-redis", "django-vcache", "uvicorn"]
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
    print("connections: the most in use at once while warming up; opened: how many were opened then.")


def show_situation(situation: Situation) -> None:
    unit, reference = situation.work.unit, situation.work.reference
    of_processes = unit == "requests"  # only a process of its own opens all that it uses while it is watched
    opened = "opened" if of_processes else ""
    print(f"\n{situation.title}")
    print(_COLUMNS.format("", f"{unit}/s", "±", f"{unit[:3]}/CPU s", "ratio", "connections", opened).rstrip())
    against = next((one.per_second for one in situation.series if one.contender == reference and one.samples), None)
    for one in situation.series:
        if one.absent:
            print(f"  {one.contender:<18}{one.absent}")
            continue
        ratio = f"{one.per_second / against:.2f}x" if against else ""
        shown = ["  " + one.contender, f"{one.per_second:,.0f}", f"{one.spread:.0%}", f"{one.per_cpu_second:,.0f}"]
        opened = str(one.opened) if of_processes else ""
        print(_COLUMNS.format(*shown, ratio, one.connections, opened).rstrip())


def show_footprints(footprints: list[Footprint]) -> None:
    print(f"\nCallers of plain commands at once: connections of {CROWD:,}; peak of traced memory for each of {CALLERS}")
    print(f"{'':<20}{'connections':>12}{'bytes/caller':>14}")
    by_name = {footprint.contender: footprint for footprint in footprints}
    for peer in PEERS:
        if peer.absent:
            print(f"  {peer.name:<18}{peer.absent}")
            continue
        found = by_name[peer.name]
        memory = "" if found.bytes_per_caller is None else f"{found.bytes_per_caller:,}"
        print(f"  {peer.name:<18}{found.connections:>12,}{memory:>14}")


def show_goals(goals: list[Goal]) -> None:
    if not goals:
        return
    width = max(len(goal.what) for goal in goals) + 2
    print(f"\n{'Goals':<{width}}{'goal':>26}{'measured':>10}{'by CPU':>8}")
    for goal in goals:
        met = {True: "met", False: "MISSED", None: "not measured"}[goal.met]
        print(f"{goal.what:<{width}}{goal.goal:>26}{goal.measured:>10}{goal.by_cpu:>8}  {met}")


def as_json(
    facts: dict[str, Any], situations: list[Situation], footprints: list[Footprint], goals: list[Goal]
) -> dict[str, Any]:
    measured: dict[str, list[dict[str, Any]]] = {}
    for situation in situations:
        measured.setdefault(situation.work.key, []).append(situation.as_json())
    return {
        "machine": facts,
        **measured,
        "crowd": [vars(footprint) for footprint in footprints],
        "goals": [vars(goal) for goal in goals],
    }


def write_json(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")
