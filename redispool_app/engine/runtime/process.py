"""The identity of this process: its host, its role, its start."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Collection, Sequence
from functools import cache
from time import monotonic

from redispool_app.engine.runtime import fork

from .client_name import host_name

__all__ = ["age", "host", "role", "started", "worker_id"]

_SERVERS = frozenset(
    {
        "bjoern",
        "cheroot",
        "daphne",
        "granian",
        "gunicorn",
        "hypercorn",
        "uvicorn",
        "uwsgi",
        "waitress",
        "waitress-serve",
    }
)
_DEVELOPMENT_SERVERS = frozenset({"runserver", "runserver_plus", "runworker"})
_MANAGEMENT = frozenset({"manage", "django", "django-admin"})
# Servers that embed Python have no command line to read, but a module of their own.
_EMBEDDING = ("mod_wsgi", "uwsgi", "unit")

_born = time.time(), monotonic()


def host() -> str:
    """Return this machine's (or container's) name as used in connection names: no spaces, no colons."""
    return host_name()


def worker_id() -> str:
    """Return ``host:pid``, which identifies this process."""
    return f"{host()}:{os.getpid()}"


def started() -> float:
    """When this process loaded the app, or was forked after that (Unix time)."""
    return _born[0]


def age() -> float:
    """Seconds since ``started()``. Setting the clock does not change it."""
    return monotonic() - _born[1]


def role() -> str:
    """Return the role of this process: ``server: uvicorn``, ``command: redis_health``, ``celery``, ``program: x``.

    Read from the names on the command line. Arguments are not shown, except the name of a management command.
    """
    return _role()


@cache
def _role() -> str:
    return role_of(sys.argv, sys.modules)


def role_of(argv: Sequence[str], modules: Collection[str] = ()) -> str:
    """Return the role of a process with this command line and these modules loaded."""
    for module in _EMBEDDING:
        if module in modules:
            return f"server: {module}"
    name = _program(argv[0] if argv else "")
    words = [word for word in argv[1:] if re.fullmatch(r"[A-Za-z]\w{0,63}", word)]
    if name in _SERVERS:
        return f"server: {name}"
    if name == "celery":
        return "celery: beat" if "beat" in words and "worker" not in words else "celery"
    if name in _MANAGEMENT or name.startswith("manage"):
        command = argv[1] if len(argv) > 1 and argv[1] in words else ""
        if command in _DEVELOPMENT_SERVERS:
            return f"server: {command}"
        return f"command: {command}" if command else "command"
    return f"program: {name}"


def _program(path: str) -> str:
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(path))
    name = re.sub(r"(\.py|\.exe|-script)+$", "", name)
    name = re.sub(r"[^\w.-]", "", name, flags=re.ASCII)[:64]
    return name if name.strip("-") and name != "-c" else "python"


def _after_fork_in_child() -> None:
    global _born
    _born = time.time(), monotonic()


fork.register(_after_fork_in_child)
