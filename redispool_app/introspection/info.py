"""What a server says about itself: one INFO, read into the few facts that a person looks for.

Field names are those of https://redis.io/docs/latest/commands/info/; a field that a server leaves out is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis import exceptions as redis_exceptions

from redispool_app.redis_pool import RedisConnectionManager

__all__ = ["ServerFacts", "fetch", "info_sections", "parse"]

# The protocol's historical words, and what both projects' documentation says today.
_ROLES = {"master": "primary", "slave": "replica"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFacts:
    """One server at one moment: memory in bytes, ``uptime`` in seconds, ``hit_rate`` from 0 to 1."""

    product: str
    """``Valkey`` or ``Redis``."""
    version: str | None
    role: str | None
    """``primary`` or ``replica``."""
    mode: str | None
    """``standalone``, ``cluster`` or ``sentinel``."""
    uptime: int | None
    clients: int | None
    clients_max: int | None
    memory_used: int | None
    memory_max: int | None
    """0 means without a limit."""
    ops_per_second: int | None
    hit_rate: float | None
    """None before the first look-up of a key."""
    keys: int
    """In this pool's database."""
    process_id: int | None


def parse(info: Mapping[str, Any], database: int) -> ServerFacts:
    """Read redis-py's dict of an INFO reply; ``keys`` counts those of ``database``."""
    # Valkey still states the version of Redis that it is compatible with.
    is_valkey = "valkey_version" in info
    role = _text(info, "role")
    hits, misses = _whole(info, "keyspace_hits") or 0, _whole(info, "keyspace_misses") or 0
    keyspace = info.get(f"db{database}")
    return ServerFacts(
        product="Valkey" if is_valkey else "Redis",
        version=_text(info, "valkey_version" if is_valkey else "redis_version"),
        role=_ROLES.get(role, role) if role else None,
        mode=_text(info, "server_mode") or _text(info, "redis_mode"),
        uptime=_whole(info, "uptime_in_seconds"),
        clients=_whole(info, "connected_clients"),
        clients_max=_whole(info, "maxclients"),
        memory_used=_whole(info, "used_memory"),
        memory_max=_whole(info, "maxmemory"),
        ops_per_second=_whole(info, "instantaneous_ops_per_sec"),
        hit_rate=hits / (hits + misses) if hits + misses else None,
        # An empty database is not listed.
        keys=(_whole(keyspace, "keys") or 0) if isinstance(keyspace, Mapping) else 0,
        process_id=_whole(info, "process_id"),
    )


def fetch(manager: RedisConnectionManager) -> ServerFacts:
    """Ask the manager's server, with one INFO on a shared connection.

    Takes at most a health check (when one is due) and ``SOCKET_TIMEOUT``. Raises what
    ``get_sync_client()`` raises, and redis-py's errors.
    """
    client = manager.get_sync_client()
    try:
        info = cast(Mapping[str, Any], client.info())
    except (AttributeError, TypeError, ValueError) as error:
        # redis-py reads INFO without asking whether it is text.
        raise redis_exceptions.ResponseError("INFO was not answered as a Redis server does") from error
    return parse(info, manager.config.database)


def _whole(info: Mapping[str, Any], field: str) -> int | None:
    value = info.get(field)
    return value if isinstance(value, int) else None


def _text(info: Mapping[str, Any], field: str) -> str | None:
    value = info.get(field)
    return None if value is None or value == "" else str(value)


def info_sections(text: str) -> dict[str, dict[str, str]]:
    """Read an INFO reply into its sections, as the server words them."""
    sections: dict[str, dict[str, str]] = {}
    current = sections.setdefault("", {})
    for line in text.splitlines():
        if line.startswith("#"):
            current = sections.setdefault(line.lstrip("# ").strip(), {})
        else:
            key, colon, value = line.partition(":")
            if colon:
                current[key] = value
    return {name: fields for name, fields in sections.items() if fields}
