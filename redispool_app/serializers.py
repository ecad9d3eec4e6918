"""Serializers for stores."""

from __future__ import annotations

from .serialization.serializers import BytesSerializer, JSONSerializer, MsgpackSerializer, Serializer

__all__ = ["BytesSerializer", "JSONSerializer", "MsgpackSerializer", "Serializer"]
