"""Sync pipelines and transactions answer as redis-py's do, travel as one unit, and leave other threads alone."""

from __future__ import annotations

import random
from functools import partial
from operator import methodcaller as do

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from tests.support.command_table import VALUES
from tests.support.crowd import at_once, value_of, working
from tests.support.twin_clients import MODES, Failure, assert_same_sync, named, opened

from .test_async_pipeline import PIPELINES, USES, either_way, in_every_mode, piped, queueable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def bytes_of(numbers):
    return [b"%d" % number for number in numbers]


@pytest.fixture
def client(server):
    with SyncRedis(port=server.port, socket_timeout=60) as client:
        client.ping()
        yield client


# The same answers as from redis-py.


@either_way
@in_every_mode
@pytest.mark.parametrize("kind", VALUES)
def test_every_kind_of_command_answers_in_a_pipeline_as_in_redis_py(server, kind, mode, transaction):
    calls = queueable(VALUES[kind])
    (answer,) = assert_same_sync(server, [piped(*calls, transaction=transaction, raise_on_error=False)], **mode)
    if not isinstance(answer, Failure):
        assert len(answer[1]) == len(calls) > 10


@in_every_mode
@pytest.mark.parametrize("kind", PIPELINES)
def test_results_and_annotated_errors_are_those_of_redis_py(server, kind, mode):
    calls = []
    for transaction in (True, False):
        for raise_on_error in (True, False):
            run = piped(*PIPELINES[kind], transaction=transaction, raise_on_error=raise_on_error)
            calls += [run, do("get", "k"), run, do("echo", "the client goes on"), do("flushdb")]
    answers = assert_same_sync(server, calls, **mode)
    assert not any(isinstance(answer, Failure) for answer in answers[3::5])


@pytest.mark.parametrize("mode", MODES[:4], ids=named)
@pytest.mark.parametrize("use", USES)
def test_a_pipeline_is_used_as_in_redis_py(server, use, mode):
    _, went_on = assert_same_sync(server, [use, do("echo", "the client goes on")], **mode)
    assert "the client goes on" in went_on[1]


# Beside other threads.


@either_way
def test_ten_thousand_commands_in_one_pipeline_keep_their_order(client, transaction):
    pipe = client.pipeline(transaction)
    for number in range(5_000):
        pipe.set(f"k{number}", number).get(f"k{number}")
    replies = pipe.execute()
    assert replies[::2] == [True] * 5_000
    assert replies[1::2] == bytes_of(range(5_000))
    assert client.sharing.in_flight == 0


@either_way
def test_five_megabytes_in_a_pipeline_arrive_beside_small_commands(client, transaction):
    value = bytes(range(256)) * 20_000
    pipe = client.pipeline(transaction).set("large", value).get("large")
    large, *small = at_once([pipe.execute, *(partial(client.echo, str(number)) for number in range(20))])
    assert large == [True, value]
    assert small == bytes_of(range(20))


@either_way
def test_pipelines_travel_on_the_connection_of_plain_commands(server, client, transaction):
    before = opened(server)
    replies = at_once(client.pipeline(transaction).echo(str(number)).incr("n").execute for number in range(40))
    assert [reply[0] for reply in replies] == bytes_of(range(40))
    assert sorted(reply[1] for reply in replies) == list(range(1, 41))
    assert opened(server, before) == 0


@either_way
def test_a_script_in_a_pipeline_needs_no_further_connection(server, client, transaction):
    client.script_flush()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    before = opened(server)
    pipe = client.pipeline(transaction)
    script(keys=["n"], args=[5], client=pipe)
    assert pipe.echo("e").execute() == [5, b"e"]
    assert opened(server, before) == 0


@either_way
def test_threads_with_plain_commands_and_with_pipelines_keep_their_replies_apart(client, transaction):
    def plain(number):
        for turn in range(100):
            text = b"%d-%d" % (number, turn)
            assert client.echo(text) == text

    def piping(number):
        for turn in range(30):
            texts = [b"pipe-%d-%d-%d" % (number, turn, place) for place in range(turn % 7 * 3 + 1)]
            pipe = client.pipeline(transaction)
            for text in texts:
                pipe.echo(text)
            assert pipe.execute() == texts

    def failing(number):
        for turn in range(30):
            pipe = client.pipeline(transaction).set(f"text{number}", "x").incr(f"text{number}").echo(turn)
            ok, error, text = pipe.execute(raise_on_error=False)
            assert (ok, type(error), text) == (True, redis_exceptions.ResponseError, b"%d" % turn)

    calls = [partial(kind, number) for kind in (plain, piping, failing) for number in range(8)]
    assert at_once(calls) == [None] * len(calls)
    assert client.sharing.in_flight == 0


def test_a_transaction_is_atomic_against_increments_of_other_threads(server, client):
    def transactions():
        for _ in range(40):
            pipe = client.pipeline()
            for _ in range(5):
                pipe.incr("n")
            numbers = pipe.execute()
            assert numbers == list(range(numbers[0], numbers[0] + 5))

    def increments(whose):
        for _ in range(100):
            whose.incr("n")

    with SyncRedis(port=server.port) as stranger:
        calls = [transactions] * 5 + [partial(increments, client)] * 5 + [partial(increments, stranger)] * 5
        assert at_once(calls) == [None] * 15
    assert int(client.get("n")) == 5 * 40 * 5 + 1_000


def test_an_aborted_transaction_runs_nothing_and_swallows_nobodys_reply(client):
    def aborted():
        pipe = client.pipeline().set("never", 1)
        pipe.execute_command("GET")
        with pytest.raises(redis_exceptions.ResponseError, match="wrong number of arguments"):
            pipe.execute()

    replies = at_once([*[aborted] * 10, *(partial(client.echo, str(number)) for number in range(30))])
    assert replies == [None] * 10 + bytes_of(range(30))
    assert client.get("never") is None


def test_concurrent_optimistic_transactions_lose_no_update(client):
    conflicts = []

    def add_one():
        while True:
            try:
                with client.pipeline() as pipe:
                    pipe.watch("n")
                    value = int(pipe.get("n") or 0)
                    pipe.multi()
                    pipe.set("n", value + 1).execute()
                    return
            except redis_exceptions.WatchError:
                conflicts.append(1)

    rng = random.Random(7)
    with working([lambda: value_of(client.echo(str(rng.random())))] * 3):
        assert at_once([add_one] * 20) == [None] * 20
    assert client.get("n") == b"20"
    assert conflicts, "nothing was contended"


@pytest.mark.parametrize("name", ["", " ", b"", b" "])
@pytest.mark.parametrize("way", ["alone", "pipeline", "transaction"])
def test_a_command_without_a_name_shifts_nobodys_reply(server, name, way):
    """The server answers an empty command with silence, so one on the shared connection would shift all replies."""
    with SyncRedis(port=server.port, socket_timeout=1, retry=None) as client:

        def nameless():
            if way == "alone":
                return client.execute_command(name)
            pipe = client.pipeline(way == "transaction").echo("mine")
            pipe.execute_command(name)
            return pipe.execute()

        failed, *replies = at_once([nameless, *(partial(client.echo, str(number)) for number in range(10))])
        assert isinstance(failed, (redis_exceptions.RedisError, ValueError))
        assert replies == bytes_of(range(10))
        assert client.echo("after") == b"after"
