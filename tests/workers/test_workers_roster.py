"""Every worker of every host is in the roster while it lives, with what the server sees of it."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from redispool_app.engine.runtime import process as identity
from redispool_app.translation import Sentence
from redispool_app.workers import keys, publisher, roster, snapshot
from tests.support.servers import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workers import INTERVAL, ids, index_of, of

ME = identity.worker_id()
ALONE = "Only this process is shown."


@pytest.fixture
def publishing(server, pool_settings):
    return pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL)


@pytest.fixture
def process(server):
    """Start processes that use the shared server's pool; they end without a word on stderr."""
    started = []

    def start(host="web1", program="uvicorn", **pool):
        pool = {"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL, **pool}
        started.append(WorkerProcess(pool, host, program))
        return started[-1]

    yield start
    words = [each.end() for each in started]
    assert not any(words), words


def test_workers_of_two_hosts_are_in_it_by_host_and_process(publishing, process):
    second, first = process(host="web2", program="celery"), process(host="web1")
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing) == {ME, first.id, second.id}, 15)
    found = roster.read(publishing)
    assert found.problem is None
    others = [worker for worker in found.workers if worker["id"] != ME]
    assert [(worker["id"], worker["role"]) for worker in others] == [
        (first.id, "server: uvicorn"),
        (second.id, "celery"),
    ]
    assert all(worker["connections_open"] == 1 for worker in others)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_a_worker_that_is_killed_vanishes_by_itself_and_from_the_index(server, publishing, process):
    worker = process()
    publishing.get_sync_client().ping()
    eventually(lambda: worker.id in ids(publishing), 15)
    worker.kill()
    eventually(lambda: worker.id not in ids(publishing), INTERVAL * keys.LIFE_IN_INTERVALS + 3)
    assert worker.id not in index_of(server)


def test_a_worker_that_stands_still_ages_by_the_servers_clock(publishing, process):
    import signal

    worker = process(PUBLISH_INTERVAL=1)
    publishing.get_sync_client().ping()
    eventually(lambda: worker.id in ids(publishing), 15)
    worker.process.send_signal(signal.SIGSTOP)
    first = of(publishing, worker.id)
    time.sleep(0.4)
    second = of(publishing, worker.id)
    assert second["at"] == first["at"]
    assert 0.3 < second["seen_seconds"] - first["seen_seconds"] < 1.5


def test_ages_do_not_depend_on_anybodys_clock(publishing, monkeypatch):
    wrong = time.time() + 10_000
    monkeypatch.setattr(snapshot.time, "time", lambda: wrong)
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    assert 0 <= of(publishing, ME)["seen_seconds"] < INTERVAL * keys.LIFE_IN_INTERVALS


def test_reading_looks_through_no_keys_but_its_own(server, publishing):
    with server.client() as client:
        client.mset({f"somebody:{number}": 1 for number in range(2000)})
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    assert server.calls("scan") == server.calls("keys") == 0


def test_reading_does_not_need_a_connection_of_its_own(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    assert server.connections() == 1


def test_an_index_that_names_the_dead_is_cleaned_as_it_is_read(server, publishing):
    publishing.get_sync_client().ping()
    with server.client() as client:
        client.sadd(keys.index("redispool", "default"), "gone:1", b"\xff\xfe:2")
    eventually(lambda: ids(publishing) == {ME})
    assert index_of(server) == {ME}


def test_nobody_can_speak_for_another_or_in_a_wrong_shape(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    said = snapshot.take(publishing)
    forged = {
        "evil:1": snapshot.dump(said),  # says that it is somebody else
        "evil:2": b"{}",
        "evil:3": b"\xff",
        "evil:4": json.dumps({**said, "id": "evil:4", "alias": "sessions"}),
        "evil:5": json.dumps({**said, "id": "evil:5", "pid": "5"}),
    }
    with server.client() as client:
        for worker_id, stored in forged.items():
            client.sadd(keys.index("redispool", "default"), worker_id)
            client.set(keys.worker("redispool", "default", worker_id), stored)
    assert ids(publishing) == {ME}


def test_a_roster_of_thousands_is_cut_and_says_so(server, publishing, monkeypatch):
    monkeypatch.setattr(roster, "_MOST", 2)
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    with server.client() as client:
        client.sadd(keys.index("redispool", "default"), "~:1", "~:2")
    problem = roster.read(publishing).problem
    assert problem == "Only 2 of 3 workers are shown."
    assert isinstance(problem, Sentence)


# Problems.


def alone(found, words):
    assert [worker["id"] for worker in found.workers] == [ME]
    assert found.workers[0]["seen_seconds"] == 0
    assert words in found.problem
    assert isinstance(found.problem, Sentence), "it can be translated"
    assert "\n" not in found.problem
    assert found.differences == []


def test_where_publishing_is_off_only_this_process_is_shown_and_redis_is_asked_nothing(server, manager):
    before = server.connections()
    alone(roster.read(manager), f"Publishing is switched off (PUBLISH_INTERVAL). {ALONE}")
    assert server.connections() == before


def test_during_an_outage_only_this_process_is_shown_at_once(own_server, pool_settings):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL)
    manager.get_sync_client().ping()
    own_server.kill()
    alone(roster.read(manager), "start Redis")
    started = time.monotonic()
    found = roster.read(manager)
    assert time.monotonic() - started < 0.5
    alone(found, ALONE)
    assert found.workers[0]["state"] == "unhealthy"


def test_a_server_that_hangs_is_waited_for_no_longer_than_for_a_command(own_server, pool_settings):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=5, SOCKET_TIMEOUT=0.3)
    manager.get_sync_client().ping()
    own_server.pause()
    started = time.monotonic()
    alone(roster.read(manager), "does not answer in time")
    assert time.monotonic() - started < 2


def test_a_user_without_permission_sees_this_process_and_why(own_server, pool_settings):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+ping", "+client|setinfo")
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="bob", PASSWORD="secret")
    alone(roster.read(manager), "correct its ACL")
    assert manager.get_pool_info()["is_healthy"]


def test_a_process_that_cannot_publish_sees_the_others_and_says_so(own_server, pool_settings):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+@all", "-set")
    other = WorkerProcess({"CONNECTION_URL": own_server.url, "PUBLISH_INTERVAL": INTERVAL})
    try:
        manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="bob", PASSWORD="secret")
        manager.get_sync_client().ping()
        eventually(lambda: publisher.publication_of(manager).saying.problem)
        eventually(lambda: ids(manager) == {ME, other.id}, 15)
        assert roster.read(manager).problem.startswith("This process cannot be published: ")
    finally:
        other.kill()


def test_a_closed_or_misconfigured_pool_is_told_as_such(publishing, settings):
    publishing.get_sync_client().ping()
    publishing.close_sync()
    alone(roster.read(publishing), "initialize()")
    publishing.reload_settings()
    settings.REDIS_POOL = {"SOCKET_TIMOUT": 1}
    found = roster.read(publishing)
    assert found.workers[0]["state"] == "misconfigured"


# Against CLIENT LIST.


def test_what_the_server_sees_and_what_the_workers_say_agree(publishing, process):
    worker = process()
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing) == {ME, worker.id}, 15)
    eventually(lambda: roster.read(publishing).differences == [])


def test_foreign_clients_are_named(server, publishing):
    publishing.get_sync_client().ping()
    with server.client() as client:
        client.client_setname("sidekiq")
        assert "Other clients: 1 named 'sidekiq'." in roster.read(publishing).differences


def test_another_project_s_connections_are_foreign_although_they_name_the_same_pool(server, pool_settings):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL, CLIENT_NAME="shop", PUBLISH_PREFIX="shop")
    manager.get_sync_client().ping()
    eventually(lambda: ME in ids(manager))
    with server.client() as client:
        client.client_setname("blog:web2:7:default")
        assert roster.read(manager).differences == ["Other clients: 1 named 'blog'."]


def test_a_process_that_does_not_publish_is_found_by_its_connections(publishing, process):
    silent = process(host="web7", PUBLISH_INTERVAL=None)
    publishing.get_sync_client().ping()
    wanted = f"{silent.id} (tests) has 1 connection and does not publish."
    eventually(lambda: wanted in roster.read(publishing).differences, 10)


def test_a_worker_whose_connections_are_elsewhere_is_found(server, publishing):
    publishing.get_sync_client().ping()
    said = {**snapshot.take(publishing), "id": "web9:1", "host": "web9", "pid": 1, "connections_open": 4}
    with server.client() as client:
        client.sadd(keys.index("redispool", "default"), "web9:1")
        client.set(keys.worker("redispool", "default", "web9:1"), snapshot.dump(said), px=5000)
    found = roster.read(publishing).differences
    assert "web9:1 says that it has 4 connections, but the server sees none of them." in found


@pytest.mark.parametrize("lacking", ["client|list", "info"])
def test_who_may_not_see_or_count_the_clients_still_sees_the_workers(own_server, pool_settings, lacking):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+@all", f"-{lacking}")
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="bob", PASSWORD="secret")
    manager.get_sync_client().ping()
    eventually(lambda: ME in ids(manager))
    (difference,) = roster.read(manager).differences
    assert "cannot be compared" in difference
    assert roster.read(manager).problem is None


def test_many_readers_at_once_see_the_same(publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: ME in ids(publishing))
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(ids(publishing))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [{ME}] * 8
    assert socket.gethostname()
