"""docs/architecture.md, the decisions and CONTRIBUTING.md name files, folders and commands that exist."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.prose import PAGES, ROOT

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
_PATH = re.compile(r"(?<![\w/])((?:redispool_app|tests|docs|benchmarks|deploy|engine|multiplex|protocol)/[\w/.*-]*)")


@pytest.mark.parametrize("page", [page for page in PAGES if "decisions" in page or page in {"CONTRIBUTING.md"}])
def test_the_files_that_are_named_exist(page: str) -> None:
    named = _PATH.findall((ROOT / page).read_text())
    assert [path for path in named if not exists(path)] == []


def test_the_files_that_the_architecture_names_exist() -> None:
    named = _PATH.findall(ARCHITECTURE)
    assert len(named) > 20
    assert [path for path in named if not exists(path)] == []


def exists(path: str) -> bool:
    """Return whether a path exists: below the root, in the package, or as a module of the engine."""
    path = path.rstrip(".")
    places = (ROOT, ROOT / "redispool_app", ROOT / "redispool_app" / "engine")
    return any((place / path).exists() or (place / f"{path}.py").exists() for place in places)


def test_every_folder_of_the_package_has_its_place_in_the_architecture() -> None:
    package = ROOT / "redispool_app"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    folders |= {path.parent.name for path in package.glob("engine/*/__init__.py")}
    diagram = ARCHITECTURE.split("```mermaid")[1].split("```")[0]
    assert {name for name in folders if not re.search(rf"\b{name}\b", diagram)} == {"migrations"}


def layers(container: str) -> list[set[str]]:
    """Return the layers of a package from the top, as its import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = [each for each in contracts if each["type"] == "layers" and each["containers"] == [container]]
    return [set(re.findall(r"\w+", layer)) for layer in found["layers"]]


def boxes(part: str) -> list[set[str]]:
    """Return the modules and folders in each box of a part of the diagram."""
    labels = re.findall(r'^ *\w+\["(.+?)"\]$', part, re.MULTILINE)
    return [set(label.partition(":")[0].split(" · ")) for label in labels]


def test_the_layers_of_the_diagram_are_those_of_the_import_contracts() -> None:
    diagram = ARCHITECTURE.split("```mermaid")[1].split("```")[0]
    django, engine, ground = re.split(r"^    end$", diagram, flags=re.MULTILINE)
    app = layers("redispool_app")
    places = [[rank for rank, layer in enumerate(app) if box <= layer] for box in (*boxes(django), *boxes(ground))]
    assert all(places)
    assert places == sorted(places)
    rank = {name: place for place, layer in enumerate(layers("redispool_app.engine")) for name in layer}
    names = [name for box in boxes(engine) for name in box]
    assert set(names) == set(rank) - {"errors"}
    assert [rank[name] for name in names] == sorted(rank[name] for name in names)


def test_the_decisions_are_those_that_are_listed() -> None:
    listed = re.findall(r"\(decisions/([\w-]+\.md)\)", ARCHITECTURE)
    assert listed == sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([\w-]+)", (ROOT / page).read_text())}
    assert {"test", "test-all", "lint"} <= named
    assert named - targets == set()


def test_every_step_that_a_setting_takes_is_named() -> None:
    section = CONTRIBUTING.split("## Add a setting")[1].split("## Add a fault")[0]
    using = [
        path for path in (ROOT / "redispool_app" / "conf").glob("*.py") if "max_in_flight_bytes" in path.read_text()
    ]
    assert [path.name for path in using if f"redispool_app/conf/{path.name}" not in section] == []
