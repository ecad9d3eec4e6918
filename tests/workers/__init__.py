"""Tests of the workers' publishing and orders."""
