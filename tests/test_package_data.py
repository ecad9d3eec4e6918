"""What is not Python is installed too: templates, static files with their licence, compiled catalogues."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "redispool_app"


def test_every_file_of_the_app_that_is_no_module_is_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "redispool_app"
    ]
    packaged = {path for pattern in patterns for path in APP.glob(pattern) if path.is_file()}
    present = {path for path in APP.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {str(path.relative_to(APP)) for path in present - packaged} == set()


def test_the_chart_library_comes_with_its_licence_and_version():
    directory = APP / "static" / "redispool_app" / "uplot"
    assert "Permission is hereby granted" in (directory / "LICENSE.txt").read_text()
    version = (directory / "VERSION.txt").read_text().split()[1].rstrip(":")
    assert f"(v{version})" in (directory / "uPlot.iife.min.js").read_text()[:300]
