"""The suite on each supported Python, Django and redis-py: ``nox`` runs all, ``--list`` names each, ``-s`` picks one.

nox installs no Python. It skips the sessions of a missing one and says so.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

# pyenv's own programs start only the versions that it is set to.
PYENV = Path.home() / ".pyenv" / "versions"
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(PYENV.glob("3.*/bin")))])

SUITE = ["-n", "6", "--dist", "loadfile", "--no-loadscope-reorder"]
DJANGOS = {
    "3.11": ("5.2",),
    "3.12": ("5.2", "6.0", "6.1"),
    "3.13": ("5.2", "6.0", "6.1"),
    "3.14": ("5.2", "6.0", "6.1"),
}
MATRIX = [
    nox.param(python, django, redis, id=f"python{python}-django{django}-redis-{redis}")
    for python, djangos in DJANGOS.items()
    for django in djangos
    for redis in ("lowest", "newest")
]


def lowest_redis() -> list[str]:
    """The lowest redis-py and hiredis that are declared."""
    lines = Path(__file__).with_name("requirements-lowest.txt").read_text().splitlines()
    return [line for line in lines if re.match(r"(redis|hiredis)==", line)]


@nox.session
@nox.parametrize("python,django,redis", MATRIX)
def suite(session: nox.Session, django: str, redis: str) -> None:
    """Run the tests of ``make test``, or what follows ``--``."""
    pinned = [f"django=={django}.*", *(lowest_redis() if redis == "lowest" else [])]
    session.install("-r", "requirements-dev.txt", *pinned)
    session.run("python", "-m", "django", "--version")
    session.run("python", "-m", "pytest", *(session.posargs or SUITE))
