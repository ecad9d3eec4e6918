"""Orders reach every worker of a pool within its interval, once, and are nothing but a reset or a bounded pause."""

from __future__ import annotations

import json
import logging
import math
import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.runtime import process as identity
from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.workers import heartbeat, keys, orders, publisher, roster
from tests.support.servers import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workers import INTERVAL, ids, next_round, of, problems

NOW = 1_750_000_000.25


@pytest.fixture
def publishing(server, pool_settings):
    return pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL)


@pytest.fixture
def process(server):
    """Start processes that publish the shared server's pool; they end without a word on stderr."""
    started = []

    def start(**options):
        pool = {"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL}
        started.append(WorkerProcess(pool, **options))
        return started[-1]

    yield start
    words = [each.end() for each in started]
    assert not any(words), words


def in_roster(manager, *workers):
    eventually(lambda: {worker.id for worker in workers} <= ids(manager), 15)


def obeyed(manager, order_id, *workers):
    """Wait until all of them have obeyed."""
    eventually(
        lambda: (
            all(orders.has_obeyed(each, order_id) for each in roster.read(manager).workers)
            and {worker.id for worker in workers} <= ids(manager)
        ),
        15,
    )


# Obeying.


def test_every_worker_of_every_host_resets(publishing, process):
    workers = process(host="web1"), process(host="web2")
    publishing.get_sync_client().ping()
    in_roster(publishing, *workers)
    before = [worker.ask("manager.get_sync_client().client_id()") for worker in workers]
    mine = publishing.get_pool_info()["connections_opened_total"]
    obeyed(publishing, orders.send(publishing, "reset"), *workers)
    after = [worker.ask("manager.get_sync_client().client_id()") for worker in workers]
    assert set(before).isdisjoint(after)
    assert publishing.get_pool_info()["connections_opened_total"] > mine, "this process obeys too"
    assert all(worker.ask("manager.get_sync_client().ping()") for worker in workers)


def test_an_order_is_read_by_the_first_round_that_begins_after_it(publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    rounds = []
    end = publisher.on_tick(lambda alias, said: rounds.append(set(publisher.publication_of(publishing)._seen)))
    try:
        order = orders.send(publishing, "resume")
        before = len(rounds)
        eventually(lambda: any(order in seen for seen in rounds))
    finally:
        end()
    assert [order in seen for seen in rounds[before:]].count(False) <= 1, "the one that was under way"


@pytest.mark.parametrize("refusal", [("maxmemory", "1"), ("min-replicas-to-write", "1")])
def test_a_worker_that_may_not_write_reads_orders_in_each_round_and_holds_its_writes_back(
    own_server, pool_settings, monkeypatch, refusal
):
    monkeypatch.setattr(heartbeat, "_REFUSED_INTERVALS", 600)
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL)
    with own_server.client() as client:
        client.config_set(*refusal)
        manager.get_sync_client().ping()
        eventually(lambda: publisher.publication_of(manager).saying.problem)
        written, read = own_server.calls("set"), own_server.calls("lrange")
        for _ in range(3):
            next_round(manager)
        assert own_server.calls("lrange") > read
        assert own_server.calls("set") == written
        client.config_set(refusal[0], "0")


def test_a_worker_that_was_refused_obeys_at_once_and_says_so(own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(heartbeat, "_REFUSED_INTERVALS", 600)
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL)
    with own_server.client() as client:
        client.config_set("maxmemory", "1")
        manager.get_sync_client().ping()
        eventually(lambda: publisher.publication_of(manager).saying.problem)
        client.config_set("maxmemory", "0")
    order = orders.send(manager, "pause", 30)
    eventually(lambda: manager.get_pool_info()["paused"])
    eventually(lambda: [each["obeyed"] for each in roster.read(manager).workers] == [order])
    eventually(lambda: problems(manager) == [])
    manager.resume()


def test_a_worker_that_may_not_read_orders_is_published_all_the_same(own_server, pool_settings, monkeypatch, caplog):
    monkeypatch.setattr(heartbeat, "_REFUSED_INTERVALS", 600)
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+@all", "-lrange")
        manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="bob", PASSWORD="secret")
        manager.get_sync_client().ping()
        eventually(lambda: publisher.publication_of(manager).hearing.problem)
        key = keys.worker("redispool", "default", identity.worker_id())
        first = client.get(key)
        eventually(lambda: client.get(key) not in (None, first))
    assert roster.read(manager).problem.startswith("This process hears of no orders: ")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "redispool_app.workers"]
    assert "this worker hears of no orders: " in said
    assert "'lrange'" in said


def test_all_workers_pause_for_the_time_that_is_left_and_resume(publishing, process):
    worker = process()
    publishing.get_sync_client().ping()
    in_roster(publishing, worker)
    obeyed(publishing, orders.send(publishing, "pause", 20), worker)
    assert of(publishing, worker.id)["paused"]
    assert 10 < worker.ask("manager.get_pool_info()['paused_for']") < 20
    obeyed(publishing, orders.send(publishing, "resume"), worker)
    assert not of(publishing, worker.id)["paused"]
    assert worker.ask("manager.get_sync_client().ping()")


def test_a_paused_worker_goes_on_publishing(publishing):
    publishing.get_sync_client().ping()
    publishing.pause(20)
    eventually(lambda: (publisher.recent("default") or [{"paused": False}])[-1]["paused"])
    for _ in range(4):
        next_round(publishing)
    assert problems(publishing) == []
    publishing.resume()


def test_orders_that_come_together_are_obeyed_in_their_order(publishing):
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    orders.send(publishing, "pause", 100)
    last = orders.send(publishing, "resume")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == last)
    assert not publishing.get_pool_info()["paused"]


def test_an_order_is_obeyed_once(publishing, caplog):
    caplog.set_level(logging.INFO, "redispool_app.workers")
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    order = orders.send(publishing, "reset")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)
    for _ in range(3):
        next_round(publishing)
    assert len([record for record in caplog.records if "obeying the order to reset" in record.getMessage()]) == 1


def test_an_order_for_which_no_thread_can_be_started_is_obeyed_by_a_later_round(publishing, monkeypatch):
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    refused, start = [], threading.Thread.start

    def start_the_second_time(thread):
        if thread.name == "redispool-orders-default" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_the_second_time)
    order = orders.send(publishing, "reset")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)
    assert refused


def test_a_process_that_started_after_an_order_does_not_obey_it(server, publishing, process):
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    order = orders.send(publishing, "pause", 200)
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)
    worker = process()
    in_roster(publishing, worker)
    time.sleep(INTERVAL * 3)
    assert (of(publishing, worker.id)["obeyed"], of(publishing, worker.id)["paused"]) == (None, False)
    publishing.resume()


def test_only_the_alias_that_is_meant_obeys(server, pools):
    from redispool_app.redis_pool import RedisConnectionManager

    pool = {"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": INTERVAL}
    pools(default=pool, sessions=pool)
    managers = [RedisConnectionManager(alias) for alias in ("default", "sessions")]
    for manager in managers:
        manager.get_sync_client().ping()
    eventually(lambda: all(ids(manager) for manager in managers))
    order = orders.send(managers[0], "reset")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)
    next_round(managers[1])
    assert publisher.recent("sessions")[-1]["obeyed"] is None


def test_a_reset_that_finds_redis_gone_is_obeyed_all_the_same(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL)
    manager.get_sync_client().ping()
    eventually(lambda: ids(manager))
    monkeypatch.setattr(manager, "reset_sync", lambda: (_ for _ in ()).throw(RedisUnavailable("gone")))
    order = orders.send(manager, "reset")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)


# Sending.


@pytest.mark.parametrize(("action", "seconds"), [("pause", 0), ("pause", -1), ("pause", 301), ("pause", math.nan)])
def test_a_pause_that_cannot_be_is_refused(publishing, action, seconds):
    with pytest.raises(ValueError, match="A pause of"):
        orders.send(publishing, action, seconds)


def test_an_action_that_does_not_exist_is_refused(publishing):
    with pytest.raises(ValueError, match="use reset, pause, resume"):
        orders.send(publishing, "shutdown")


def test_what_the_client_raises_is_raised(own_server, pool_settings):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL)
    own_server.kill()
    with pytest.raises(RedisUnavailable, match="start Redis"):
        orders.send(manager, "reset")
    manager.close_sync()
    with pytest.raises(PoolClosed):
        orders.send(manager, "reset")


def test_who_may_not_write_is_told(own_server, pool_settings):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+ping", "+client", "+time")
    manager = pool_settings(own_server.url, USERNAME="bob", PASSWORD="secret")
    with pytest.raises(redis_exceptions.NoPermissionError):
        orders.send(manager, "reset")


def test_orders_can_be_sent_where_this_process_does_not_publish(server, pool_settings):
    manager = pool_settings(server.url)
    first, second = orders.send(manager, "reset"), orders.send(manager, "resume")
    assert first < second
    with server.client() as client:
        key = keys.orders("redispool", "default")
        assert client.llen(key) == 2
        assert client.pttl(key) > 0


def test_only_the_last_orders_are_kept(server, pool_settings):
    manager = pool_settings(server.url)
    for _ in range(orders.MOST + 5):
        last = orders.send(manager, "resume")
    with server.client() as client:
        stored = client.lrange(keys.orders("redispool", "default"), 0, -1)
    assert len(stored) == orders.MOST
    assert json.loads(stored[0])["id"] == last


def test_whoever_obeyed_a_later_order_has_obeyed_an_earlier_one():
    first, second = "0000000000000001-aaaaaaaa", "0000000000000002-00000000"
    assert orders.has_obeyed({"obeyed": first}, first)
    assert orders.has_obeyed({"obeyed": second}, first)
    assert not orders.has_obeyed({"obeyed": first}, second)
    assert not orders.has_obeyed({"obeyed": None}, first)


# What an order may contain.


def order_at(moment=NOW, action="reset", seconds=None, **said):
    return json.dumps(
        {"id": f"{round(moment * 1e6):016d}-0123abcd", "action": action, "at": moment, "seconds": seconds, **said}
    )


@pytest.mark.parametrize(
    "stored",
    [
        None,
        7,
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"x" * 5000,
        "[" * 900,
        order_at(action="shutdown"),
        order_at(action=["reset"]),
        order_at(action="pause"),
        order_at(action="pause", seconds=1e9),
        order_at(action="pause", seconds=-1),
        order_at(action="pause", seconds=True),
        order_at(action="pause", seconds=math.nan),
        order_at(action="pause", seconds="30"),
        order_at(at="now"),
        order_at(at=math.inf),
        order_at(at=NOW + 1),
        order_at(id="9999999999999999-ffffffff"),
        order_at(id=5),
        order_at(id="x" * 25),
    ],
)
def test_what_could_not_have_been_sent_is_no_order(stored):
    assert orders.load(stored) is None


def test_what_is_sent_can_be_read():
    order = orders.Order(f"{round(NOW * 1e6):016d}-0123abcd", "pause", NOW, 30.0)
    assert orders.load(order.dump()) == order


def test_orders_are_due_in_their_order_if_they_are_new_and_meant_for_this_process():
    stored = [order_at(NOW), order_at(NOW - 1), order_at(NOW - 10), order_at(NOW - 100), order_at(NOW + 60), b"junk"]

    def due(seen=(), since=NOW - 1000, life=60.0):
        return [NOW - order.at for order in orders.due(stored, set(seen), since, NOW, life)]

    assert due() == [10, 1, 0]
    assert due(since=NOW - 5) == [1, 0], "sent before this process started"
    assert due(life=500) == [100, 10, 1, 0]
    assert due(seen=[json.loads(stored[0])["id"]]) == [10, 1]


def test_a_pause_ends_for_all_at_the_same_time():
    order = orders.Order("x", "pause", NOW, 30.0)
    assert orders.left_of(order, NOW + 4) == 26
    assert orders.left_of(order, NOW + 40) < 0
    assert orders.left_of(order, NOW - 1) == 30


def test_a_list_that_somebody_else_filled_harms_nobody(server, publishing, caplog):
    publishing.get_sync_client().ping()
    eventually(lambda: ids(publishing))
    with server.client() as client:
        key = keys.orders("redispool", "default")
        client.lpush(key, b"junk", b"{}", "[" * 900, json.dumps({"action": "reset"}))
        next_round(publishing)
        client.delete(key)
        client.set(key, "not a list")
        next_round(publishing)
        eventually(lambda: [record for record in caplog.records if "hears of no orders" in record.getMessage()])
        client.delete(key)
    assert publishing.get_pool_info()["state"] == "healthy"
    assert not [record for record in caplog.records if record.exc_info]
    eventually(lambda: problems(publishing) == [])
