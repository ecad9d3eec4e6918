"""Serializers and compression for cached and stored values."""
