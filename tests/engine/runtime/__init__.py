"""Tests of the engine's runtime helpers."""
