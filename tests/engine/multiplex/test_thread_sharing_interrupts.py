"""A thread that is interrupted, wherever it stands, harms itself only: others get their replies, the client goes on.

Interrupted is: by an exception from another thread, by a signal handler that raises, at the exact moment that hurts
most, and at each point of the engine where CPython looks for either.
"""

from __future__ import annotations

import sys
import threading
from functools import partial

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import HANGS, Caller, at_once, joined, started
from tests.support.interrupts import KINDS, Interruption, alarm, at_every_point, interrupt, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.proxy import Proxy
from tests.support.servers import eventually

pytestmark = [pytest.mark.lab, socket_left_behind]

PATIENT = 2 * HANGS
"""A timeout that no test reaches: who is stranded hangs, in seconds."""

MOST_WITH_OTHERS = 40
"""Whoever follows an interrupted leader may look around only after a while, which makes each of these runs long."""

MOST_WHILE_CONNECTING = 40
"""Connecting has thousands of points, nearly all of them in redis-py; each run takes one of another stretch."""

FOLLOWERS = 3


@pytest.fixture
def client(own_server):
    with SyncRedis(port=own_server.port, socket_timeout=PATIENT) as client:
        client.mset({"k": "v", "leader": "l", **{f"key:{number}": number for number in range(FOLLOWERS)}})
        yield client


def soon(condition):
    """Wait for a condition, but not for long."""
    for _ in range(100):
        if condition():
            return
        threading.Event().wait(0.0005)


def goes_on(client, after=""):
    """Assert that another thread gets right replies at once, and that nothing is left over."""
    assert at_once([partial(client.get, "k")] * 2, within=HANGS) == [b"v"] * 2, after
    assert (client.sharing.in_flight, client.sharing.waiting) == (0, 0), after


def stands_in(thread, *functions):
    """Whether a thread stands in one of the engine's frames, and stays there."""
    first = sys._current_frames().get(thread.ident)
    position = first and (first, first.f_lasti)
    threading.Event().wait(0.02)
    second = sys._current_frames().get(thread.ident)
    return position is not None and position == (second, second.f_lasti)


def waiting_caller(client, function, in_flight):
    """Start a thread and wait until its command is under way and it stands still."""
    caller = Caller(function)
    caller.start()
    eventually(lambda: client.sharing.in_flight == in_flight and stands_in(caller))
    return caller


def followers(client, first):
    return [waiting_caller(client, partial(client.get, f"key:{number}"), first + number) for number in range(FOLLOWERS)]


def each_got_its_own(callers, after=""):
    joined(callers, after=after)
    assert [caller.outcome for caller in callers] == [b"%d" % number for number in range(FOLLOWERS)], str(after)


# The leader, while it waits for the server.


@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_an_exception_meets_as_bytes_arrive_strands_nobody(own_server, client, kind):
    own_server.pause()
    leader = waiting_caller(client, partial(client.get, "leader"), 1)
    others = followers(client, 2)
    interrupt(leader, kind)
    own_server.resume()
    assert isinstance(leader.ended(), kind)
    each_got_its_own(others)
    goes_on(client)


def test_a_leader_that_a_signal_handler_interrupts_strands_nobody(own_server, client):
    """Only the main thread runs signal handlers, so the main thread leads."""
    others = []
    own_server.pause()

    def follow_and_ring():
        eventually(lambda: client.sharing.in_flight == 1)
        others.extend(followers(client, 2))
        bell.ring()

    with alarm() as bell:
        bell.armed = True
        driver = Caller(follow_and_ring)
        driver.start()
        with pytest.raises(Interruption):
            client.get("leader")
        driver.ended()
    assert all(other.is_alive() for other in others), "the server has answered nobody yet"
    own_server.resume()
    each_got_its_own(others)
    goes_on(client)


def test_a_leader_that_is_interrupted_again_and_again_does_not_shift_replies(own_server, client):
    with alarm(every=0.005) as bell:
        for turn in range(300):
            bell.armed = turn % 2 == 0
            try:
                assert client.echo(f"{turn}") == f"{turn}".encode()
                assert client.pipeline().echo(f"a{turn}").echo(f"b{turn}").execute() == [b"a%d" % turn, b"b%d" % turn]
                threading.Event().wait(0.002)
            except Interruption:
                pass
            finally:
                bell.armed = False
        assert bell.rung > 10, "too few signals came"
    goes_on(client)


# A follower, while it waits for its leader.


@pytest.mark.parametrize("kind", KINDS)
def test_a_follower_that_leaves_takes_no_reply_with_it(own_server, client, kind):
    own_server.pause()
    leader = waiting_caller(client, partial(client.get, "leader"), 1)
    leaving = waiting_caller(client, partial(client.echo, "leaving"), 2)
    others = followers(client, 3)
    interrupt(leaving, kind)
    own_server.resume()
    assert leader.ended() == b"l"
    assert isinstance(leaving.ended(), kind)
    each_got_its_own(others)
    goes_on(client)


def test_a_follower_in_the_main_thread_leaves_at_the_signal(own_server, client):
    own_server.pause()
    leader = waiting_caller(client, partial(client.get, "leader"), 1)

    def ring():
        eventually(lambda: client.sharing.in_flight == 2)
        bell.ring()

    with alarm() as bell:
        bell.armed = True
        driver = Caller(ring)
        driver.start()
        with pytest.raises(Interruption):
            client.echo("leaving")
        driver.ended()
    assert leader.is_alive()
    others = followers(client, client.sharing.in_flight + 1)
    own_server.resume()
    assert leader.ended() == b"l"
    each_got_its_own(others)
    goes_on(client)


# Every point.


def one_get(client):
    return client.get("k")


def one_increment(client):
    return client.incr("n")


def a_raw_command(client):
    return client.execute_raw("GET", "k")


def a_pipeline(client):
    return client.pipeline(transaction=False).get("k").get("k").execute()


def a_transaction(client):
    return client.pipeline().incr("n").get("k").execute()


def an_optimistic_transaction(client):
    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.multi()
        return pipe.get("k").execute()


def a_blocking_command(client):
    return client.blpop("nothing here", timeout=0.001)


WAYS = [one_get, one_increment, a_raw_command, a_pipeline, a_transaction]
EXCLUSIVE = [an_optimistic_transaction, a_blocking_command]


@pytest.mark.parametrize("way", WAYS)
def test_a_lone_caller_may_be_interrupted_anywhere(client, way):
    expected = way(client)
    for running in at_every_point(partial(way, client)):
        (outcome,) = at_once([running])
        assert isinstance(outcome, Interruption) == bool(running.where), (running.where, outcome)
        goes_on(client, running.where)
        again = at_once([partial(way, client)])[0]
        assert again == expected or way in (one_increment, a_transaction), f"after {running.where}: {again}"


@pytest.mark.lab
@pytest.mark.parametrize("way", EXCLUSIVE)
def test_who_borrows_a_connection_may_be_interrupted_anywhere(server, pool_settings, way):
    """redis-py itself may lose a connection between borrowing and using it, but no later borrower gets its reply."""
    client = pool_settings(
        server.url, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, MAX_CONNECTIONS=20, CLOSE_TIMEOUT=0.1
    ).get_sync_client()
    client.set("k", "v")
    expected = way(client)
    for running in at_every_point(partial(way, client)):
        at_once([running])
        assert at_once([partial(way, client)]) == [expected], running.where
        goes_on(client, running.where)


@pytest.mark.parametrize("way", [one_get, a_transaction])
@socket_left_behind
def test_a_caller_may_be_interrupted_anywhere_while_it_connects(server, way):
    made = []

    def anew():
        while made:
            made.pop().close()
        made.append(SyncRedis(port=server.port, socket_timeout=PATIENT))

    with server.client() as admin:
        admin.set("k", "v")
    for running in at_every_point(lambda: way(made[0]), anew, MOST_WHILE_CONNECTING):
        at_once([running])
        goes_on(made[0], running.where)
    made.pop().close()


@pytest.mark.parametrize("way", WAYS)
@socket_left_behind
def test_a_caller_may_be_interrupted_anywhere_while_its_connection_breaks(server, way):
    with Proxy(server.port) as proxy, SyncRedis.from_url(proxy.url, socket_timeout=PATIENT) as client:
        client.set("k", "v")

        def use():
            try:
                return way(client)
            except OutcomeUnknown:
                return None

        def cut_next():
            client.ping()
            proxy.cut_after = b"GET" if way not in (one_increment, a_transaction) else b"INCR"

        for running in at_every_point(use, cut_next, MOST_WHILE_CONNECTING):
            at_once([running])
            proxy.heal()
            goes_on(client, running.where)


@pytest.mark.parametrize("way", WAYS)
def test_a_leader_may_be_interrupted_anywhere_without_stranding_a_follower(own_server, client, way):
    for running in at_every_point(partial(way, client), most=MOST_WITH_OTHERS):
        own_server.pause()
        leader = Caller(running)
        leader.start()
        soon(lambda leader=leader: client.sharing.in_flight or not leader.is_alive())
        others = started(partial(client.get, f"key:{number}") for number in range(FOLLOWERS))
        soon(lambda: client.sharing.in_flight > FOLLOWERS)
        own_server.resume()
        joined([leader], after=running)
        each_got_its_own(others, running)
        goes_on(client, running.where)


@pytest.mark.parametrize("way", WAYS)
def test_a_follower_may_be_interrupted_anywhere_without_harm_to_its_leader(own_server, client, way):
    def behind_a_leader(running):
        own_server.pause()
        leader = waiting_caller(client, partial(client.get, "leader"), 1)
        follower = Caller(running)
        follower.start()
        soon(lambda: client.sharing.in_flight > 1 or not follower.is_alive())
        last = Caller(partial(client.get, "key:1"))
        last.start()
        own_server.resume()
        joined([leader, follower, last], after=running)
        assert (leader.outcome, last.outcome) == (b"l", b"1"), running.where

    for running in at_every_point(partial(way, client), most=MOST_WITH_OTHERS):
        behind_a_leader(running)
        goes_on(client, running.where)


SLOW = "for i = 1, 500000 do end return 'slow'"
"""A few milliseconds; a script's clock stands still, so it cannot wait."""


def test_a_follower_that_was_made_leader_may_be_interrupted_anywhere(own_server, client):
    """The first reply ends the leader's part while the second is still due; whoever is next must read for the third."""
    slow = partial(client.eval, SLOW, 0)
    for running in at_every_point(slow, most=MOST_WITH_OTHERS):
        own_server.pause()
        leader = waiting_caller(client, partial(client.get, "leader"), 1)
        heir = Caller(running)
        heir.start()
        soon(lambda heir=heir: client.sharing.in_flight > 1 or not heir.is_alive())
        last = Caller(partial(client.get, "key:1"))
        last.start()
        soon(lambda heir=heir: client.sharing.in_flight > 1 + heir.is_alive())
        own_server.resume()
        joined([leader, heir, last], after=running)
        assert (leader.outcome, last.outcome) == (b"l", b"1"), running.where
        goes_on(client, running.where)


def test_increments_interrupted_anywhere_are_counted_at_most_once(own_server, client):
    acknowledged = interrupted = unknown = 0
    for running in at_every_point(partial(client.incr, "n")):
        (outcome,) = at_once([running])
        acknowledged += isinstance(outcome, int)
        interrupted += isinstance(outcome, Interruption)
        unknown += isinstance(outcome, OutcomeUnknown)
        assert not isinstance(outcome, redis_exceptions.ResponseError)
    counted = int(client.get("n"))
    # Once to count the points.
    assert acknowledged + 1 <= counted <= acknowledged + 1 + interrupted + unknown
