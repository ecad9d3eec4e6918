"""Moves bytes: health, connections, pools and the two clients. Never imports Django."""

from .async_client import AsyncRedis
from .sync_client import SyncRedis

__all__ = ["AsyncRedis", "SyncRedis"]
