"""Signals tell a project what happens to its pools, and never delay a command."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from redispool_app import signals
from redispool_app.exceptions import PoolQueueFull, PoolTimeout, RedisUnavailable
from redispool_app.redis_pool import RedisConnectionManager

from .engine.runtime.test_forks import in_child
from .support.servers import eventually, free_port

ALL = {
    "pool_created": signals.pool_created,
    "pool_closed": signals.pool_closed,
    "health_changed": signals.health_changed,
    "pool_exhausted": signals.pool_exhausted,
}


@pytest.fixture
def heard():
    """What receivers of all signals hear: ``(name, arguments)``."""
    events, receivers = [], {}
    for name, signal in ALL.items():

        def receive(signal, name=name, **arguments):
            events.append((name, arguments))

        receivers[name] = receive
        signal.connect(receive)
    yield events
    for name, signal in ALL.items():
        signal.disconnect(receivers[name])


@pytest.fixture
def connect():
    """Connect receivers for the length of a test."""
    connected = []

    def connect(signal, receiver, **options):
        signal.connect(receiver, **options)
        connected.append((signal, receiver, options.get("sender")))

    yield connect
    for signal, receiver, sender in connected:
        signal.disconnect(receiver, sender=sender)


def names(heard):
    return [name for name, _ in heard]


def test_the_life_of_a_pool_is_told_in_order(manager, heard):
    manager.get_sync_client().ping()
    manager.close_sync()
    eventually(lambda: len(heard) == 4)
    manager.initialize_sync()
    manager.reload_settings()
    eventually(lambda: len(heard) == 8)
    assert names(heard) == ["pool_created", "health_changed", "health_changed", "pool_closed"] * 2
    assert [arguments["state"] for name, arguments in heard if name == "health_changed"] == ["healthy", "unknown"] * 2
    assert all((arguments["sender"], arguments["alias"]) == (manager, "default") for _, arguments in heard)
    assert heard[0][1]["url"] == manager.get_pool_info()["url"]


def test_an_outage_is_told_with_its_cause(pool_settings, heard):
    manager = pool_settings(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    eventually(lambda: "health_changed" in names(heard))
    told = dict(heard)["health_changed"]
    del told["sender"]
    assert told == {"alias": "default", **manager.health_history()[0]}
    assert told["fault_kind"] == "refused"


def test_an_exhausted_pool_is_told_once_a_second_and_counted_each_time(server, pool_settings, heard, caplog):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2, TIMEOUT=0.01, MAX_WAITING=1)
    client = manager.get_sync_client()
    with client.pipeline() as holder:
        holder.watch("a")
        for _ in range(5):
            with pytest.raises(PoolTimeout):
                client.client_getname()
    assert manager.get_pool_info()["exhausted_total"] == 5
    eventually(lambda: "pool_exhausted" in names(heard))
    told = [arguments for name, arguments in heard if name == "pool_exhausted"]
    assert [each["exhausted_total"] for each in told] == [1]
    assert "raise MAX_CONNECTIONS" in told[0]["reason"]
    warned = [record for record in caplog.records if record.name == "redispool_app.pool"]
    assert [record.exhausted_total for record in warned] == [1]
    manager._built().monitor._next_exhausted = 0.0
    manager._built().monitor.exhausted(PoolQueueFull("full"))
    eventually(lambda: names(heard).count("pool_exhausted") == 2)
    assert heard[-1][1]["exhausted_total"] == 6


def test_a_receiver_may_ask_for_one_pool_only(pools, server, connect):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    heard = []

    def receive(alias, **arguments):
        heard.append(alias)

    connect(signals.pool_created, receive, sender=RedisConnectionManager("sessions"))
    RedisConnectionManager("default").get_sync_client()
    RedisConnectionManager("sessions").get_sync_client()
    eventually(lambda: heard == ["sessions"])


def test_a_receiver_that_takes_its_time_delays_no_command(manager, connect):
    release, begun = threading.Event(), threading.Event()

    def receive(**arguments):
        begun.set()
        release.wait(10)

    connect(signals.health_changed, receive)
    started = time.monotonic()
    assert manager.get_sync_client().ping()
    assert begun.wait(5)
    assert manager.get_sync_client().ping()
    assert time.monotonic() - started < 5
    release.set()


def test_a_receiver_may_use_the_pool_itself_and_async_ones_are_heard(manager, connect):
    heard = []

    def receive(sender, **arguments):
        heard.append(sender.get_sync_client().ping())

    async def receive_async(sender, **arguments):
        heard.append(await (await sender.get_client()).ping())

    connect(signals.health_changed, receive)
    connect(signals.health_changed, receive_async)
    manager.get_sync_client()
    eventually(lambda: heard == [True, True])


def test_a_receiver_that_fails_is_logged_once_and_harms_no_other(manager, connect, caplog):
    heard = []

    def fail(**arguments):
        raise ValueError("mine")

    def receive(**arguments):
        heard.append(arguments)

    connect(signals.pool_created, fail)
    connect(signals.pool_created, receive)
    manager.get_sync_client()
    eventually(lambda: heard)
    eventually(lambda: [record for record in caplog.records if record.exc_info])
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.name == "django.dispatch"


def test_an_event_that_cannot_be_sent_is_an_error_that_names_its_pool_and_ends_nothing(connect, caplog, monkeypatch):
    heard, dispatcher = [], signals.Dispatcher()
    connect(signals.pool_created, lambda **arguments: None)
    connect(signals.pool_closed, lambda **arguments: heard.append(arguments["alias"]))

    def fail(sender, **arguments):
        raise LookupError("no such receiver")

    monkeypatch.setattr(signals.pool_created, "send_robust", fail)
    dispatcher.announce(signals.pool_created, None, alias="sessions")
    dispatcher.announce(signals.pool_closed, None, alias="sessions")
    eventually(lambda: heard == ["sessions"])
    (record,) = (record for record in caplog.records if record.name == "redispool_app.signals")
    assert (record.levelname, record.pool) == ("ERROR", "sessions")
    assert record.getMessage() == "Redis pool 'sessions': an event could not be sent."
    assert record.exc_info


def test_what_is_too_much_is_dropped_counted_and_logged_once_for_each_pool(connect, caplog):
    release, heard = threading.Event(), []

    def receive(number, **arguments):
        release.wait(10)
        heard.append(number)

    connect(signals.pool_exhausted, receive)
    dispatcher = signals.Dispatcher(most=3)
    with caplog.at_level(logging.WARNING, "redispool_app.signals"):
        for number in range(20):
            alias = "default" if number < 10 else "sessions"
            dispatcher.announce(signals.pool_exhausted, None, alias=alias, number=number)
    release.set()
    # One may have been taken out of the queue before it was full.
    eventually(lambda: len(heard) == 20 - dispatcher.dropped)
    assert 16 <= dispatcher.dropped <= 17
    assert heard[:3] == [0, 1, 2]
    assert heard == sorted(heard)  # the thread may take the first out later than that, and then another finds room
    records = [record for record in caplog.records if record.name == "redispool_app.signals"]
    assert [record.pool for record in records] == ["default", "sessions"]
    assert [f"Redis pool {record.pool!r}: an event was dropped" in record.getMessage() for record in records] == [
        True,
        True,
    ]


def test_without_receivers_no_thread_runs():
    dispatcher = signals.Dispatcher()
    dispatcher.announce(signals.pool_created, None, alias="default")
    assert dispatcher._worker.latest.is_over


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_tells_of_its_own_pool(manager, heard):
    manager.get_sync_client()
    eventually(lambda: len(heard) == 2)

    def work():
        heard.clear()
        manager.get_sync_client()
        eventually(lambda: heard)
        return names(heard), heard[0][1]["state"]

    assert in_child(work) == "(['health_changed'], 'healthy')"


def test_the_manual_names_each_signal_with_its_arguments():
    manual = (Path(__file__).resolve().parent.parent / "docs" / "signals.md").read_text()
    for name, words in {
        "pool_created": ["url"],
        "pool_closed": [],
        "health_changed": ["state", "fault", "fault_kind", "at"],
        "pool_exhausted": ["reason", "exhausted_total"],
    }.items():
        (row,) = (line for line in manual.splitlines() if line.startswith(f"| `{name}` |"))
        for word in words:
            assert f"`{word}`" in row
    assert str(signals.QUEUE) in manual
