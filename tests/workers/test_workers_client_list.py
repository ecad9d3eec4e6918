"""What CLIENT LIST shows is held against what the workers say, and each difference is one line."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError

from redispool_app.introspection.client_list import LISTED_AT_MOST, Client, parse, too_many
from redispool_app.introspection.info import connected_clients
from redispool_app.translation import Sentence
from redispool_app.workers.reconciliation import differences

NAME = "shop:web1:10:default"


def of(name=NAME, age=100, database=0, flags="N"):
    return Client(name, age, database, flags)


def worker(connections=1, worker_id="web1:10", seen=1.0, app="shop"):
    return {"id": worker_id, "app": app, "connections_open": connections, "seen_seconds": seen}


@pytest.fixture
def compare():
    """Compare as of ``now``; what was found before is remembered."""
    since = {}

    def compare(workers, clients, now=0.0):
        found = differences(
            workers,
            clients,
            alias="default",
            database=0,
            own_id="here:1",
            own_app="shop",
            aliases=["sessions"],
            interval=5.0,
            since=since,
            now=now,
        )
        assert all(isinstance(line, Sentence) for line in found), "it can be translated"
        return found

    return compare


def test_a_worker_that_says_what_the_server_sees_is_no_news(compare):
    assert compare([worker(2)], [of(), of()]) == []


def test_a_process_that_does_not_publish_is_named(compare):
    assert compare([worker()], [of(), of("shop:web2:7:default"), of("shop:web2:7:default")]) == [
        "web2:7 (shop) has 2 connections and does not publish."
    ]


def test_a_process_that_has_just_begun_may_still_publish(compare):
    assert compare([], [of(age=6)]) == []


def test_this_very_process_need_not_have_published(compare):
    assert compare([], [of("shop:here:1:default")]) == []


def test_a_worker_whose_connections_the_server_does_not_see_is_named(compare):
    assert compare([worker(2)], []) == ["web1:10 says that it has 2 connections, but the server sees none of them."]
    assert compare([worker(1)], []) == ["web1:10 says that it has 1 connection, but the server sees none of them."]


def test_a_count_that_differs_is_news_when_it_has_lasted_an_interval(compare):
    assert compare([worker(2)], [of()], now=0) == []
    assert compare([worker(2)], [of()], now=4.9) == []
    assert compare([worker(2)], [of()], now=5.1) == ["web1:10 says that it has 2 connections, but the server sees 1."]


def test_a_count_that_was_right_in_between_differs_anew(compare):
    compare([worker(2)], [of()], now=0)
    compare([worker(1)], [of()], now=3)
    assert compare([worker(2)], [of()], now=6) == []


def test_connections_older_than_what_the_worker_last_said_are_news_at_once(compare):
    old, young = of(age=60), of(age=2)
    assert compare([worker(1)], [old, young]) == []
    assert compare([worker(1)], [old, old]) == ["web1:10 says that it has 1 connection, but the server sees 2."]


def test_foreign_clients_are_counted_by_name(compare):
    clients = [of("sidekiq"), of("sidekiq"), of(""), of("blog:h:9:default", database=3)]
    (line,) = compare([], clients)
    assert line.startswith("Other clients: 2 named 'sidekiq', ")
    assert "1 without a name" in line
    assert "1 named 'blog'" in line


def test_another_project_s_process_is_a_foreign_client_although_its_pool_has_the_same_name(compare):
    assert compare([worker()], [of(), of("blog:web2:7:default")]) == ["Other clients: 1 named 'blog'."]


def test_workers_whose_name_begins_otherwise_are_the_project_s_all_the_same(compare):
    tasks = worker(1, "web2:7", app="shop-tasks")
    clients = [of(), of("shop-tasks:web2:7:default"), of("shop-tasks:web3:8:default")]
    assert compare([worker(), tasks], clients) == ["web3:8 (shop-tasks) has 1 connection and does not publish."]


def test_many_foreign_names_stay_one_line(compare):
    (line,) = compare([], [of(f"client-{number}") for number in range(30)])
    assert line.endswith(", and 20 more.")


def test_replicas_and_the_projects_other_pools_are_no_foreigners(compare):
    assert compare([], [of("", flags="S"), of("shop:web1:10:sessions")]) == []


def test_the_servers_lines_are_read():
    lines = b"id=3 addr=127.0.0.1:1 name=shop:web1:10:default age=7 idle=0 flags=N db=0 cmd=get\nid=4 nonsense\n\n"
    shown = Client(NAME, 7, 0, "N", addr="127.0.0.1:1", cmd="get", idle=0)
    assert parse(lines) == parse("txt:" + lines.decode()) == [shown]
    assert parse(b"") == parse(b"\xff\xfe") == []


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        (b"# Clients\r\nconnected_clients:7\r\ncluster_connections:0\r\n", 7),
        ("txt:# Clients\r\nconnected_clients:12", 12),
        (b"# Clients\r\nconnected_clients:many\r\n", None),
        (b"maxclients:9\r\nnot_connected_clients:5\r\n", None),
        (None, None),
        (NoPermissionError("connected_clients:7"), None),
    ],
)
def test_the_number_of_clients_is_read_from_what_info_says(reply, count):
    assert connected_clients(reply) == count


def test_a_list_of_very_many_clients_is_not_worth_what_it_costs_everybody():
    assert too_many(LISTED_AT_MOST) is None
    assert too_many(None).startswith("INFO does not say")
    assert "too many to ask" in too_many(LISTED_AT_MOST + 1)
