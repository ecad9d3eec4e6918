"""Multiplexing: one connection that many callers share."""
