"""Signal handlers that take time, wherever they meet the thread that reads for the others."""

from __future__ import annotations

import signal
import time
from functools import partial

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from tests.support.crowd import Caller, working


def test_a_handler_that_holds_the_leader_up_costs_no_connection(server):
    """Where the leader has handed its role on, the next one's replies are not taken for surplus replies."""
    client = SyncRedis(port=server.port, socket_timeout=30)

    def use(number):
        assert client.set(f"k{number}", number)
        assert client.get(f"k{number}") == b"%d" % number

    def handler(number, frame):
        time.sleep(0.003)
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # not before: it would interrupt itself

    former = signal.signal(signal.SIGALRM, handler)
    try:
        with client, working([partial(use, number) for number in (1, 2)]):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            ends = time.monotonic() + 3
            while time.monotonic() < ends:
                use(0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            assert client.sharing.statistics.reconnects == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.parametrize("handled", [0.1, 1.5])
def test_a_handler_that_outlasts_a_wait_does_not_prolong_it_for_ever(own_server, handled):
    """``SimpleQueue.get`` forgets its time-out then. The caller that reads asked before, and wakes the others."""
    client = SyncRedis(port=own_server.port, socket_timeout=1)
    client.ping()
    with own_server.client() as admin:
        admin.client_pause(8000, all=False)
    leader = Caller(partial(client.set, "k", "by the leader"))
    former = signal.signal(signal.SIGALRM, lambda number, frame: time.sleep(handled))
    try:
        leader.start()
        while not client.sharing.in_flight:
            time.sleep(0.001)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        asked = time.monotonic()
        with pytest.raises(redis_exceptions.RedisError):
            client.set("k", "by the main thread")
        assert time.monotonic() - asked < 1 + handled + 2
        assert isinstance(leader.ended(5), redis_exceptions.RedisError)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        client.close()
