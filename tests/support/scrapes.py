"""Reading what a scrape returned."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def families(text):
    """Return the metric families of a scrape by name."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text, name, **labels):
    """Return the values of a sample name whose labels include these, by the name of their pool."""
    return {
        sample.labels["db_client_connection_pool_name"]: sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def value(text, name, **labels):
    """Return the one value of a sample name with these labels."""
    found = samples(text, name, **labels)
    assert len(found) == 1, (name, labels, found)
    return next(iter(found.values()))
