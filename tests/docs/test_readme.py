"""The README is short, and it and the pages that it leads to say what the code does."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from redispool_app import exceptions
from redispool_app.conf import RedisPoolConfig
from redispool_app.engine.health.faults import FaultKind
from tests.support.prose import PAGES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
INSTALLATION = (ROOT / "docs" / "installation.md").read_text()


def links(page: str) -> list[tuple[Path, str]]:
    """Return each file of this project that a page links to, with the anchor."""
    found = re.findall(r"\]\(([^)#]*)(#[^)]+)?\)", (ROOT / page).read_text())
    here = (ROOT / page).parent
    return [
        ((here / path if path else ROOT / page).resolve(), anchor[1:]) for path, anchor in found if "://" not in path
    ]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_settings_table_lists_every_key_with_its_default() -> None:
    section = SETTINGS.split("# Settings")[1].split("## Credential providers")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", section, re.MULTILINE))
    wanted = {
        item.name.upper(): f'"{item.default}"' if isinstance(item.default, str) else repr(item.default)
        for item in fields(RedisPoolConfig)
    }
    assert rows == wanted
    assert list(rows) == list(wanted)


def test_every_kind_of_fault_is_named() -> None:
    section = GUARANTEES.split("## Fault names")[1]
    assert re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE) == list(FaultKind)


def test_every_exception_is_named_with_the_exceptions_of_redis_that_it_is() -> None:
    section = GUARANTEES.split("## Exceptions")[1].split("## Fault names")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE)
    assert {name for name, _ in rows} == {
        name
        for name, each in vars(exceptions).items()
        if isinstance(each, type) and each.__module__ == exceptions.__name__
    }
    for name, parents in rows:
        known = {
            parent.__name__ for parent in getattr(exceptions, name).__mro__ if parent.__module__.startswith("redis.")
        }
        assert set(re.findall(r"`(\w+)`", parents)) <= known


def test_every_extra_is_named() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    section = pyproject.split("[project.optional-dependencies]")[1].split("[tool")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|", INSTALLATION, re.MULTILINE)
    assert rows == re.findall(r"^([\w-]+) = ", section, re.MULTILINE)


def test_the_supported_versions_are_those_that_are_declared() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    (python,) = re.findall(r'requires-python = ">=([\d.]+)"', pyproject)
    (django,) = re.findall(r'"django>=([\d.]+)"', pyproject)
    (redis,) = re.findall(r'"redis\[hiredis\]>=([\d.]+),<9"', pyproject)
    for page in (README, INSTALLATION):
        section = page.split("## Supported versions")[1]
        assert re.search(rf"Python(?: \|)? {python} and newer", section)
        assert re.search(rf"Django(?: \|)? {django} LTS and 6\.x", section)
        assert re.search(rf"redis-py(?: \|)? {redis} and newer 8\.x", section)


def test_the_figures_are_those_that_were_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())

    def measured(kind: str, callers: int) -> dict[str, str]:
        (run,) = (each for each in results[kind] if (each["bytes"], each["callers"]) == (100, callers))
        return {each["contender"]: f"{each['per_second']:,}" for each in run["results"]}

    rows = re.findall(r"^\| .*?, (\d+) (?:coroutines|threads) \| ([\d,]+) \| (.+) \|$", README, re.MULTILINE)
    kinds = ("get", "sync_get", "cache_aget", "cache_get")
    ours = ("AsyncRedis", "SyncRedis", "RedisPoolCache", "RedisPoolCache")
    for kind, our, (callers, here, others) in zip(kinds, ours, rows, strict=True):
        figures = measured(kind, int(callers))
        assert here == figures[our], "copy it from benchmarks/results.json"
        for name, figure in re.findall(r"([\w' `-]+?)`? ([\d,]+)(?:;|$)", others):
            name = name.strip().replace("`", "").replace("Django's", "Django")
            assert figure == figures.get(name, figures.get(f"{name} asyncio")), "copy it from benchmarks/results.json"


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_file_and_heading_that_is_linked_exists(page: str) -> None:
    for path, anchor in links(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{path.name}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_every_example_compiles(page: str) -> None:
    text = (ROOT / page).read_text()
    for source in re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        compile(textwrap.dedent(source), page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        found = {path.relative_to(ROOT).as_posix() for path, _ in links(page) if path.suffix == ".md"}
        todo += found - reached
    assert set(PAGES) - reached == set()


def test_the_tests_that_hold_the_guarantees_of_security_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert [path for path in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / path).exists()] == []
    assert [
        name for name in re.findall(r"`(test_[\w*]+\.py)`", text) if not list(ROOT.glob(f"tests/faults/{name}"))
    ] == []
