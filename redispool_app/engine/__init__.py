"""The engine: health, connections, pools and the two clients. It never imports Django."""

from .client.client_async import AsyncRedis
from .client.client_sync import SyncRedis

__all__ = ["AsyncRedis", "SyncRedis"]
