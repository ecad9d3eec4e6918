"""Tests of commands and replies."""
