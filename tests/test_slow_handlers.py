"""Signal handlers that take time, wherever they meet the thread that reads for the others."""

from __future__ import annotations

import signal
import time
from functools import partial

from redispool_app.engine import SyncRedis

from .crowd import working


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
