"""Every process publishes what its pools do, on a connection that it has, and harms nothing when it cannot."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from redispool_app import testing
from redispool_app.engine.runtime import process
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.workers import keys, publisher, snapshot
from tests.engine.runtime.test_forks import in_child
from tests.support.servers import eventually
from tests.support.workers import INTERVAL, index_of, next_round, problems, published

ROOT = Path(__file__).resolve().parents[2]
ME = process.worker_id()


def publishing_thread():
    return [thread for thread in threading.enumerate() if thread.name == "redispool-publisher"]


@pytest.fixture
def publishing(server, pool_settings):
    """The global manager, publishing on the shared server."""
    return pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL)


@pytest.fixture
def publishing_on_own(own_server, pool_settings):
    """The same on a server of the test's own."""
    return pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, RETRY_BACKOFF_CAP=0.1)


def complaints(caplog):
    return [
        record
        for record in caplog.records
        if record.name == "redispool_app.workers" and record.levelno >= logging.WARNING
    ]


# What is published, and for how long.


def test_a_worker_is_published_soon_after_its_first_use(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    said = published(server, ME)
    assert (said["pid"], said["state"], said["interval"]) == (os.getpid(), "healthy", INTERVAL)
    assert index_of(server) == {ME}


def test_an_idle_worker_stays_published(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    first = published(server, ME)["at"]
    time.sleep(INTERVAL * keys.LIFE_IN_INTERVALS * 1.5)
    assert published(server, ME)["at"] > first


def test_every_key_ends_by_itself_and_all_of_a_pool_share_a_cluster_slot(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    with server.client() as client:
        names = client.keys()
        assert len(names) == 2
        for name in names:
            assert name.startswith(b"{redispool:default}:")
            assert client.pttl(name) > 0
        assert client.pttl(keys.worker("redispool", "default", ME)) <= INTERVAL * 3 * 1000


def test_the_prefix_is_the_projects_choice(server, pool_settings):
    pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL, PUBLISH_PREFIX="shop").get_sync_client().ping()
    eventually(lambda: index_of(server, prefix="shop") == {ME})


def test_publishing_is_no_traffic_of_the_site(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    next_round(publishing)
    next_round(publishing)
    assert published(server, ME)["ops_per_second"] == 0


def test_each_pool_of_a_process_is_published_by_the_one_thread(server, pools):
    pools(
        default={"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL},
        sessions={"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL},
    )
    for alias in ("default", "sessions"):
        RedisConnectionManager(alias).get_sync_client().ping()
    for alias in ("default", "sessions"):
        eventually(lambda alias=alias: published(server, ME, alias))
    assert len(publishing_thread()) == 1


# On which connection.


def test_it_travels_on_the_connection_that_the_threads_share(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    assert server.connections() == 1


async def test_it_travels_on_an_event_loops_connection_where_threads_have_none(server, publishing):
    await (await publishing.get_client()).ping()
    await asyncio.to_thread(eventually, lambda: published(server, ME))
    assert server.connections() == 1
    assert publishing._pool_set._sync is None


async def test_a_blocked_event_loop_leaves_it_to_the_threads_connection(server, pool_settings):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL, SOCKET_TIMEOUT=0.2)
    await (await manager.get_client()).ping()
    eventually(lambda: published(server, ME))  # blocks this loop
    assert manager._pool_set._sync is not None
    assert published(server, ME)["loops"] == 1


def test_it_makes_the_threads_connection_where_there_is_none(server, publishing):
    async def use():
        await (await publishing.get_client()).ping()

    asyncio.run(use())
    eventually(lambda: published(server, ME))
    assert publishing.get_pool_info()["connections_open"] == server.connections() == 1


def test_it_borrows_the_only_connection_of_a_pool_that_may_have_one_and_waits_for_nobody(server, pool_settings):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL, MAX_CONNECTIONS=1)
    client = manager.get_sync_client()
    client.ping()
    eventually(lambda: published(server, ME))
    assert server.connections() == 1
    with client.pubsub() as subscription:
        subscription.subscribe("news")  # holds it
        next_round(manager)
        next_round(manager)
        last = published(server, ME)
        next_round(manager)
        assert published(server, ME) == last
    eventually(lambda: published(server, ME) not in (None, last))
    assert manager.get_pool_info()["is_healthy"]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_it_is_the_same_in_every_protocol_and_for_clients_that_decode(server, pool_settings, protocol, decode):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL, PROTOCOL=protocol, DECODE_RESPONSES=decode)
    manager.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    manager.close_sync()
    manager.reload_settings()

    async def use():
        await (await manager.get_client()).ping()
        with server.client() as client:
            client.flushall()
        await asyncio.to_thread(eventually, lambda: published(server, ME))

    asyncio.run(use())
    assert problems(manager) == []


# When it must not.


def test_nothing_is_published_while_the_pool_is_closed(server, publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    publishing.close_sync()
    eventually(lambda: published(server, ME) is None)
    next_round(publishing)
    assert server.connections() == 0
    publishing.initialize_sync()
    eventually(lambda: published(server, ME))


def test_no_thread_runs_where_publishing_is_switched_off(server, manager):
    manager.get_sync_client().ping()
    assert publisher.publication_of(manager) is None


def test_a_process_whose_settings_are_read_again_begins_anew(server, publishing, pool_settings):
    publishing.get_sync_client().ping()
    eventually(lambda: published(server, ME))
    pool_settings(server.url)
    eventually(lambda: published(server, ME) is None)
    publishing.get_sync_client().ping()
    eventually(lambda: publisher.publication_of(publishing) is None)


def test_a_server_in_memory_has_no_workers(settings):
    settings.REDIS_POOL = {"PUBLISH_INTERVAL": INTERVAL}
    with testing.override() as fake:
        fake.manager.get_sync_client().ping()
        assert publisher.publication_of(fake.manager) is None


def test_a_command_that_is_over_within_a_second_publishes_nothing(server, tmp_path):
    (tmp_path / "brief_settings.py").write_text(
        f"from tests.settings import *\nREDIS_POOL = {{'CONNECTION_URL': {server.url!r}, 'PUBLISH_INTERVAL': 0.1}}\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-W", "error", "-m", "django", "redis_health", "--settings=brief_settings"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    assert index_of(server) == set()


# When it cannot.


def test_a_user_without_permission_is_told_once_and_the_pool_stays_as_it_is(own_server, pool_settings, caplog):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+ping", "+client")
        manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="bob", PASSWORD="secret")
        manager.get_sync_client().ping()
        eventually(lambda: complaints(caplog))
        for _ in range(3):
            next_round(manager)
        (complaint,) = complaints(caplog)
        assert "cannot be published" in complaint.getMessage()
        assert "correct its ACL" in complaint.getMessage()
        assert complaint.exc_info is None
        info = manager.get_pool_info()
        assert (info["state"], info["last_error"], info["errors_total"]) == ("healthy", None, 0)
        client.execute_command("ACL", "SETUSER", "bob", "+@all")
    eventually(lambda: published(own_server, ME))
    eventually(lambda: problems(manager) == [])


@pytest.mark.parametrize("face", ["threads", "loop"])
def test_a_server_that_takes_no_writes_is_no_news_for_the_pool(publishing_on_own, own_server, caplog, face):
    manager = publishing_on_own
    with own_server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        client.config_set("replica-serve-stale-data", "yes")

        def look():
            eventually(lambda: complaints(caplog))
            next_round(manager)
            assert "read-only replica" in complaints(caplog)[0].getMessage()
            info = manager.get_pool_info()
            assert (info["state"], info["last_error"], len(complaints(caplog))) == ("healthy", None, 1)

        async def use():
            await (await manager.get_client()).ping()
            await asyncio.to_thread(look)

        if face == "loop":
            asyncio.run(use())
        else:
            manager.get_sync_client().ping()
            look()
        client.execute_command("REPLICAOF", "NO", "ONE")
    eventually(lambda: published(own_server, ME))


def test_a_server_without_memory_is_no_news_for_the_pool(publishing_on_own, own_server, caplog):
    manager = publishing_on_own
    with own_server.client() as client:
        client.config_set("maxmemory", "1")
        manager.get_sync_client().ping()
        eventually(lambda: complaints(caplog))
        assert "out of memory" in complaints(caplog)[0].getMessage()
        assert manager.get_pool_info()["last_error"] is None
        client.config_set("maxmemory", "0")
    eventually(lambda: published(own_server, ME))


def test_a_server_that_lacks_a_command_is_no_news_for_the_pool(pool_settings, caplog):
    from tests.support.servers import RedisServer

    server = RedisServer(rename_command='TIME ""').start()
    try:
        manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL)
        manager.get_sync_client().ping()
        eventually(lambda: complaints(caplog))
        next_round(manager)
        assert len(complaints(caplog)) == 1
        assert (manager.get_pool_info()["state"], manager.get_pool_info()["last_error"]) == ("healthy", None)
    finally:
        server.stop()


def test_an_outage_that_publishing_meets_first_is_not_its_to_declare(publishing_on_own, own_server, caplog):
    manager = publishing_on_own
    manager.get_sync_client().ping()
    eventually(lambda: published(own_server, ME))
    own_server.kill()
    for _ in range(4):
        next_round(manager)
    assert len(complaints(caplog)) <= 1
    assert not [record for record in caplog.records if record.exc_info]
    info = manager.get_pool_info()
    assert (info["state"], info["errors_total"], info["last_error"]) == ("healthy", 0, None)
    own_server.start()
    eventually(lambda: published(own_server, ME))
    assert manager.get_sync_client().ping()


def test_during_a_confirmed_outage_nothing_is_tried_and_afterwards_it_goes_on(publishing_on_own, own_server, caplog):
    manager = publishing_on_own
    manager.get_sync_client().ping()
    eventually(lambda: published(own_server, ME))
    own_server.kill()
    manager._health_check_sync()
    assert manager.is_down
    caplog.clear()
    for _ in range(3):
        next_round(manager)
    assert complaints(caplog) == []
    assert publisher.recent("default")[-1]["state"] == "unhealthy"
    own_server.start()
    eventually(lambda: published(own_server, ME))


def test_a_server_that_hangs_delays_no_other_pool_for_long(own_server, server, pools):
    slow = {"CONNECTION_URL": own_server.url, "PUBLISH_INTERVAL": INTERVAL, "SOCKET_TIMEOUT": 0.3}
    pools(default={"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL}, slow=slow)
    for alias in ("default", "slow"):
        RedisConnectionManager(alias).get_sync_client().ping()
    eventually(lambda: published(server, ME))
    own_server.pause()
    time.sleep(0.5)
    first = published(server, ME)
    eventually(lambda: published(server, ME) not in (None, first))
    own_server.resume()


def test_what_a_callback_raises_is_logged_once_and_stops_nothing(publishing, caplog):
    def fail(alias, said):
        raise LookupError("wrong")

    end = publisher.on_tick(fail)
    try:
        publishing.get_sync_client().ping()
        eventually(lambda: complaints(caplog))
        next_round(publishing)
    finally:
        end()
    assert ["LookupError" in record.getMessage() for record in complaints(caplog)] == [True]


# For this process itself.


def test_recent_snapshots_are_kept_in_order(publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: len(publisher.recent("default")) >= 3)
    moments = [said["at"] for said in publisher.recent("default")]
    assert moments == sorted(moments)


def test_only_the_last_ten_minutes_are_kept(publishing, monkeypatch):
    now = time.time()
    publishing.get_sync_client().ping()
    publication = publisher.publication_of(publishing)
    monkeypatch.setattr(snapshot.time, "time", lambda: now - 700)
    said = snapshot.take(publishing)
    monkeypatch.undo()
    publication._recent.appendleft(said)
    next_round(publishing)
    assert said not in publisher.recent("default")


def test_where_publishing_is_off_snapshots_are_kept_from_the_first_look_on(server, manager, monkeypatch):
    monkeypatch.setattr(publisher, "WITHOUT_PUBLISHING", 0.05)
    assert publisher.recent("default") == []
    manager.get_sync_client().ping()
    publisher.recent("default")
    eventually(lambda: len(publisher.recent("default")) >= 2)
    assert index_of(server) == set()


def test_each_snapshot_is_told_to_whoever_listens(publishing):
    told = []
    end = publisher.on_tick(lambda alias, said: told.append((alias, said["id"])))
    publishing.get_sync_client().ping()
    eventually(lambda: told)
    end()
    end()
    assert told[0] == ("default", ME)


# Forks.


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["manager", "kept client"])
def test_a_forked_child_publishes_itself_beside_its_parent(server, publishing, way, monkeypatch):
    monkeypatch.setattr(publisher, "FIRST_AFTER", 0.05)
    kept = publishing.get_sync_client()
    kept.ping()
    eventually(lambda: published(server, ME))

    def work():
        assert not publishing_thread()
        assert publisher._publisher.find("default") is None
        (publishing.get_sync_client() if way == "manager" else kept).ping()
        me = process.worker_id()
        eventually(lambda: published(server, me))
        return published(server, me)["pid"]

    assert int(in_child(work)) != os.getpid()
    first = published(server, ME)
    eventually(lambda: published(server, ME) not in (None, first))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_publishes_itself(server, publishing, monkeypatch):
    monkeypatch.setattr(publisher, "FIRST_AFTER", 0.05)
    publishing.get_sync_client().ping()

    def work():
        publishing.get_sync_client().ping()
        eventually(lambda: published(server, process.worker_id()))

    in_child(work)


def test_greenlets_have_their_worker_published_too(server):
    pytest.importorskip("gevent")
    program = f"""
from gevent import monkey
monkey.patch_all()
import os, time
import django
from django.conf import settings
pool = {{"CONNECTION_URL": "{server.url}", "PUBLISH_INTERVAL": 0.1}}
settings.configure(REDIS_POOL=pool, INSTALLED_APPS=["redispool_app"])
django.setup()
from redispool_app.redis_pool import redis_connection_manager as manager
from redispool_app.workers import roster
client = manager.get_sync_client()
deadline = time.monotonic() + 20
while os.getpid() not in [each["pid"] for each in roster.read(manager).workers if each["seen_seconds"]]:
    assert time.monotonic() < deadline, roster.read(manager)
    client.ping()
    time.sleep(0.05)
print("published")
"""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning:gevent", "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip()) == (0, "published"), ended.stderr[-3000:]
