"""Counters, histograms, the slow log and OpenTelemetry."""
