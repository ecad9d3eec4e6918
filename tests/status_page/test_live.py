"""The documents behind the live status page, against real servers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from redispool_app.introspection import client_list
from redispool_app.introspection import client_list as live_server_client_list
from redispool_app.introspection import slowlog as live_server_slowlog
from redispool_app.status_page import document as live
from redispool_app.translation import Sentence
from tests.support.servers import eventually, free_port

SECRET = "hunter2"
SLACK = 1.0  # the machine is shared


@pytest.fixture
def watch(manager):
    found = live.watch(manager)
    found.refresh()
    return found


def document_of(manager, max_age=0.0):
    found = live.watch(manager)
    found.refresh(max_age)
    return found.document()


# What a document holds.


def test_a_document_is_json_and_has_every_part(watch):
    document = json.loads(json.dumps(watch.document()))
    assert document["alias"] == "default"
    assert document["pool"]["state"] == "healthy"
    assert "config" not in document["pool"], "it does not change, and the page has it"
    assert document["server"]["product"] == "Valkey"
    assert document["info"]["Clients"]["connected_clients"].isdigit()
    assert [worker["id"] for worker in document["workers"]] == [document["worker"]["id"]]
    assert document["clients"]["total"] >= 1
    assert document["slowlog"]["problem"] is None
    assert isinstance(document["health_history"], list)
    assert isinstance(document["slow_commands"], list)


def test_the_parts_put_together_are_the_document(watch):
    assert set(json.loads(live.as_json(watch.parts()))) == set(watch.document())


def test_slow_commands_are_shown_by_name_and_never_with_keys_or_values(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    with own_server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.set(f"key-{SECRET}", SECRET)
        client.config_get("maxmemory")
        document = document_of(manager)
        client.config_set("slowlog-log-slower-than", -1)
    rows = {row["command"]: row for row in document["slowlog"]["rows"]}
    assert rows["SET"]["arguments"] == 2
    assert "CONFIG GET" in rows
    assert SECRET not in json.dumps(document)


def test_the_slow_log_shows_the_slowest_first_and_at_most_25():
    entries = [[n, 1000 + n, n * 1000, [b"GET", b"key"], b"127.0.0.1:1", b"app"] for n in range(40)]
    found = live_server_slowlog.slowlog_rows(entries)
    assert len(found.rows) == live_server_slowlog.SLOWLOG_ROWS
    assert [row["duration_ms"] for row in found.rows[:2]] == [39.0, 38.0]


@pytest.mark.parametrize("reply", [None, b"?", 5, [], [None], [[1]], [[1, 2, 3, []]], [[1, 2, 3, b"GET"]]])
def test_a_slow_log_that_is_none_is_empty(reply):
    assert live_server_slowlog.slowlog_rows(reply).rows == []


def test_clients_are_bounded_and_the_total_is_told():
    text = b"\n".join(
        b"id=%d addr=127.0.0.1:%d name=n%d age=1 idle=0 db=0 tot-mem=%d cmd=get" % (n, n, n, n) for n in range(300)
    )
    found = live_server_client_list.client_rows(text)
    assert (len(found.rows), found.total) == (live_server_client_list.CLIENT_ROWS, 300)
    assert found.rows[0]["memory"] == 299, "those that cost most come first"


def test_with_too_many_clients_the_server_is_not_asked_for_a_list(own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(client_list, "LISTED_AT_MOST", 0)
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=5)
    document = document_of(manager)
    assert document["clients"]["problem"] == "1 clients: too many to ask the server for a list."
    assert document["clients"]["total"] == 1
    assert document["differences"] == ["1 clients: too many to ask the server for a list."]
    assert document["workers_problem"] is None
    assert own_server.calls("client|list") == 0


def test_a_server_that_does_not_say_how_many_clients_it_has_is_not_asked_for_a_list(own_server, pool_settings):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=5)
    with own_server.client() as client:
        client.acl_setuser("default", enabled=True, commands=["-info"])
        document = document_of(manager)
        client.acl_setuser("default", enabled=True, commands=["+info"])
    assert "+info" in document["clients"]["problem"]
    assert own_server.calls("client|list") == 0


@pytest.mark.parametrize(
    ("lacking", "part"), [("slowlog", "slowlog"), ("client|list", "clients")], ids=["slow log", "clients"]
)
def test_the_permission_that_lacks_is_named(own_server, pool_settings, lacking, part):
    manager = pool_settings(own_server.url)
    with own_server.client() as client:
        client.acl_setuser("default", enabled=True, commands=[f"-{lacking}"])
        document = document_of(manager)
        client.acl_setuser("default", enabled=True, commands=[f"+{lacking}"])
    assert f"+{lacking}" in document[part]["problem"]
    assert document["pool"]["state"] == "healthy"
    assert document["server"] is not None


# Outages.


def test_a_server_that_is_gone_is_noticed_although_nobody_else_asks(own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_INTERVAL=60)
    assert document_of(manager)["pool"]["state"] == "healthy"
    own_server.kill()
    document = document_of(manager)
    assert document["pool"]["state"] == "unhealthy"
    assert document["server"] is None
    assert "Nothing listens" in document["server_problem"]
    assert [worker["state"] for worker in document["workers"]] == ["unhealthy"]


def test_while_redis_is_down_the_document_comes_at_once(pool_settings):
    manager = pool_settings(f"redis://127.0.0.1:{free_port()}/0")
    document_of(manager)
    started = time.monotonic()
    document = document_of(manager)
    assert time.monotonic() - started < 0.5
    assert document["workers_problem"]


def test_a_server_that_hangs_keeps_nobody_longer_than_the_page_s_patience(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=30, HEALTH_CHECK_TIMEOUT=5)
    document_of(manager)
    own_server.pause()
    started = time.monotonic()
    document = document_of(manager)
    assert time.monotonic() - started < live.PATIENCE + SLACK
    assert "has not answered for" in document["server_problem"]
    assert isinstance(document["server_problem"], Sentence), "it can be translated"
    own_server.resume()
    eventually(lambda: document_of(manager)["server"] is not None)


def test_what_was_slow_before_an_outage_stays_in_sight(own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(live, "_DETAILS_FRESH", 0.0)
    manager = pool_settings(own_server.url)
    with own_server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.set("key", 1)
    known = document_of(manager)["slowlog"]["rows"]
    assert known
    own_server.kill()
    document_of(manager)
    slowlog = document_of(manager)["slowlog"]
    assert slowlog["rows"]
    assert slowlog["problem"]


def test_a_closed_pool_is_asked_nothing_and_stays_closed(manager, server):
    document_of(manager)
    manager.close_sync()
    before = server.calls("info")
    document = document_of(manager)
    assert server.calls("info") == before + 1, "the one that counts"
    assert (document["pool"]["state"], document["server_problem"]) == ("closed", "The pool is closed.")


def test_a_pool_that_is_paused_is_still_watched(manager):
    document_of(manager)
    manager.pause(20)
    try:
        document = document_of(manager)
    finally:
        manager.resume()
    assert document["pool"]["paused"] is True
    assert 0 < document["pool"]["paused_for"] <= 20
    assert document["server"] is not None
    assert document["server_problem"] is None


# One computation for all.


def test_a_hundred_viewers_within_a_second_cost_the_server_one_info(server, manager):
    found = live.watch(manager)
    found.refresh()
    time.sleep(live._FRESH)
    before = server.calls("info")
    barrier = threading.Barrier(20)

    def look(_):
        barrier.wait()
        for _ in range(5):
            found.refresh()
            found.parts()

    with ThreadPoolExecutor(20) as executor:
        list(executor.map(look, range(20)))
    assert server.calls("info") - before <= 3, "one, perhaps one of the details, and the one that counts"


async def test_one_viewer_who_leaves_costs_the_others_nothing(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    found = live.watch(manager)
    own_server.pause()
    staying = asyncio.create_task(found.arefresh(0.0))
    leaving = asyncio.create_task(found.arefresh(0.0))
    await asyncio.sleep(0.05)
    leaving.cancel()
    own_server.resume()
    await staying
    assert found.document()["server"] is not None


def test_a_thread_that_cannot_be_started_is_tried_again_by_whoever_asks_next(manager, monkeypatch):
    found = live.watch(manager)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        found.refresh()
        assert found.document()["server"] is None
    found.refresh()
    assert found.document()["server"] is not None


def test_settings_that_change_begin_a_new_watch(server, pool_settings):
    first = live.watch(pool_settings(server.url))
    assert live.watch(pool_settings(server.url, MAX_CONNECTIONS=7)) is not first
    assert live.watch(first.manager) is live.watch(first.manager)


# The series behind the charts.


def test_the_history_holds_what_was_watched_spaced_and_bounded(watch, monkeypatch):
    now = time.time()
    for seconds in range(0, 1200, 2):
        watch._remember(watch.document(), now + 10 + seconds)
    series = watch.history()
    gaps = {round(later["at"] - earlier["at"]) for earlier, later in pairwise(series[1:])}
    assert len(series) <= 120
    assert min(gaps) >= live._SPACING
    (numbers,) = series[-1]["workers"].values()
    assert len(numbers) == len(live._WORKER_NUMBERS)
    assert series[-1]["server"][1] >= 1
