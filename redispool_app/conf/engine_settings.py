"""Translates a configuration into what the engine, which knows nothing of Django, is built from."""

from __future__ import annotations

from redispool_app.engine.embedded.server import EmbeddedServer
from redispool_app.engine.multiplex.base import MultiplexerLimits
from redispool_app.engine.topology.settings import PoolSettings

from .config import RedisPoolConfig
from .settings import project_directory


def pool_settings(alias: str, config: RedisPoolConfig) -> PoolSettings:
    """Return what the pool of ``alias`` is built from. Raises ``ImproperlyConfigured``."""
    embedded = EmbeddedServer(project_directory(), config.embedded_name) if config.is_embedded else None
    return PoolSettings(
        alias=alias,
        where=config.where,
        kind=config.kind,
        connection_kwargs=config.connection_kwargs(embedded.socket_path if embedded else None),
        max_connections=config.max_connections,
        max_waiting=config.max_waiting,
        timeout=config.timeout,
        max_idle_time=config.max_idle_time,
        max_lifetime=config.max_lifetime,
        check_interval=config.health_check_interval,
        check_timeout=config.health_check_timeout,
        backoff_base=config.retry_backoff_base,
        backoff_cap=config.retry_backoff_cap,
        embedded=embedded,
        sharing=MultiplexerLimits(
            max_in_flight=config.max_in_flight,
            max_in_flight_bytes=config.max_in_flight_bytes,
            max_waiting=config.max_waiting,
            max_connections=config.max_shared_connections,
            retry_writes=config.retry_writes,
            backoff_base=config.retry_backoff_base,
            backoff_cap=config.retry_backoff_cap,
        )
        if config.max_shared_connections
        else None,
        slow_command=config.slow_command,
        app=config.app,
    )
