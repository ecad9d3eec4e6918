"""The settings from which a ``PoolSet`` is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from redispool_app.engine.embedded.server import EmbeddedServer
from redispool_app.engine.multiplex.base import MultiplexerLimits


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """The settings of a ``PoolSet``. Times are in seconds. ``kind`` is ``tcp``, ``tls`` or ``unix``."""

    alias: str
    where: str
    kind: str
    connection_kwargs: dict[str, Any] = field(repr=False)
    max_connections: int
    max_waiting: int
    timeout: float
    max_idle_time: float | None
    max_lifetime: float | None
    check_interval: float
    check_timeout: float
    backoff_base: float
    backoff_cap: float
    async_class: type[Any] | None = None
    sync_class: type[Any] | None = None
    embedded: EmbeddedServer | None = None
    sharing: MultiplexerLimits | None = None
    slow_command: float = math.inf
    app: str | None = None
    """Prefix of the connections' names; None gives them no names."""
