"""The sessions of nox are the versions that the package declares."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]


@pytest.fixture(scope="module")
def sessions() -> set[tuple[str, str, str]]:
    pytest.importorskip("nox")
    command = [sys.executable, "-m", "nox", "--list-sessions", "--json"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    specs = [(session["python"], session["call_spec"]) for session in json.loads(listed)]
    rows = [(python, spec["django"], spec["redis"]) for python, spec in specs]
    assert len(rows) == len(set(rows))
    return set(rows)


def declared(framework: str) -> set[str]:
    found = [re.fullmatch(rf"{framework} :: (\d\.\d+)", classifier) for classifier in CLASSIFIERS]
    return {match[1] for match in found if match}


def test_each_declared_python_and_django_has_its_sessions(sessions: set[tuple[str, str, str]]) -> None:
    # Python 3.14 runs where it is present; it is declared once a run has shown it.
    assert {python for python, _, _ in sessions} == declared("Programming Language :: Python") | {"3.14"}
    assert {django for _, django, _ in sessions} == declared("Framework :: Django")


def test_each_pair_runs_on_the_lowest_and_on_the_newest_redis_py(sessions: set[tuple[str, str, str]]) -> None:
    pairs = {(python, django) for python, django, _ in sessions}
    assert sessions == {(*pair, redis) for pair in pairs for redis in ("lowest", "newest")}


def test_python_3_11_runs_on_the_only_django_that_supports_it(sessions: set[tuple[str, str, str]]) -> None:
    assert {django for python, django, _ in sessions if python == "3.11"} == {"5.2"}
    assert {django for python, django, _ in sessions if python == "3.13"} == {"5.2", "6.0", "6.1"}
