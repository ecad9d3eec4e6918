"""What a worker says of a pool: the numbers of now, the rates of the last interval, and nothing that is not data."""

from __future__ import annotations

import json
import math
import os
import time

import pytest

from redispool_app import __version__
from redispool_app.engine.runtime import process
from redispool_app.workers import snapshot

KEYS = (
    "id host pid role app version alias started at state loops connections_open connections_in_use commands_in_flight "
    "waiting ops_per_second latency_p50_ms latency_p99_ms timeouts_total reconnects_total errors_total last_error "
    "last_error_kind paused obeyed"
).split()


def test_a_snapshot_says_who_and_how(manager):
    manager.get_sync_client().ping()
    said = snapshot.take(manager)
    assert said.keys() == {*KEYS, "interval"}
    assert (said["id"], said["pid"], said["alias"]) == (process.worker_id(), os.getpid(), "default")
    assert (said["version"], said["state"], said["connections_open"]) == (__version__, "healthy", 1)
    assert said["app"] == manager.get_pool_info()["client_name"].split(":")[0]
    assert abs(said["at"] - time.time()) < 5
    assert json.loads(json.dumps(said)) == said


def test_a_snapshot_is_compact(manager):
    manager.get_sync_client().ping()
    assert len(snapshot.dump(snapshot.take(manager))) < 1000


def test_a_snapshot_survives_its_journey(manager):
    manager.get_sync_client().ping()
    said = snapshot.take(manager)
    assert snapshot.load(snapshot.dump(said)) == said


def test_a_misconfigured_pool_has_a_snapshot_too(settings, pool_settings):
    manager = pool_settings("redis://unused")
    settings.REDIS_POOL = {"SOCKET_TIMOUT": 1}
    said = snapshot.tick(manager)
    assert (said["state"], said["ops_per_second"]) == ("misconfigured", None)
    assert "SOCKET_TIMEOUT" in said["last_error"]


def test_rates_are_those_of_the_last_interval(manager, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(snapshot, "monotonic", lambda: now)
    client = manager.get_sync_client()
    for _ in range(500):
        client.ping()
    assert snapshot.tick(manager)["ops_per_second"] is None, "nothing is known of an interval before the first"
    now += 2
    for _ in range(40):
        client.ping()
    said = snapshot.tick(manager)
    assert said["ops_per_second"] == 20
    assert 0 < said["latency_p50_ms"] <= said["latency_p99_ms"] < 1000
    now += 2
    said = snapshot.tick(manager)
    assert (said["ops_per_second"], said["latency_p50_ms"], said["latency_p99_ms"]) == (0, None, None)


def test_what_the_publishing_sends_is_no_traffic_of_the_site(manager, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(snapshot, "monotonic", lambda: now)
    client = manager.get_sync_client()
    snapshot.tick(manager)
    client.ping()
    snapshot.rates_of(manager).own_commands += 1
    now += 1
    assert snapshot.tick(manager)["ops_per_second"] == 0


def test_an_interval_that_is_too_short_keeps_the_rates_of_the_one_before(manager, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(snapshot, "monotonic", lambda: now)
    client = manager.get_sync_client()
    snapshot.tick(manager)
    client.ping()
    now += 1
    assert snapshot.tick(manager, 0.5)["ops_per_second"] == 1
    now += 0.001
    client.ping()
    assert snapshot.tick(manager, 0.5)["ops_per_second"] == 1
    now += 0.999
    assert snapshot.tick(manager, 0.5)["ops_per_second"] == 1


def test_percentiles_are_of_what_came_between_two_histograms():
    before = [(0.001, 100), (0.01, 100), (math.inf, 100)]
    now = [(0.001, 150), (0.01, 199), (math.inf, 200)]
    assert snapshot.percentiles(before, now, (0.5, 0.99, 1.0)) == [0.001, 0.01, 0.01]
    assert snapshot.percentiles(now, now, (0.5,)) == [None]
    assert snapshot.percentiles((), now, (0.5,)) == [0.001]
    assert snapshot.percentiles((), (), (0.5,)) == [None]


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "1"},
        {"pid": True},
        {"pid": -1},
        {"pid": 1.5},
        {"role": None},
        {"host": ["x"]},
        {"ops_per_second": "fast"},
        {"ops_per_second": math.nan},
        {"interval": math.inf},
        {"started": 10**30},
        {"obeyed": 5},
    ],
)
def test_what_is_not_of_its_type_is_not_a_snapshot(manager, change):
    assert snapshot.load(json.dumps({**snapshot.take(manager), **change})) is None


@pytest.mark.parametrize("stored", [None, b"", b"{", b"[]", b"7", b"{}", b"\xff", "[" * 50_000, b" " * 100_000, 5])
def test_what_is_no_document_is_not_a_snapshot(stored):
    assert snapshot.load(stored) is None


def test_texts_are_cut_and_hold_no_control_signs_and_strange_keys_are_dropped(manager):
    said = {**snapshot.take(manager), "role": "a\x1b[31m\n" + "x" * 1000, "evil": 1, "paused": "yes"}
    found = snapshot.load(json.dumps(said))
    assert found["role"].startswith("a[31mxxx")
    assert len(found["role"]) <= 300
    assert "evil" not in found
    assert found["paused"] is False
