"""What threads share, through cuts and silence: nothing is done twice, nothing is forgotten, nobody hangs."""

from __future__ import annotations

import contextlib
import random
import time
from functools import partial

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.engine.multiplex.request_sync import PendingRequest
from redispool_app.exceptions import OutcomeUnknown
from tests.support.awaited import Awaited, run
from tests.support.crowd import Caller, at_once, joined, started, value_of, working
from tests.support.proxy import Proxy
from tests.support.servers import eventually

from .test_sharing_cuts import LOST, WAYS, cut_by_proxy, cut_by_server


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


@contextlib.contextmanager
def connected(proxy, **options):
    with SyncRedis.from_url(proxy.url, **{"socket_timeout": 5, **options}) as client:
        client.ping()
        yield client


def in_sync(way):
    """Return the sync twin of a way to increment a key."""

    def increment(client, key):
        run(way(Awaited(client), key))

    increment.__name__ = way.__name__
    return increment


every_way = pytest.mark.parametrize("increment", [in_sync(way) for way in WAYS], ids=lambda way: way.__name__)
every_cut = pytest.mark.parametrize("cut", [cut_by_proxy, cut_by_server])


def until_it_answers(call):
    """Call until the client has recovered; return what it then answers."""
    answers = []

    def answered():
        with contextlib.suppress(*LOST):
            answers.append(call())
        return bool(answers)

    eventually(answered, timeout=30)
    return answers[0]


# Writing.


@every_cut
@every_way
def test_increments_through_cuts_are_never_done_twice_and_never_forgotten(proxy, server, increment, cut):
    acknowledged, unknown, lost = [], [], []

    def count():
        try:
            increment(client, "n")
            acknowledged.append(1)
        except OutcomeUnknown:
            unknown.append(1)
        except LOST:
            lost.append(1)
            time.sleep(0.001)

    rng = random.Random(5)
    with connected(proxy) as client:
        with working([count] * 16):
            for _ in range(100):
                time.sleep(rng.uniform(0.005, 0.05))
                cut(proxy, server)
                if len(unknown) > 5 and len(acknowledged) > 100 and proxy.opened > 10:
                    break
        counted = int(client.get("n"))
        assert len(acknowledged) <= counted <= len(acknowledged) + len(unknown)
        assert len(acknowledged) > 100, "too little got through to prove anything"
        assert unknown, "no cut has hit a command in flight"
        assert client.sharing.statistics.unknown == len(unknown)
        assert client.sharing.in_flight == 0


@every_way
def test_a_write_lost_on_its_way_is_of_unknown_outcome_and_not_sent_again(proxy, server, increment):
    with connected(proxy) as client:
        proxy.cut_before = b"INCR"
        with pytest.raises(OutcomeUnknown) as caught:
            increment(client, "n")
        assert isinstance(caught.value, redis_exceptions.ConnectionError)
        assert isinstance(caught.value, redis_exceptions.TimeoutError)
        assert client.get("n") is None
        assert server.calls("incrby") == 0


@every_way
def test_a_write_whose_reply_was_lost_is_of_unknown_outcome_and_not_sent_again(proxy, server, increment):
    with connected(proxy) as client:
        proxy.cut_after = b"INCR"
        with pytest.raises(OutcomeUnknown):
            increment(client, "n")
        assert client.get("n") == b"1"
        assert server.calls("incrby") == 1


@every_way
def test_writes_are_sent_again_where_the_project_asks_for_it(proxy, server, pool_settings, increment):
    manager = pool_settings(proxy.url, RETRY_WRITES=True, SOCKET_TIMEOUT=5.0)
    client = manager.get_sync_client()
    client.ping()
    proxy.cut_before = b"INCR"
    increment(client, "lost on its way")
    proxy.cut_after = b"INCR"
    increment(client, "lost on its way back")
    client = manager.get_sync_client()
    assert client.mget("lost on its way", "lost on its way back") == [b"1", b"2"]


def test_a_pipeline_that_only_reads_is_sent_again(proxy):
    with connected(proxy) as client:
        client.mset({"a": 1, "b": 2})
        proxy.cut_before = b"GET"
        assert client.pipeline(transaction=False).get("a").get("b").execute() == [b"1", b"2"]
        proxy.cut_after = b"GET"
        assert client.pipeline(transaction=True).get("a").get("b").execute() == [b"1", b"2"]


def test_a_write_finds_a_connection_that_the_server_has_closed_replaced(proxy, server):
    with connected(proxy) as client:
        for turn in range(1, 6):
            proxy.cut(reset=turn % 2 == 0)
            time.sleep(0.05)
            assert client.incr("n") == turn
        assert proxy.opened == 6
        assert server.calls("incrby") == 5


def test_a_write_made_while_nothing_listens_is_done_once_when_something_does(proxy, server):
    with connected(proxy) as client:
        proxy.refuse()
        proxy.cut()
        time.sleep(0.02)

        def persistent():
            while True:
                try:
                    return client.incr("n")
                except OutcomeUnknown:
                    raise
                except LOST:
                    time.sleep(0.01)

        callers = started([persistent] * 16)
        time.sleep(0.2)
        proxy.accept()
        joined(callers)
        assert sorted(caller.outcome for caller in callers) == list(range(1, 17))
        assert server.calls("incrby") == 16
        assert proxy.connections == 1, "the callers were not content with one connection"


# Reading.


@every_cut
def test_reads_succeed_through_cuts(proxy, server, cut):
    with server.client() as admin:
        admin.mset({f"key:{number}": number for number in range(100)})
    read = []

    def read_one():
        number = random.randrange(100)
        if number % 5:
            reply = client.get(f"key:{number}")
        else:
            (reply,) = client.pipeline(transaction=False).get(f"key:{number}").execute()
        assert reply == b"%d" % number
        read.append(1)

    with connected(proxy) as client:
        # Eight callers and fifteen cuts cannot use up the retries that a new client may make.
        with working([read_one] * 8):
            for _ in range(15):
                time.sleep(0.03)
                cut(proxy, server)
        assert len(read) > 100
        assert proxy.opened > 5, "too few cuts have hit"
        assert client.sharing.statistics.retries > 0
        assert client.sharing.in_flight == 0


def test_a_big_reply_cut_in_its_middle_is_read_again(proxy):
    value = random.Random(1).randbytes(400_000)
    with connected(proxy) as client:
        client.mset({"big": value, "small": "s"})
        proxy.cut_after_reply_bytes = 100_000
        big, *small = at_once([partial(client.get, "big"), *[partial(client.get, "small")] * 16])
        assert big == value
        assert small == [b"s"] * 16
        assert proxy.cuts == 1


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_that_arrive_byte_by_byte_are_read_right(proxy, protocol):
    with connected(proxy, protocol=protocol) as client:
        client.hset("hash", mapping={f"f{number}": number for number in range(20)})
        client.rpush("list", *range(20))
        client.sharing.connection.on_stalled = None  # a slow reply would open another connection
        proxy.piece = 1
        for _ in range(3):
            whole_hash, whole_list, pipeline, missing, *echoes = at_once(
                [
                    partial(client.hgetall, "hash"),
                    partial(client.lrange, "list", 0, -1),
                    client.pipeline().incr("n").get("n").llen("list").execute,
                    partial(client.get, "missing"),
                    *(partial(client.echo, f"e{number}") for number in range(16)),
                ]
            )
            assert echoes == [f"e{number}".encode() for number in range(16)]
            assert whole_hash == {b"f%d" % number: b"%d" % number for number in range(20)}
            assert whole_list == [b"%d" % number for number in range(20)]
            assert pipeline[1:] == [b"%d" % pipeline[0], 20]
            assert missing is None
        assert proxy.opened == 1


# Retrying within bounds.


def test_a_budget_bounds_what_all_callers_together_send_again(proxy):
    with connected(proxy) as client:
        client.sharing.budget.tokens = client.sharing.budget.size = 50
        proxy.cut_always = b"GET"
        outcomes = at_once([partial(client.get, "x")] * 64)
        assert all(isinstance(each, LOST) for each in outcomes)
        assert not any(isinstance(each, OutcomeUnknown) for each in outcomes), "a read's outcome matters to nobody"
        # Each handshake on the way is a success, which earns a little.
        assert 0 < client.sharing.statistics.retries <= 50 + 64
        proxy.heal()
        assert until_it_answers(partial(client.echo, "back")) == b"back"


def test_retries_end_with_the_callers_deadline(proxy):
    with connected(proxy, socket_timeout=0.3) as client:
        proxy.cut_always = b"GET"
        client.sharing.budget.tokens = client.sharing.budget.size = 1e9
        assert all(isinstance(each, LOST) for each in at_once([partial(client.get, "x")] * 5, within=10))


# Silence.


@every_way
def test_a_write_that_is_never_answered_is_of_unknown_outcome(proxy, increment):
    with connected(proxy, socket_timeout=0.2) as client:
        proxy.swallow_replies_of_open_connections()
        assert isinstance(at_once([partial(increment, client, "n")], within=10)[0], OutcomeUnknown)
        assert until_it_answers(partial(client.get, "n")) == b"1"


def test_silence_ends_every_caller_and_costs_one_connection(proxy):
    with connected(proxy, socket_timeout=0.3) as client:
        client.set("x", "y")
        client.sharing.connection.on_stalled = None  # with another connection no caller would wait in vain
        proxy.swallow_replies_of_open_connections()
        outcomes = at_once([partial(client.get, "x")] * 50, within=10)
        late = [each for each in outcomes if each != b"y"]
        assert [each for each in late if not isinstance(each, redis_exceptions.TimeoutError)] == []
        assert late
        assert until_it_answers(partial(client.get, "x")) == b"y"
        assert proxy.opened == 2
        assert client.sharing.in_flight == 0


def test_callers_are_told_what_ended_the_connection_first(own_server):
    """To close the socket ends the leader's read as well, which sees no more than that it is closed."""
    with SyncRedis(port=own_server.port, socket_timeout=0.3) as client:
        client.ping()
        shared = client.sharing.connection
        disconnect = shared.connection.disconnect

        def disconnect_and_be_noticed():
            shared.connection.disconnect = disconnect
            disconnect()
            shared._lose(redis_exceptions.ConnectionError("Connection closed by server."))

        shared.connection.disconnect = disconnect_and_be_noticed
        own_server.pause()
        first = Caller(partial(client.get, "x"))
        first.start()
        time.sleep(0.15)
        second = Caller(partial(client.incr, "n"))
        second.start()
        assert isinstance(first.ended(), redis_exceptions.TimeoutError)
        assert isinstance(second.ended(), OutcomeUnknown)
        assert "Timeout reading" in str(second.outcome)
        own_server.resume()


def test_a_reply_that_came_as_the_time_was_over_is_no_time_out(server):
    """Once handed out it is not in the queue any more, and a write would seem never to have been sent."""
    with SyncRedis(port=server.port) as client:
        client.ping()
        shared = client.sharing.connection
        exchange = PendingRequest()
        exchange.packed, exchange.started, exchange.deadline = b"", 0.0, 0.0
        with pytest.raises(redis_exceptions.TimeoutError):
            shared._time_out(exchange)
        exchange.put(b"OK")
        assert shared._time_out(exchange) is None


def test_a_network_that_swallows_everything_is_survived(proxy):
    with connected(proxy, socket_timeout=0.2, socket_connect_timeout=0.2, retry=None) as client:
        proxy.swallow = True
        for _ in range(3):
            outcomes = at_once([*[partial(client.get, "x")] * 10, *[partial(client.incr, "n")] * 5], within=10)
            assert all(isinstance(each, LOST) for each in outcomes)
        proxy.heal()
        assert until_it_answers(partial(client.echo, "back")) == b"back"
        assert client.sharing.in_flight == 0


def values_of(client):
    """Read 16 keys in as many threads; raise what one of them met."""
    return [value_of(reply) for reply in at_once(partial(client.get, f"key:{number}") for number in range(16))]


def test_a_slow_command_that_times_out_leaves_later_replies_right(own_server):
    with own_server.client() as admin:
        admin.mset({f"key:{number}": number for number in range(16)})
        admin.config_set("lua-time-limit", 0)  # on a busy machine a script may take longer, and then all hear BUSY
    with SyncRedis(port=own_server.port, socket_timeout=0.4) as client:
        slow = Caller(partial(client.eval, "local n = 0 while n < 1e8 do n = n + 1 end return 'slow'", 0))
        slow.start()
        assert isinstance(slow.ended(), OutcomeUnknown)
        assert until_it_answers(partial(values_of, client)) == [b"%d" % number for number in range(16)]


def test_a_connection_that_is_slow_both_ways_mixes_nothing_up(proxy):
    with connected(proxy) as client:
        client.sharing.connection.on_stalled = None  # a slow reply would open another connection
        proxy.request_delay = proxy.reply_delay = 0.01
        waves = []
        for wave in range(5):
            waves.append(started(partial(client.echo, f"{wave}-{number}") for number in range(12)))
            time.sleep(0.003)
        for wave, callers in enumerate(waves):
            joined(callers)
            assert [caller.outcome for caller in callers] == [f"{wave}-{number}".encode() for number in range(12)]
        assert proxy.opened == 1


# Through the manager.


def test_the_managers_counters_close_after_cuts(proxy, server, pool_settings):
    manager = pool_settings(proxy.url)
    for turn in range(1, 11):
        assert manager.get_sync_client().incr("n") == turn
        (cut_by_proxy if turn % 2 else cut_by_server)(proxy, server)
        time.sleep(0.02)
    client = manager.get_sync_client()
    assert client.get("n") == b"10"
    assert client.sharing.in_flight == 0
    info = manager.get_pool_info()
    assert info["connections_opened_total"] - info["connections_closed_total"] == info["connections_open"] == 1
    assert info["connections_in_use"] == info["waiting"] == 0
    manager.close_sync()
    info = manager.get_pool_info()
    assert info["connections_opened_total"] == info["connections_closed_total"] == proxy.opened
