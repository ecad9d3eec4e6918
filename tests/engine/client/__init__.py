"""Tests of the clients and pipelines."""
