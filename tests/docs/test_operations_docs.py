"""docs/operations.md names the URLs, the options of the commands and the ids of the checks that exist."""

from __future__ import annotations

import re

import pytest
from django.core.management import get_commands, load_command_class
from django.urls import resolve

from redispool_app import checks
from tests.support.prose import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
OF_DJANGO = {"--help", "--version", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color"}
OF_DJANGO |= {"--verbosity", "--skip-checks"}


def test_the_paths_exist() -> None:
    section = PAGE.split("## Commands")[0]
    paths = re.findall(r"`([\w.<>/]+/|health\.json)`", section)
    assert len(paths) > 5
    for path in paths:
        if path != "deploy/":
            assert resolve("/redis/" + path.replace("<alias>", "default"))


@pytest.mark.parametrize("name", ["redis_health", "redis_pool"])
def test_the_options_of_a_command_are_those_of_its_parser(name: str) -> None:
    (line,) = re.findall(rf"^manage\.py {name} (.+)$", PAGE, re.MULTILINE)
    command = load_command_class(get_commands()[name], name)
    actions = command.create_parser("manage.py", name)._actions
    options = {option for action in actions for option in action.option_strings if option.startswith("--")}
    assert set(re.findall(r"--[\w-]+", line)) == options - OF_DJANGO
    words = [choice for action in actions if not action.option_strings for choice in action.choices or ()]
    assert line.split()[0].split("|") == words or not words


def test_the_ids_of_the_checks_exist() -> None:
    named = set(re.findall(r"`redispool_app\.([EW]\d+)`", PAGE + (ROOT / "docs" / "installation.md").read_text()))
    known = set(re.findall(r"redispool_app\.([EW]\d+)", checks.__doc__ or ""))
    assert named <= known
    assert {"E001", "E006", "W001", "W006"} <= named
