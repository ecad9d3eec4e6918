"""Tests of shared connections."""
