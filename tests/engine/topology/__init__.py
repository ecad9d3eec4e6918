"""Tests of pool sets, event loops and server modes."""
