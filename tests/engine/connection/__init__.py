"""Tests of single connections."""
