"""Threads that are struck while the shared connection is stalled: one that finds it, one that makes another connection.

Afterwards each other thread has its reply, the next stall gets another connection, and in the end one is open.
"""

from __future__ import annotations

import gc
from functools import partial
from time import monotonic, sleep

import pytest

from redispool_app.engine import SyncRedis
from redispool_app.engine.multiplex import multiplexer_sync
from redispool_app.engine.runtime.single_flight import Flight
from redispool_app.engine.stats.counters import HELD_BACK
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import Caller, joined
from tests.support.interrupts import socket_left_behind
from tests.support.servers import eventually
from tests.support.strikes import KINDS, at_every_point, raising

pytestmark = [
    socket_left_behind,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

PATIENT = 30.0
"""``SOCKET_TIMEOUT`` in seconds: no caller may wait for it."""

AT_ONCE = 5.0
"""Seconds within which all callers have ended; generous, for a busy machine."""

HELD = 200
"""Milliseconds for which the server holds writes back."""

STRUCK = ("SyncMultiplexer", "SharedSocket", "Lanes", "Flight")
"""The modules of these classes are struck."""


@pytest.fixture
def client(own_server, monkeypatch):
    monkeypatch.setattr(multiplexer_sync, "SURPLUS_IDLE", 0.1)
    monkeypatch.setattr(multiplexer_sync, "AGAIN_AFTER", 0.02)
    with SyncRedis(port=own_server.port, socket_timeout=PATIENT) as client:
        client.set("k", "v")
        yield client


@pytest.fixture
def admin(own_server):
    with own_server.client() as admin:
        admin.ping()
        yield admin


def hold_a_write_back(client, admin):
    """Return the thread that writes, once its command is under way."""
    client.ping()
    admin.client_pause(HELD, all=False)
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1 or not write.is_alive())
    return write


def comes_to_rest(client, admin, where):
    """Assert that calls are served at once, that one connection is left, and that the next stall gets another one."""
    started = monotonic()

    def at_rest():
        assert client.get("k") == b"v", where
        gc.collect()  # a socket that an interrupt left behind
        sharing = client.sharing
        known = (len(sharing.lanes.open), len(sharing._leaving), sharing.in_flight)
        return known == (1, 0, 0) and len(admin.client_list()) == 2

    while not at_rest():
        assert monotonic() - started < 3 * AT_ONCE, f"{vars(client.sharing.lanes)} after {where}"
        sleep(0.02)
    assert client.sharing.lanes.widening.latest.is_over, where


def ends_well(write, others, where):
    joined([write, *others], AT_ONCE, where)
    assert write.outcome is True or isinstance(write.outcome, OutcomeUnknown), (write.outcome, where)
    assert [each.outcome for each in others] == [b"v"] * len(others), where


@pytest.mark.parametrize("most", [pytest.param(60, marks=pytest.mark.lab), 5])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_thread_that_finds_the_stall_may_be_struck_anywhere(client, admin, kind, most):
    writes, others = [], []

    def prepare():
        writes.append(hold_a_write_back(client, admin))
        others[:] = [Caller(partial(client.get, "k"))]

    def get():
        others[0].start()
        return client.get("k")

    for running in at_every_point(get, raising(kind), *STRUCK, prepare=prepare, most=most):
        struck = Caller(running)
        struck.start()
        joined([struck], AT_ONCE, running)
        assert struck.outcome == b"v" or isinstance(struck.outcome, kind), (struck.outcome, running.where)
        struck.outcome = None  # its traceback keeps the frames, and with them a socket
        ends_well(writes.pop(), others, running.where)
        comes_to_rest(client, admin, running.where)


@pytest.mark.parametrize("most", [pytest.param(60, marks=pytest.mark.lab), 5])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_thread_that_makes_another_connection_may_be_struck_anywhere(client, admin, kind, most):
    writes, others = [], []

    def prepare():
        writes.append(hold_a_write_back(client, admin))
        (connection,) = client.sharing.lanes.open
        connection.on_stalled = None  # this thread makes it, and no other
        connection.stalled, connection.stalled_at = HELD_BACK, monotonic()
        others[:] = [Caller(partial(client.get, "k"))]
        others[0].start()
        eventually(lambda: client.sharing.in_flight == 2 or not others[0].is_alive())

    def widen():
        sharing, own = client.sharing, Flight()
        if sharing.lanes.widening.join(own) is own:
            sharing._widen_in_thread(HELD_BACK, own)

    for running in at_every_point(widen, raising(kind), *STRUCK, prepare=prepare, most=most):
        struck = Caller(running)
        struck.start()
        joined([struck], AT_ONCE, running)
        assert struck.outcome is None or isinstance(struck.outcome, kind), (struck.outcome, running.where)
        struck.outcome = None  # its traceback keeps the frames, and with them a socket
        ends_well(writes.pop(), others, running.where)
        comes_to_rest(client, admin, running.where)


def test_another_connection_that_could_not_be_made_is_tried_again(own_server, client, admin, monkeypatch):
    attempts = []
    connect = client.connection_pool.connection_class.connect

    def refuse_first(connection):
        if getattr(connection, "is_spare", False):
            attempts.append(connection)
            if len(attempts) == 1:
                raise ConnectionRefusedError
        return connect(connection)

    write = hold_a_write_back(client, admin)
    admin.client_pause(int(4 * AT_ONCE * 1000), all=False)
    monkeypatch.setattr(client.connection_pool.connection_class, "connect", refuse_first)
    started = monotonic()
    assert client.get("k") == b"v"
    assert monotonic() - started < AT_ONCE
    assert len(attempts) == 2
    admin.client_unpause()
    assert write.ended() is True
    comes_to_rest(client, admin, "a refused attempt")
