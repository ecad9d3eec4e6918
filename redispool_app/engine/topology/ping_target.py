"""Common parts of the asyncio and the blocking PING: the type of their replies, and the warnings in these."""

from __future__ import annotations

from typing import Any

from redispool_app.engine.health.faults import FaultKind, in_cluster_mode
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.server_mode import is_primary

_Replies = list[Any]


def _warn(monitor: Monitor, hello: Any, is_clustered: bool) -> None:
    if is_primary(hello):
        monitor.warn(FaultKind.READONLY, None)
    monitor.warn(FaultKind.CLUSTER, in_cluster_mode(monitor.where) if is_clustered else None)
