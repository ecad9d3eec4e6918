"""Threads share one connection by leader and follower: replies in order, deadlines, bounds, reconnects, numbers."""

from __future__ import annotations

import dataclasses
import threading
import time
from functools import partial

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import CommandRefused, OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout
from tests.support.crowd import HANGS, Caller, at_once, joined, started, value_of, working
from tests.support.servers import eventually
from tests.support.twin_clients import opened

from .test_async_redis_sharing import connections_named

SLACK = 5.0
"""How much later than its deadline a caller may end on a busy machine, in seconds."""

protocols = pytest.mark.parametrize("protocol", [2, 3])


def bytes_of(numbers):
    return [b"%d" % number for number in numbers]


def client_with(manager, **limits):
    """The manager's client with other limits on its sharing."""
    client = manager.get_sync_client()
    client.sharing.limits = dataclasses.replace(client.sharing.limits, **limits)
    return client


def in_flight(client, count):
    eventually(lambda: client.sharing.in_flight == count)


def echoes(client, numbers):
    return [Caller(partial(client.echo, str(number))) for number in numbers]


# Sharing.


@protocols
def test_sixty_four_threads_each_get_their_own_values_on_one_connection(server, protocol):
    with server.client() as admin:
        admin.mset({f"key:{number}": f"value:{number}" for number in range(64)})
    with SyncRedis(port=server.port, protocol=protocol, client_name="crowd", socket_timeout=60) as client:
        before = opened(server)

        def read(own):
            return {client.get(f"key:{own}") for _ in range(200)}

        assert at_once(partial(read, number) for number in range(64)) == [{b"value:%d" % each} for each in range(64)]
        assert opened(server, before) == 1
        assert len(connections_named(server, "crowd")) == 1
        assert client.sharing.in_flight == 0


def test_threads_that_wait_together_are_written_together(server):
    with SyncRedis(port=server.port) as client:
        client.ping()
        statistics = client.sharing.statistics
        commands, batches = statistics.commands, statistics.batches
        at_once([lambda: [client.get("k") for _ in range(300)]] * 16)
        assert statistics.commands - commands == 16 * 300
        assert statistics.batches - batches < (16 * 300) / 1.5


@protocols
def test_callers_that_block_delay_nobody(server, protocol):
    with SyncRedis(port=server.port, protocol=protocol) as client:
        client.xadd("x", {"f": "v"}, id="1-1")
        calls = [
            partial(client.blpop, "q1", timeout=20),
            partial(client.bzpopmin, "q2", timeout=20),
            partial(client.blmove, "q3", "moved", 20),
            partial(client.xread, {"x": "$"}, block=20_000),
            partial(client.execute_command, "xread", b"block", 20_000, "STREAMS", "x", "$"),
        ]
        blocked = started(calls)
        eventually(lambda: len([each for each in client.client_list() if "b" in each["flags"]]) == len(calls))
        begun = time.monotonic()
        assert at_once(partial(client.echo, str(number)) for number in range(50)) == bytes_of(range(50))
        assert time.monotonic() - begun < 10
        assert all(each.is_alive() for each in blocked)
        client.rpush("q1", 1)
        client.zadd("q2", {"m": 2})
        client.rpush("q3", 3)
        client.xadd("x", {"f": "w"}, id="2-1")
        joined(blocked, 10)
        for caller, expected in zip(blocked, (b"1", b"m", b"3", b"2-1", b"2-1"), strict=True):
            assert repr(expected)[1:] in repr(value_of(caller.outcome))


@protocols
def test_state_that_one_caller_sets_reaches_no_plain_command(own_server, protocol):
    with SyncRedis(port=own_server.port, protocol=protocol, client_name="given", retry=None) as client:
        client.set("where", "database 0")
        shared = connections_named(own_server, "given")[0]["id"]
        client.client_setname("chosen")
        client.client_no_evict("on")
        for command in (["MULTI"], ["SELECT", 1], ["AUTH", "nobody", "wrong"], ["SCRIPT", "DEBUG", "YES"]):
            with pytest.raises(CommandRefused):
                client.execute_command(*command)
        with pytest.raises(redis_exceptions.AuthenticationError):
            client.execute_command("AUTH", "wrong")
        for command in (["QUIT"], ["CLIENT REPLY", "ON"]):
            client.execute_command(*command)
        assert client.get("where") == b"database 0"
        assert client.eval("return 'ran'", 0) == b"ran"
        (still,) = [each for each in connections_named(own_server, "given") if each["id"] == shared]
        assert still["db"] == "0"
        assert set(still["flags"]) <= {"N"}


def test_very_large_commands_travel_alone(manager):
    client = client_with(manager, max_shared_bytes=1000)
    client.ping()
    before = client.sharing.statistics.commands
    client.set("big", b"x" * 5000)
    client.pipeline().set("big too", b"x" * 5000).execute()
    assert client.sharing.statistics.commands == before
    assert len(client.get("big")) == len(client.get("big too")) == 5000
    assert client.sharing.statistics.commands == before + 2


def follow_all_keys(connection):
    """Connect as redis-py does, then ask the server for a push about each key that anybody changes."""
    connection.on_connect()
    connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
    assert connection.read_response() in (b"OK", "OK")


@pytest.mark.parametrize("decode", [True, False])
def test_a_push_is_never_taken_for_a_reply(server, decode):
    """Every change of a key pushes a message onto the connection that the replies use."""
    connecting = {"protocol": 3, "redis_connect_func": follow_all_keys, "retry": None}
    with SyncRedis(port=server.port, decode_responses=decode, **connecting) as client:
        client.ping()
        before = opened(server)

        def use(number):
            for turn in range(20):
                text = f"{number}-{turn}" if decode else b"%d-%d" % (number, turn)
                assert client.set(f"key:{number}", text)
                assert client.get(f"key:{number}") == text
                assert client.pipeline().incr(f"n:{number}").echo(text).execute() == [turn + 1, text]
                assert client.set(b"\xff\xfe", turn), "the push about this key cannot be decoded"

        assert at_once(partial(use, number) for number in range(16)) == [None] * 16
        assert opened(server, before) == 0
        connection = client.sharing.connection
        with server.client() as stranger:
            stranger.mset({f"foreign:{number}": 1 for number in range(100)})
        time.sleep(0.05)
        assert client.get("foreign:1") in (b"1", "1"), "pushes came while nobody waited"
        assert client.sharing.connection is connection


# Deadlines.


def test_each_caller_has_its_own_deadline(own_server, pool_settings):
    client = pool_settings(own_server.url, SOCKET_TIMEOUT=0.4).get_sync_client()
    client.ping()
    own_server.pause()

    def wait_after(delay):
        time.sleep(delay)
        begun = time.monotonic()
        with pytest.raises((redis_exceptions.TimeoutError, redis_exceptions.ConnectionError)):
            client.get("x")
        return time.monotonic() - begun

    waits = at_once(partial(wait_after, delay / 10) for delay in range(4))
    assert max(map(value_of, waits)) < 0.4 + SLACK
    own_server.resume()
    eventually(lambda: pool_is_healthy(client))
    assert client.get("x") is None
    assert client.sharing.in_flight == 0


def pool_is_healthy(client):
    return client.connection_pool.monitor.health.is_healthy


def test_a_server_that_stops_ends_every_thread_within_its_timeout(own_server):
    """The leader's deadline comes first; whoever leads after it must still be let go in time."""
    with SyncRedis(port=own_server.port, socket_timeout=0.5, retry=None) as client:
        client.ping()
        own_server.pause()
        begun = time.monotonic()
        calls = [partial(client.get, "k"), partial(client.incr, "n"), client.pipeline().incr("n").execute] * 20
        outcomes = at_once(calls, within=0.5 + 2 * SLACK)
        assert time.monotonic() - begun < 0.5 + 2 * SLACK
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, (redis_exceptions.TimeoutError, redis_exceptions.ConnectionError))
            if number % 3 == 0:
                assert not isinstance(outcome, OutcomeUnknown), "a read has no outcome to speak of"
        assert any(isinstance(outcome, OutcomeUnknown) for outcome in outcomes)
        own_server.resume()
        eventually(lambda: at_once([client.ping])[0] is True)
        assert client.sharing.in_flight == 0


def test_who_follows_a_leader_that_times_out_gets_its_own_reply(own_server):
    with SyncRedis(port=own_server.port, socket_timeout=1.5) as client:
        client.mset({"a": 1, "b": 2})
        own_server.pause()
        leader = Caller(partial(client.get, "a"))
        leader.start()
        in_flight(client, 1)
        time.sleep(1)
        follower = Caller(partial(client.get, "b"))
        follower.start()
        assert isinstance(leader.ended(1.5 + SLACK), redis_exceptions.TimeoutError)
        assert follower.is_alive()
        own_server.resume()
        assert follower.ended() == b"2"
        assert client.get("a") == b"1"
        assert client.sharing.in_flight == 0


def test_a_client_without_a_timeout_waits_as_long_as_it_takes(own_server):
    with SyncRedis(port=own_server.port, socket_timeout=None) as client:
        client.ping()
        own_server.pause()
        callers = started(partial(client.echo, str(number)) for number in range(5))
        in_flight(client, 5)
        time.sleep(0.3)
        assert all(caller.is_alive() for caller in callers)
        own_server.resume()
        assert [caller.ended() for caller in callers] == bytes_of(range(5))


# Bounds.


def test_callers_beyond_the_bound_wait_their_turn(manager):
    client = client_with(manager, max_in_flight=4)
    most = []

    def call(number):
        for turn in range(50):
            text = b"%d-%d" % (number, turn)
            assert client.echo(text) == text
            most.append(client.sharing.in_flight)

    assert at_once(partial(call, number) for number in range(24)) == [None] * 24
    assert max(most) <= 4 + 1
    assert client.sharing.waiting == client.sharing.in_flight == 0


def test_bytes_in_flight_are_bounded(manager):
    client = client_with(manager, max_in_flight_bytes=50_000)
    values = [bytes([number]) * 20_000 for number in range(30)]
    assert at_once(partial(client.echo, value) for value in values) == values
    assert client.sharing.in_flight == 0


def test_a_second_bound_refuses_at_once(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = client_with(manager, max_in_flight=5, max_waiting=5)
    client.ping()
    own_server.pause()
    callers = started(partial(client.get, str(number)) for number in range(10))
    eventually(lambda: (client.sharing.in_flight, client.sharing.waiting) == (5, 5))
    begun = time.monotonic()
    with pytest.raises(PoolQueueFull):
        client.get("one too many")
    assert time.monotonic() - begun < SLACK
    assert manager.get_pool_info()["refused_total"] == 1
    own_server.resume()
    joined(callers)
    assert [caller.outcome for caller in callers] == [None] * 10


def test_waiting_for_room_ends_at_the_callers_deadline(own_server, pool_settings):
    client = client_with(pool_settings(own_server.url, SOCKET_TIMEOUT=0.4), max_in_flight=1)
    client.ping()
    own_server.pause()
    first = Caller(partial(client.get, "first"))
    first.start()
    in_flight(client, 1)
    time.sleep(0.2)
    second = Caller(partial(client.get, "second"))
    second.start()
    assert isinstance(first.ended(0.4 + SLACK), redis_exceptions.TimeoutError)
    lost = (PoolTimeout, redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)
    assert isinstance(second.ended(0.4 + SLACK), lost)
    own_server.resume()


# Reconnecting.


def test_a_killed_connection_is_replaced_and_reads_do_not_notice(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()
    client.set("x", "kept")
    wrong = []

    def read():
        if client.get("x") != b"kept":
            wrong.append(1)

    with own_server.client() as admin, working([read] * 8):
        for _ in range(10):
            time.sleep(0.03)
            admin.client_kill_filter(_type="normal", skipme=True)
    assert wrong == []
    assert manager.get_pool_info()["reconnects_total"] >= 1
    eventually(lambda: own_server.connections() == 1)


def test_connecting_is_one_attempt_for_all(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()
    for turn in range(1, 6):
        assert at_once([partial(client.get, "x")] * 50) == [None] * 50
        assert manager.get_pool_info()["connections_opened_total"] == turn
        with own_server.client() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)


def test_nobody_waits_longer_than_its_deadline_for_a_connection_that_does_not_come(own_server):
    with SyncRedis(port=own_server.port, socket_timeout=0.4, socket_connect_timeout=0.4, retry=None) as client:
        own_server.pause()
        outcomes = at_once([partial(client.get, "x")] * 20, within=4 * 0.4 + 2 * SLACK)
        lost = (redis_exceptions.TimeoutError, redis_exceptions.ConnectionError)
        assert all(isinstance(outcome, lost) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 20, "each thread has an exception of its own"
        own_server.resume()
        eventually(lambda: at_once([client.ping])[0] is True)


# Numbers and the end.


def test_the_pools_numbers_count_what_threads_share(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = manager.get_sync_client()
    at_once([lambda: [client.incr("n") for _ in range(25)]] * 8)
    info = manager.get_pool_info()
    assert (info["connections_open"], info["connections_shared"], info["connections_opened_total"]) == (1, 1, 1)
    assert info["commands_in_flight"] == info["waiting"] == info["connections_in_use"] == 0
    assert info["commands_total"] >= 8 * 25
    assert 0 < info["batches_total"] <= info["commands_total"]
    assert info["latency_p50_ms"] > 0
    own_server.pause()
    caller = Caller(partial(client.get, "n"))
    caller.start()
    eventually(lambda: manager.get_pool_info()["commands_in_flight"] == 1)
    own_server.resume()
    assert caller.ended() == b"200"
    assert client.blpop("never", 0.05) is None
    info = manager.get_pool_info()
    assert (info["connections_open"], info["connections_idle"], info["connections_in_use"]) == (2, 1, 0)


def test_draining_lets_replies_come_and_then_refuses(own_server, pool_settings):
    manager = pool_settings(own_server.url, CLOSE_TIMEOUT=10)
    client = manager.get_sync_client()
    client.ping()
    own_server.pause()
    due = started(partial(client.echo, str(number)) for number in range(10))
    in_flight(client, 10)
    closing = threading.Thread(target=manager.close_sync)
    closing.start()
    eventually(lambda: manager.get_pool_info()["state"] == "closed")
    time.sleep(0.05)
    with pytest.raises(PoolClosed):
        client.get("late")
    own_server.resume()
    joined([*due, closing])
    assert [each.outcome for each in due] == bytes_of(range(10))
    eventually(lambda: own_server.connections() == 0)
    info = manager.get_pool_info()
    assert info["connections_opened_total"] == info["connections_closed_total"]


def test_closing_cuts_what_does_not_end_in_time(own_server, pool_settings):
    manager = pool_settings(own_server.url, CLOSE_TIMEOUT=0.2, SOCKET_TIMEOUT=HANGS)
    client = manager.get_sync_client()
    client.ping()
    own_server.pause()
    callers = started([partial(client.get, "x"), partial(client.incr, "n")] * 5)
    in_flight(client, 10)
    manager.close_sync()
    joined(callers, SLACK)
    assert all(isinstance(caller.outcome, redis_exceptions.ConnectionError) for caller in callers)
    unknown = sum(isinstance(caller.outcome, OutcomeUnknown) for caller in callers)
    own_server.resume()
    with own_server.client() as admin:
        assert int(admin.get("n") or 0) <= unknown, "what is not of unknown outcome has not been carried out"
