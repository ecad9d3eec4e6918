"""Tests of serializers and compression."""
