"""Reads what the server says about itself: INFO, CLIENT LIST and SLOWLOG."""
