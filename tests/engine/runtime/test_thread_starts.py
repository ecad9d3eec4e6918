"""A background thread that ends before it has begun, as for want of memory: the caller that starts it does not wait."""

from __future__ import annotations

import threading
from functools import partial
from time import monotonic, sleep

import pytest

from redispool_app.engine import SyncRedis
from redispool_app.engine.runtime import threads
from redispool_app.engine.runtime.worker import Worker
from tests.support.crowd import Caller, joined
from tests.support.servers import eventually

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the thread that ends

PATIENT = 30.0
"""``SOCKET_TIMEOUT`` in seconds: no caller may wait for it."""

AT_ONCE = 10.0
"""Seconds within which a start has failed; generous, for a busy machine."""


@pytest.fixture
def failing(monkeypatch):
    """Let threads of this package, of which the names are put in here, end in CPython's own first steps."""
    real, names = threading.Thread._set_ident, set()

    def set_ident(thread):
        if thread.name in names:
            raise MemoryError
        real(thread)

    monkeypatch.setattr(threading.Thread, "_set_ident", set_ident)
    return names


def test_a_start_fails_when_its_thread_ends_before_it_has_begun(failing):
    failing.add("redispool-test")
    began, ran = monotonic(), []
    with pytest.raises(RuntimeError, match="has not begun"):
        threads.start(ran.append, 1, name="redispool-test")
    assert monotonic() - began < AT_ONCE
    failing.clear()
    threads.start(ran.append, 2, name="redispool-test").join(AT_ONCE)
    assert ran == [2]


def test_a_worker_whose_thread_ended_so_is_started_another_time(failing):
    ran = []
    worker = Worker("redispool-test", lambda run: ran.append(1))
    failing.add("redispool-test")
    assert not worker.ensure()
    failing.clear()
    assert worker.ensure()
    eventually(lambda: ran == [1], AT_ONCE)


def test_a_thread_that_begins_late_runs_all_the_same(monkeypatch):
    monkeypatch.setattr(threads, "LONGEST_START", 0.05)
    real, ran = threading.Thread._set_ident, []

    def set_ident(thread):
        if thread.name == "redispool-test":
            sleep(0.3)
        real(thread)

    monkeypatch.setattr(threading.Thread, "_set_ident", set_ident)
    with pytest.raises(RuntimeError):
        threads.start(ran.append, 1, name="redispool-test")
    eventually(lambda: ran == [1], AT_ONCE)


def test_a_stall_whose_thread_ended_so_holds_no_caller_and_the_next_one_gets_a_connection(own_server, failing):
    with SyncRedis(port=own_server.port, socket_timeout=PATIENT) as client, own_server.client() as admin:
        client.set("k", "v")

        def stall():
            client.ping()
            admin.client_pause(1500, all=False)
            write = Caller(partial(client.set, "held", "back"))
            write.start()
            eventually(lambda: client.sharing.in_flight == 1)
            reads = [Caller(partial(client.get, "k")) for _ in range(3)]
            for each in reads:
                each.start()
            joined([write, *reads], AT_ONCE, "a stall")
            assert [write.outcome, *(each.outcome for each in reads)] == [True, b"v", b"v", b"v"]

        failing.add("redispool-widening")
        stall()
        failing.clear()
        sleep(1.1)  # for so long no other attempt is made
        before = own_server.info("stats")["total_connections_received"]
        stall()
        assert own_server.info("stats")["total_connections_received"] > before + 1
