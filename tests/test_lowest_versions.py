"""The lowest versions that are declared are the ones that are installed and tested as the lowest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from redispool_app.engine.runtime.compatibility import TESTED

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines_of(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def key_of(name):
    return re.sub(r"[-_.]+", "-", name).lower()


LOWEST = {
    key_of(requirement.name): next(iter(requirement.specifier)).version
    for requirement in map(Requirement, lines_of("requirements-lowest.txt"))
    if str(requirement.specifier).startswith("==")
}
DECLARED = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]


def floor_of(requirement):
    return next(each.version for each in requirement.specifier if each.operator == ">=")


@pytest.mark.parametrize("declared", DECLARED)
def test_what_is_declared_is_tested_at_its_lowest_version(declared):
    requirement = Requirement(declared)
    assert Version(LOWEST[key_of(requirement.name)]) == Version(floor_of(requirement))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_no_other_list_declares_less(name):
    for requirement in map(Requirement, lines_of(name)):
        if key_of(requirement.name) in LOWEST:
            assert Version(LOWEST[key_of(requirement.name)]) >= Version(floor_of(requirement)), requirement.name


def test_the_list_of_private_names_names_the_same_redis_py():
    declared = next(each for each in PROJECT["dependencies"] if each.startswith("redis["))
    assert declared.replace("[hiredis]", "") == TESTED
