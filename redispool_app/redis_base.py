"""``RedisBase``, the base class of a project's own stores."""

from __future__ import annotations

from .store.base import DEFAULT_TTL, RedisBase

__all__ = ["DEFAULT_TTL", "RedisBase"]
