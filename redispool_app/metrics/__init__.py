"""The metrics of the pools, named by OpenTelemetry's conventions, for Prometheus and for OpenTelemetry.

``definitions`` is the table of all metrics. ``collect`` reads the numbers at the moment of a collection. Each exporter
converts them into its own form. Nothing here runs between two collections.
"""
