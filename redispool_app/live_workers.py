"""The workers as the live page needs them: everybody's snapshots, this process's own, and its last minutes."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from .redis_pool import RedisConnectionManager

try:
    from .workers import identity, publisher, roster, snapshot  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    identity = publisher = roster = snapshot = None


@dataclass
class Read:
    workers: list[dict[str, Any]]
    problem: str | None = None
    differences: list[str] = field(default_factory=list)


def own_id() -> str:
    return f"{identity.host() if identity else socket.gethostname()}:{os.getpid()}"


def role() -> str:
    return identity.role() if identity else f"server: {os.path.basename(sys.argv[0])}"


def read(manager: RedisConnectionManager) -> Read:
    if roster is None:
        return Read([own(manager)], "Publishing is off.")
    found = roster.read(manager)
    return Read(list(found.workers), found.problem, list(found.differences))


def own(manager: RedisConnectionManager) -> dict[str, Any]:
    """Return this process's snapshot, as the roster would hold it."""
    if snapshot is not None:
        return {**snapshot.take(manager), "seen_seconds": 0.0}
    info = manager.get_pool_info()
    return {**info, "id": own_id(), "host": socket.gethostname(), "role": role(), "seen_seconds": 0.0, "at": time.time(),
            "ops_per_second": 0.0, "started": 0.0}


def recent(alias: str) -> list[dict[str, Any]]:
    return publisher.recent(alias) if publisher else []
