"""Tests of ``RedisBase``."""
