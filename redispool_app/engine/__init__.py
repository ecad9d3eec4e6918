"""Moves bytes: health, connections, pools and the two clients. Never imports Django."""

from .clients import AsyncRedis, SyncRedis

__all__ = ["AsyncRedis", "SyncRedis"]
