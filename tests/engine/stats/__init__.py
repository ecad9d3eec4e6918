"""Tests of counters, histograms and logs."""
