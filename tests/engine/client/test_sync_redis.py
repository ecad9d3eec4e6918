"""A program written for redis.Redis gets from SyncRedis what it got before: values and errors."""

from __future__ import annotations

import threading
from functools import partial
from operator import methodcaller as do

import pytest
import redis
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.engine.stats.request_timing import RequestTiming, current_timing
from tests.support.command_failures import FAILURES, WRONG_KIND
from tests.support.command_table import KEY_NAMES, VALUES
from tests.support.crowd import Caller, at_once, value_of
from tests.support.twin_clients import MODES, Failure, assert_same_sync, named, opened

from .test_async_redis import VALUES_SENT

# The table holds commands that redis-py calls deprecated and still offers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

in_every_mode = pytest.mark.parametrize("mode", MODES, ids=named)


@in_every_mode
@pytest.mark.parametrize("kind", VALUES)
def test_every_kind_of_command_answers_as_in_redis_py(server, kind, mode):
    answers = assert_same_sync(server, VALUES[kind], **mode)
    failed = [(call, answer) for call, answer in zip(VALUES[kind], answers, strict=True) if isinstance(answer, Failure)]
    assert failed == [], "the table promises calls that succeed"


@in_every_mode
@pytest.mark.parametrize("calls", [FAILURES, WRONG_KIND], ids=["failures", "wrong kind"])
def test_every_failure_has_the_type_and_the_text_of_redis_py(server, calls, mode):
    answers = assert_same_sync(server, calls, **mode)
    passed = [call for call, answer in zip(calls, answers, strict=True) if not isinstance(answer, Failure)]
    assert passed == (calls[:1] if calls is WRONG_KIND else []), "the table promises calls that fail"


@pytest.mark.parametrize(
    "mode",
    [{}, {"encoding": "latin-1"}, {"encoding": "latin-1", "encoding_errors": "replace"}, {"encoding": "utf-16"}],
    ids=named,
)
def test_a_value_arrives_in_the_bytes_that_redis_py_sends_or_is_refused_in_the_same_words(server, mode):
    calls = []
    for value in VALUES_SENT:
        calls += [do("set", "k", value), do("get", "k"), do("echo", value)]
    answers = assert_same_sync(server, calls, **mode)
    assert any(isinstance(answer, Failure) for answer in answers)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("errors", ["strict", "replace", "ignore"])
def test_what_cannot_be_decoded_fails_as_in_redis_py(server, protocol, errors):
    binary = b"\xff\xfe binary"
    calls = [do("set", "k", binary), do("get", "k"), do("mget", "k", "k"), do("hset", "h", b"\xff", binary)]
    calls += [do("hgetall", "h"), do("get", "missing"), do("execute_command", "GET", "k", NEVER_DECODE=True)]
    assert_same_sync(server, calls, protocol=protocol, decode_responses=True, encoding_errors=errors)


def test_a_reply_that_cannot_be_decoded_fails_its_caller_only(server):
    with SyncRedis(port=server.port, decode_responses=True) as client:
        client.mset({"binary": b"\xff\xfe", "text": "fine"})
        before = opened(server)
        replies = at_once(partial(client.get, "binary" if number % 3 else "text") for number in range(30))
        for number, reply in enumerate(replies):
            assert isinstance(reply, UnicodeDecodeError) if number % 3 else reply == "fine"
        assert client.get("text") == "fine"
        assert opened(server, before) == 0


def test_ordinary_traffic_starts_no_thread(server, monkeypatch):
    # By name the server's address would be asked for in a thread, so that a silent name server holds nobody.
    with SyncRedis(host="127.0.0.1", port=server.port) as client:
        before, start = threading.enumerate(), threading.Thread.start
        started = []
        monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread)))
        assert client.set("k", "v") is True
        assert client.get("k") == b"v"
        assert client.pipeline().incr("n").get("k").execute() == [1, b"v"]
        assert client.execute_raw("ECHO", "raw") == b"raw"
        assert client.blpop("empty", timeout=0.01) is None
        assert client.transaction(lambda pipe: pipe.multi() or pipe.incr("n"), "n") == [2]
        assert len(client.set("large", "x" * 2_000_000) and client.get("large")) == 2_000_000
        assert started == []
        replies = at_once(partial(client.echo, str(number)) for number in range(20))
        assert replies == [b"%d" % number for number in range(20)]
        assert {type(thread) for thread in started} == {Caller}, "the test's own callers"
        assert set(threading.enumerate()) <= set(before)


def test_a_refused_value_fails_its_caller_only(server):
    with SyncRedis(port=server.port) as client:
        replies = at_once(partial(client.echo, number if number % 3 else None) for number in range(30))
        for number, reply in enumerate(replies):
            assert reply == b"%d" % number if number % 3 else isinstance(reply, redis_exceptions.DataError)


def test_values_of_five_megabytes_travel_both_ways_beside_small_ones(server):
    value = bytes(range(256)) * 20_000
    with SyncRedis(port=server.port) as client:

        def large():
            assert client.set("large", value)
            assert client.hset("h", mapping={"f": value, "g": value}) == 2
            return client.get("large") == value and client.hmget("h", "f", "g") == [value, value]

        done, *small = at_once([large, *(partial(client.echo, str(number)) for number in range(30))])
        assert value_of(done)
        assert small == [b"%d" % number for number in range(30)]


# Response callbacks.


def test_own_response_callbacks_are_called_as_in_redis_py(server):
    seen = []
    for kind in (redis.Redis, SyncRedis):
        with kind(port=server.port) as client:
            client.set_response_callback("GET", lambda reply, **options: ("own", reply, options))
            client.set_response_callback("CONFIG GET", lambda reply, **options: sorted(reply))
            client.set_response_callback("echo", lambda reply, **options: ("lower case", reply))
            client.set("k", "v")
            seen.append([client.get("k"), client.execute_command("get", "k", mine=1), client.echo("hello")])
            seen[-1] += [client.config_get("maxmemory-samples"), client.pipeline().get("k").echo("x").execute()]
    theirs, ours = seen
    assert ours == theirs
    assert ours[0] == ("own", b"v", {})


@pytest.mark.parametrize("transaction", [True, False])
def test_a_response_callback_that_raises_fails_its_caller_only(server, transaction):
    def refuse(reply, **options):
        raise LookupError(f"no {reply!r}")

    with SyncRedis(port=server.port) as client:
        client.set_response_callback("GET", refuse)
        client.set("k", "v")
        before = opened(server)
        calls = [partial(client.get, "k") if number % 2 else partial(client.echo, str(number)) for number in range(30)]
        replies = at_once([*calls, client.pipeline(transaction).get("k").execute])
        for number, reply in enumerate(replies):
            if number % 2 or number == 30:
                assert isinstance(reply, LookupError)
                assert str(reply) == "no b'v'"
            else:
                assert reply == b"%d" % number
        assert opened(server, before) == 0, "no connection was lost"


# A reply as it came.


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
def test_execute_raw_returns_what_the_server_sent(server, mode):
    with SyncRedis(port=server.port, **mode) as client:
        assert client.execute_raw("SET", "k", b"\xff\xfe") == b"OK"
        assert client.execute_raw("GET", "k") == b"\xff\xfe"
        assert client.execute_raw("GET", "missing") is None
        assert client.execute_raw("MGET", "k", "missing") == [b"\xff\xfe", None]
        assert client.execute_raw("INCR", "n") == 1
        assert client.execute_raw("EXISTS", "k") == 1, "no callback makes a bool of it"


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
def test_get_raw_is_execute_raw_of_get(server, mode):
    timing = RequestTiming()
    with SyncRedis(port=server.port, **mode) as client:
        for number, key in enumerate(KEY_NAMES):
            client.execute_raw("SET", key, b"\xff%d" % number)
        client.rpush("list", "x")
        token = current_timing.set(timing)
        try:
            for _ in range(2):
                assert [client.get_raw(key) for key in [*KEY_NAMES, "missing"]] == [
                    client.execute_raw("GET", key) for key in [*KEY_NAMES, "missing"]
                ]
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                client.get_raw("list")
        finally:
            current_timing.reset(token)
        assert timing.commands == 4 * (len(KEY_NAMES) + 1) + 1
        assert [client.get_raw(key) for key in KEY_NAMES] == [b"\xff%d" % number for number in range(len(KEY_NAMES))]


@pytest.mark.parametrize("call", [*FAILURES[:8], *FAILURES[18:30]])
def test_execute_raw_fails_as_execute_command_does(server, call):
    """Whatever redis-py's method would have sent, sent raw."""

    class Raw(SyncRedis):
        def execute_command(self, *args, **options):
            return self.execute_raw(*args)

    errors = []
    for kind in (redis.Redis, Raw):
        with kind(port=server.port) as client:
            try:
                call(client)
            except Exception as error:
                errors.append((type(error), str(error)))
    if "unheard_of" not in repr(call):  # an option for a callback, of which there is none
        assert len(errors) == 2
        assert errors[0] == errors[1]


def test_execute_raw_blocks_nobody(server):
    with SyncRedis(port=server.port) as client:
        popped = []
        blocked = threading.Thread(target=lambda: popped.append(client.execute_raw("BLPOP", "q", "20")))
        blocked.start()
        assert at_once(partial(client.execute_raw, "ECHO", str(number)) for number in range(10)) == [
            b"%d" % number for number in range(10)
        ]
        client.rpush("q", "x")
        blocked.join(10)
        assert popped == [[b"q", b"x"]]


# The client as an object.


def test_an_instance_is_a_redis_py_client_and_takes_every_argument_of_it():
    options = {"host": "example", "port": 1, "db": 2, "password": "p", "client_name": "n", "decode_responses": True}
    ours, theirs = SyncRedis(**options), redis.Redis(**options)
    assert isinstance(ours, redis.Redis)
    for name in ("host", "port", "db", "password", "client_name", "decode_responses", "encoding", "socket_timeout"):
        assert ours.get_connection_kwargs()[name] == theirs.get_connection_kwargs()[name], name
    assert ours.get_encoder().decode_responses


def test_a_subclass_may_override_execute_command(server):
    class Prefixed(SyncRedis):
        def execute_command(self, *args, **options):
            if args[0] in ("GET", "SET"):
                args = (args[0], f"mine:{args[1]}", *args[2:])
            return super().execute_command(*args, **options)

    with Prefixed(port=server.port) as client:
        client.set("k", "v")
        assert client.get("k") == b"v"
        assert client.keys("*") == [b"mine:k"]
        assert type(client.client()) is Prefixed
