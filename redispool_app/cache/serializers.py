"""Serializers of the cache, under the path that settings may name."""

from __future__ import annotations

from redispool_app.serialization.cache_serializers import (
    CHOICES,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    StrictMsgpackSerializer,
    find,
    is_built_in,
)

__all__ = [
    "CHOICES",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
    "StrictMsgpackSerializer",
    "find",
    "is_built_in",
]
