"""Serializers of the cache, under the path that settings may name."""

from __future__ import annotations

from redispool_app.serialization.serializers import (
    FOR_CACHES,
    PickleSerializer,
    Serializer,
    StrictMsgpackSerializer,
    is_built_in,
)
from redispool_app.serialization.serializers import DjangoJSONSerializer as JSONSerializer
from redispool_app.serialization.serializers import find_for_cache as find

CHOICES = tuple(FOR_CACHES)

__all__ = [
    "CHOICES",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
    "StrictMsgpackSerializer",
    "find",
    "is_built_in",
]
