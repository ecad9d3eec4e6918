"""What a document's values look like as text, and how numbers of several workers become one."""

from __future__ import annotations

import pytest
from django.utils import timezone
from django.utils.translation import override

from redispool_app.status_page import tables
from redispool_app.status_page.tables import figures, server_rows, shown


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "number", "–"),  # noqa: RUF001
        ("", "text", "–"),  # noqa: RUF001
        (1234567, "number", "1,234,567"),
        (0.5, "rate", "0.5"),
        (1234.5, "rate", "1,234"),
        (0.123, "ms", "0.12 ms"),
        (1234.5, "ms", "1,234 ms"),
        (2048, "bytes", "2.0\N{NO-BREAK SPACE}KB"),
        (90, "age", "90 s"),
        (600, "age", "10 min"),
        (7200, "age", "2 h"),
        (864000, "age", "10 d"),
        (1e300, "time", "–"),  # noqa: RUF001
        (0, "time", "00:00:00"),
        ("unhealthy", "state", "✕ Unhealthy"),
        ("a new one", "state", " a new one"),
        ("not a number", "ms", "–"),  # noqa: RUF001
    ],
)
def test_each_kind_of_value_as_text(value, kind, text):
    with timezone.override("UTC"):
        assert shown(value, kind) == text


def test_numbers_follow_the_language():
    with override("de"):
        assert shown(0.123, "ms") == "0,12 ms"
        assert shown("healthy", "state") == "✓ In Ordnung"


def test_over_several_workers_sums_are_sums_p99_is_the_slowest_and_p50_is_weighed():
    workers = [
        {"ops_per_second": 90.0, "latency_p50_ms": 1.0, "latency_p99_ms": 5.0, "waiting": 1},
        {"ops_per_second": 10.0, "latency_p50_ms": 11.0, "latency_p99_ms": 50.0, "waiting": 2},
        {"ops_per_second": None, "latency_p50_ms": None, "latency_p99_ms": None, "waiting": 0},
    ]
    found = {figure.key: text for figure, text in figures(workers)}
    assert found["ops_per_second"] == "100"
    assert found["latency_p99_ms"] == "50.00 ms"
    assert found["latency_p50_ms"] == "2.00 ms"
    assert found["waiting"] == "3"


def test_a_worker_that_is_paused_is_shown_as_paused():
    document = {"workers": [{"id": "a:1", "state": "healthy", "paused": True}, {"id": "a:2", "state": "healthy"}]}
    states = [row[1].text for row in tables.WORKERS.rows(document)]
    assert states == ["❚❚ Paused", "✓ Healthy"]


def test_a_document_without_a_list_has_no_rows():
    assert tables.CLIENTS.rows({"clients": None}) == []


def test_without_a_server_every_fact_is_a_dash():
    assert {text for _, _, text in server_rows(None)} == {"–"}  # noqa: RUF001
