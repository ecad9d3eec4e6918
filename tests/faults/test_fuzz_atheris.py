"""Coverage-guided fuzzing, a few runs of each harness; ``python -m tests.faults.fuzz.url`` goes on for ever."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


MISSING = f"atheris is not {'installed' if sys.version_info < (3, 12) else 'made for this Python'}"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=MISSING)
@pytest.mark.parametrize(("harness", "runs"), [("url", 3000), ("settings", 1000), ("replies", 100)])
def test_a_few_runs_of(harness, runs, tmp_path):
    command = [sys.executable, "-m", f"tests.faults.fuzz.{harness}", f"-runs={runs}", "-seed=1"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT)}
    files = f"-artifact_prefix={tmp_path}/"
    done = subprocess.run([*command, files], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr
