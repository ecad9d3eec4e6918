"""The settings of coverage: what runs in subprocesses and in forked children is measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", "import redispool_app.conf.url"], check=True)
if not os.fork():
    import redispool_app.introspection.rows
    os._exit(0)
os.wait()
"""


def run(directory: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    environment |= {"COVERAGE_FILE": str(directory / "coverage"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "coverage", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_subprocesses_and_forked_children_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run(tmp_path, "run", str(program))
    run(tmp_path, "combine")
    data = run(tmp_path, "debug", "data")
    for module in ("conf/url", "introspection/rows"):
        assert re.search(rf"redispool_app/{module}\.py: [1-9]\d* lines", data), data
