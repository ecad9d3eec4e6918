"""The layers of the package: the contracts of pyproject.toml hold, and each would find what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def broken_contracts(directory):
    """Return the names of the contracts that the package in ``directory`` breaks."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    assert any(line.startswith("Contracts: ") for line in lines), ended.stdout + ended.stderr
    return [line.partition(" BROKEN")[0] for line in lines if " BROKEN" in line]


def test_every_import_points_down():
    assert broken_contracts(ROOT) == []


@pytest.mark.parametrize(
    ("importer", "statement", "broken"),
    [
        ("conf/url.py", "from ..cache import backend", "Imports point down the layers of the app"),
        ("engine/protocol/packing.py", "from ..pool import state", "Imports point down the layers of the engine"),
        ("engine/health/state.py", "def f():\n    import django.conf", "The engine knows no Django"),
        ("engine/pool/state.py", "from . import pool_sync", "No two modules or packages import each other"),
    ],
)
def test_what_points_up_is_found(importer, statement, broken, tmp_path):
    shutil.copytree(ROOT / "redispool_app", tmp_path / "redispool_app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "redispool_app" / importer).open("a") as file:
        file.write(f"\n{statement}\n")
    assert broken in broken_contracts(tmp_path)
