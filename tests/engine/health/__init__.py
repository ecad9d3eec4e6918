"""Tests of faults, health checks and outages."""
