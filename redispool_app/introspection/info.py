"""What a server says about itself: one INFO, read into the few facts that a person looks for.

Field names are those of https://redis.io/docs/latest/commands/info/; a field that a server leaves out is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_exceptions

from redispool_app.redis_pool import RedisConnectionManager

from .rows import lines, pairs, whole

__all__ = ["ServerFacts", "connected_clients", "fetch", "parse", "sections"]

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


def sections(reply: Any) -> dict[str, dict[str, str]]:
    """Read the reply of INFO, or of one section: its fields by section, as the server words them."""
    found: dict[str, dict[str, str]] = {}
    current = found.setdefault("", {})
    for line in lines(reply):
        if line.startswith("#"):
            current = found.setdefault(line.lstrip("# ").strip(), {})
        else:
            name, colon, value = line.partition(":")
            if colon:
                current[name] = value
    return {name: fields for name, fields in found.items() if fields}


def _fields(reply: Any) -> dict[str, str]:
    return {name: value for fields in sections(reply).values() for name, value in fields.items() if value}


def connected_clients(reply: Any) -> int | None:
    """Read how many clients there are from the reply of INFO, or of its section; None where it does not say."""
    return whole(_fields(reply).get("connected_clients"))


def parse(reply: Any, database: int) -> ServerFacts:
    """Read the reply of INFO; ``keys`` counts those of ``database``. Raises ``ValueError`` for a reply of no fields."""
    said = _fields(reply)
    if not said:
        raise ValueError("INFO was not answered as a Redis server does")
    # Valkey still states the version of Redis that it is compatible with.
    is_valkey = "valkey_version" in said
    role = said.get("role")
    hits, misses = whole(said.get("keyspace_hits")) or 0, whole(said.get("keyspace_misses")) or 0
    # An empty database is not listed.
    keyspace = pairs(said.get(f"db{database}", ""), ",")
    return ServerFacts(
        product="Valkey" if is_valkey else "Redis",
        version=said.get("valkey_version" if is_valkey else "redis_version"),
        role=_ROLES.get(role, role) if role else None,
        mode=said.get("server_mode") or said.get("redis_mode"),
        uptime=whole(said.get("uptime_in_seconds")),
        clients=whole(said.get("connected_clients")),
        clients_max=whole(said.get("maxclients")),
        memory_used=whole(said.get("used_memory")),
        memory_max=whole(said.get("maxmemory")),
        ops_per_second=whole(said.get("instantaneous_ops_per_sec")),
        hit_rate=hits / (hits + misses) if hits + misses else None,
        keys=whole(keyspace.get("keys")) or 0,
        process_id=whole(said.get("process_id")),
    )


def fetch(manager: RedisConnectionManager) -> ServerFacts:
    """Ask the manager's server, with one INFO on a shared connection.

    Takes at most a health check (when one is due) and ``SOCKET_TIMEOUT``. Raises what
    ``get_sync_client()`` raises, and redis-py's errors.
    """
    reply = manager.get_sync_client().execute_raw("INFO")
    try:
        return parse(reply, manager.config.database)
    except ValueError as error:
        raise redis_exceptions.ResponseError(str(error)) from error
