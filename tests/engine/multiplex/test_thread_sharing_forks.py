"""Forks in the middle of traffic: parent and child both keep working, each on a connection of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import partial

import pytest

from redispool_app.engine import SyncRedis
from tests.engine.runtime.test_forks import in_child, pytestmark  # noqa: F401
from tests.support.crowd import Caller, at_once, joined, started, value_of, working
from tests.support.servers import eventually
from tests.support.twin_clients import opened

THREADS = 8


@pytest.fixture(params=["alone", "managed"])
def client(request, own_server):
    """A client that threads share, made by hand or by the manager."""
    if request.param == "managed":
        yield request.getfixturevalue("pool_settings")(own_server.url, SOCKET_TIMEOUT=20).get_sync_client()
        return
    with SyncRedis.from_url(own_server.url, socket_timeout=20) as client:
        yield client


def echo_one(client, counter=None):
    text = b"%d-%d-%f" % (os.getpid(), threading.get_ident(), time.monotonic())
    assert client.echo(text) == text
    if counter is not None:
        counter.append(1)


def echo_in_threads(client, threads=THREADS, turns=20):
    """Use the client from threads; return how many replies went to their owners."""
    counter = []
    for outcome in at_once([lambda: [echo_one(client, counter) for _ in range(turns)]] * threads):
        value_of(outcome)
    return len(counter)


def test_parent_and_child_both_keep_working_under_traffic(client):
    done = []
    with working([partial(echo_one, client, done)] * THREADS):
        for _ in range(10):
            assert in_child(lambda: echo_in_threads(client)) == str(THREADS * 20)
    assert len(done) > THREADS
    assert client.sharing.in_flight == 0


def test_the_parents_connection_is_not_disturbed_and_the_child_opens_one(own_server, client):
    client.ping()
    connection = client.sharing.connection
    with working([partial(echo_one, client)] * THREADS):
        before = opened(own_server)
        assert in_child(lambda: echo_in_threads(client)) == str(THREADS * 20)
        assert opened(own_server, before) == 1
        assert client.sharing.connection is connection
    assert client.get("k") is None
    eventually(lambda: own_server.connections() == 1)


def test_a_child_of_a_client_that_was_never_used_connects(own_server, client):
    assert in_child(lambda: echo_in_threads(client)) == str(THREADS * 20)
    echo_one(client)


def test_a_fork_while_callers_wait_hands_their_replies_to_the_parent_only(own_server, client):
    client.set("k", "v")
    own_server.pause()
    waiting = started(partial(client.echo, str(number)) for number in range(THREADS))
    eventually(lambda: client.sharing.in_flight == THREADS)
    resume = threading.Timer(0.3, own_server.resume)

    def use():
        left = client.sharing.in_flight, client.sharing.waiting
        return left, client.get("k")

    forked = Caller(partial(in_child, use))
    forked.start()
    resume.start()
    joined([resume, forked, *waiting])
    assert forked.outcome == "((0, 0), b'v')"
    assert [caller.outcome for caller in waiting] == [b"%d" % number for number in range(THREADS)]


def test_a_child_of_a_working_thread_keeps_working(client):
    """Not the main thread forks, and in the child it is the only one that goes on."""

    def fork_and_use():
        return in_child(lambda: echo_in_threads(client, threads=2))

    with working([partial(echo_one, client)] * THREADS):
        assert at_once([fork_and_use] * 2) == ["40"] * 2


def test_a_child_that_closes_its_client_closes_nothing_of_its_parents(own_server, client):
    client.ping()
    before = opened(own_server)

    def use_and_close():
        echo_one(client)
        client.close()
        client.connection_pool.disconnect()
        return "closed"

    assert in_child(use_and_close) == "closed"
    assert echo_in_threads(client) == THREADS * 20
    assert opened(own_server, before) == 1, "the child's"


def test_children_of_children_keep_working(client):
    def generation(left):
        echo_one(client)
        return f"{left} {in_child(partial(generation, left - 1))}" if left else "0"

    with working([partial(echo_one, client)] * 2):
        assert in_child(partial(generation, 3)) == "3 2 1 0"


def test_a_leader_that_the_fork_left_behind_leads_nobody_in_the_child(own_server, client):
    """The child has copies of all locks and queues, as they were while the parent's leader held the role."""
    client.ping()
    own_server.pause()
    leader = Caller(partial(client.echo, "leader"))
    leader.start()
    eventually(lambda: client.sharing.in_flight == 1)
    forked = Caller(partial(in_child, lambda: echo_in_threads(client, threads=4, turns=5)))
    forked.start()
    time.sleep(0.2)
    own_server.resume()
    assert forked.ended() == "20"
    assert leader.ended() == b"leader"


_client = None


def _echo_in_a_process(number):
    return _client.echo(str(number)), os.getpid()


def test_a_pool_of_forked_processes_works_beside_the_parent(client):
    global _client
    _client = client
    context = multiprocessing.get_context("fork")
    with working([partial(echo_one, client)] * 4), context.Pool(3) as pool:
        answers = pool.map(_echo_in_a_process, range(100), chunksize=5)
        pool.close()
        pool.join()
    assert [reply for reply, _ in answers] == [b"%d" % number for number in range(100)]
    assert os.getpid() not in {pid for _, pid in answers}
    _client = None
