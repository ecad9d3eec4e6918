"""What ``make`` would run: every test that ``make test`` leaves out, and only files that exist."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
HARNESSES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py")
    if not {"faults", "browser"} & set(path.parts) and re.search(r"mark\.lab\b", path.read_text())
)


def make(*arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    ended = subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout


def dry(target, directory):
    """Return what ``make -n`` prints for ``target`` where no environment exists yet; it must run nothing."""
    printed = make("-n", f"VENV={directory}/venv", f"VENV_LOWEST={directory}/lowest", target)
    assert not list(directory.iterdir())
    return printed


def test_make_without_a_target_lists_every_target_with_a_description():
    makefile = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1].replace("\\", "").split()
    listed = [re.fullmatch(r"make ([a-z-]+) +\S.*", line)[1] for line in make().splitlines()]
    assert sorted(listed) == sorted({*declared} - {"suite-on-newest"})


def test_the_commit_hooks_are_the_checks_of_make_lint(tmp_path):
    linted = dry("lint", tmp_path).splitlines()
    checks = [line.replace(f"{tmp_path}/venv", ".venv") for line in linted if line.startswith(f"{tmp_path}/venv/bin/")]
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    hooks = [hook["entry"] for hook in repo["hooks"]]
    assert hooks == [check for check in checks if " -m pip " not in check]
    assert ".venv/bin/codespell" in hooks


@pytest.mark.parametrize("target", ["test", "test-all", "faults", "bench", "coverage", "screenshots"])
def test_every_test_file_that_is_named_exists(tmp_path, target):
    for name in set(re.findall(r"tests/[\w/*.]+", dry(target, tmp_path))) - {"tests/faults/results.json"}:
        assert list(ROOT.glob(name)), name


def test_all_includes_what_test_leaves_out(tmp_path):
    lines = dry("test-all", tmp_path).splitlines()
    (lab,) = [line for line in lines if " -m lab --" in line]
    left_out = " ".join(re.findall(r"--ignore (\S+)", lab))
    assert not re.search(r" tests/", lab.replace("--ignore tests/", "")), "no selection of files"
    assert [line for line in lines if line.endswith(f"-m lab {left_out}")]
    assert [line for line in lines if line.startswith(f"{tmp_path}/lowest/bin/python -m pytest")]


def test_the_suite_on_the_newest_django_is_that_of_make_test(tmp_path):
    environment = [f"VENV_NEWEST={tmp_path}/newest", "NEWEST_PYTHON=python3"]
    newest = make("-n", *environment, "test-newest").splitlines()
    (suite,) = [line for line in newest if line.startswith(f"{tmp_path}/newest/bin/python -m pytest")]
    assert suite.replace("/newest/", "/venv/") in dry("test", tmp_path).splitlines()


def test_without_a_newer_python_the_newest_django_is_skipped_visibly():
    assert make("NEWEST_PYTHON=", "test-newest").startswith("Skipped: no Python 3.12 or 3.13")


@pytest.mark.parametrize("name", HARNESSES)
def test_the_failure_laboratory_includes_each_harness(tmp_path, name):
    named = re.findall(r"tests/[\w/*]+\.py", dry("faults", tmp_path))
    assert any(Path(name).match(pattern) for pattern in named)


def test_no_list_names_a_package_index():
    files = [
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        ROOT / "noxfile.py",
        ROOT / ".ci" / "run",
        *ROOT.glob("requirements*.txt"),
    ]
    for path in files:
        assert not re.search(r"https?://|-index|--find-links|--trusted-host", path.read_text()), path.name
