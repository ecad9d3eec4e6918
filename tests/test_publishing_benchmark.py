"""What the benchmark of publishing promises has scrapes in it, or it is no result."""

from __future__ import annotations

import sys

import pytest

from benchmarks import publishing


def test_without_the_metrics_nothing_is_measured(manager, monkeypatch):
    monkeypatch.setitem(sys.modules, "redispool_app.metrics.prometheus", None)
    manager.get_sync_client().ping()
    with pytest.raises(ModuleNotFoundError):
        publishing._cost()
    with pytest.raises(ModuleNotFoundError), publishing._publishing(1.0):
        pass
