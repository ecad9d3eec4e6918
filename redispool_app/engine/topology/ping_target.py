"""Common parts of the asyncio and the blocking PING: what a check asks, and what the replies mean."""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter
from typing import Any

from redispool_app.engine.health.faults import FaultKind, in_cluster_mode
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.server_mode import (
    CLUSTER_NODES,
    HELLO,
    PING,
    check_ping,
    check_slots,
    is_in_cluster_mode,
    is_primary,
)

Replies = list[Any]
"""Replies of a server, errors among them as values."""


def questions(monitor: Monitor) -> Generator[tuple[bytes, int], Replies, float]:
    """Yield packed commands and the number of their replies. Take these replies, and raise what they mean.

    Return the seconds of the first round trip.
    """
    asks_mode = not monitor.health.is_healthy or monitor.shows(FaultKind.READONLY)
    started = perf_counter()
    replies = yield (PING + HELLO, 2) if asks_mode else (PING, 1)
    latency = perf_counter() - started
    check_ping(replies[0])
    if asks_mode:
        is_clustered = is_in_cluster_mode(replies[1])
        if is_clustered:
            (nodes,) = yield CLUSTER_NODES, 1
            check_slots(nodes, was_moved=monitor.was_moved)
        if is_primary(replies[1]):
            monitor.warn(FaultKind.READONLY, None)
        monitor.warn(FaultKind.CLUSTER, in_cluster_mode(monitor.where) if is_clustered else None)
    return latency
