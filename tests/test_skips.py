"""A run that must leave nothing out, as CI's, fails when a test was skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OF_A_MODULE = "import pytest\npytest.importorskip('no_such_module')\n"
OF_TESTS = """
import pytest

@pytest.fixture
def browser(): pytest.skip("no chromium")

def test_with_a_fixture(browser): pass
def test_by_itself(): pytest.skip("no redis-server")
def test_that_passes(): pass
"""
OF_ANOTHER_PYTHON = """
import pytest

@pytest.mark.skip(reason="not made for this Python")
def test_that_cannot_be(): pass
def test_that_passes(): pass
"""


def run(directory, *sources, **environment):
    for number, source in enumerate(sources):
        (directory / f"test_sample_{number}.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(directory)]
    env = {key: value for key, value in os.environ.items() if key != "REDISPOOL_NO_SKIP"}
    env |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=60)


def test_whatever_was_skipped_fails_a_run_that_must_leave_nothing_out(tmp_path):
    ended = run(tmp_path, OF_A_MODULE, OF_TESTS, REDISPOOL_NO_SKIP="1")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "3 skipped, which is a failure here" in ended.stdout


def test_what_is_not_made_for_this_python_may_be_left_out_everywhere(tmp_path):
    ended = run(tmp_path, OF_ANOTHER_PYTHON, REDISPOOL_NO_SKIP="1")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_elsewhere_a_skip_is_no_failure(tmp_path):
    assert run(tmp_path, OF_A_MODULE, OF_TESTS).returncode == 0


def test_ci_is_a_run_that_must_leave_nothing_out():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    runs = [line.split(" ||")[0] for line in lines[lines.index("export REDISPOOL_NO_SKIP=1") :] if line[:5] == "make "]
    assert runs == ["make lint", "make test", "make test-lowest"]
