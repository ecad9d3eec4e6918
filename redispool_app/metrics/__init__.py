"""What the pools measure, under the names of OpenTelemetry's conventions, for Prometheus and for OpenTelemetry.

``definitions`` is the table of all metrics, ``readings`` takes the numbers at the moment somebody collects them, and
each exporter turns those into its own form. Nothing here runs between two collections.
"""
