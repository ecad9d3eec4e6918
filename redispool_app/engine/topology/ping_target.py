"""What the asyncio and the blocking PING have in common: warnings, and a look for servers that are not Redis."""

from __future__ import annotations

import math
import socket
from typing import Any

import redis
import redis.asyncio

from redispool_app.engine.connection import dns
from redispool_app.engine.health.faults import FaultKind, in_cluster_mode
from redispool_app.engine.health.monitor import Monitor
from redispool_app.engine.health.server_mode import is_primary
from redispool_app.engine.pool.pool_async import AsyncPool
from redispool_app.engine.pool.pool_sync import SyncPool

_Replies = list[Any]


def _warn(monitor: Monitor, hello: Any, is_clustered: bool) -> None:
    if is_primary(hello):
        monitor.warn(FaultKind.READONLY, None)
    monitor.warn(FaultKind.CLUSTER, in_cluster_mode(monitor.where) if is_clustered else None)


# Some web servers wait in silence for the rest of what they take for a request. Only who has never answered is
# suspected of that, so an outage costs a server no strange request.


def _time_for_strangers(pool: AsyncPool | SyncPool, timeout: float) -> float:
    """Seconds of ``timeout`` to keep for the question who is there."""
    if issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection)):
        return 0.0  # nothing is sent there in the clear
    never_answered = pool.monitor.health.last_reply == -math.inf
    return timeout * 0.1 if never_answered and pool.connection_kwargs.get("host") else 0.0


def _speaks_http(pool: AsyncPool | SyncPool, timeout: float) -> bool:
    """Whether a web server answers at the address of ``pool``."""
    host, port = pool.connection_kwargs["host"], pool.connection_kwargs["port"]
    try:
        address = dns.resolve_sync(host, port, timeout)[0]
        with socket.create_connection((address, port), timeout) as peer:
            peer.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return peer.recv(5) == b"HTTP/"
    except OSError:
        return False
