"""Sixty-four threads under interrupts, cuts and delays: every reply reaches its owner, nobody hangs, counters close."""

from __future__ import annotations

import gc
import random
import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import HANGS, Caller, at_once, joined
from tests.support.interrupts import KINDS, Interruption, alarm, interrupt, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.proxy import Proxy
from tests.support.servers import eventually

from . import test_sharing_soak as soak
from .test_sharing_soak import LOST, descriptors

THREADS = 64

pytestmark = [soak.pytestmark, socket_left_behind, pytest.mark.lab]


class Owner(soak.Owner):
    """A caller with a key of its own, in a thread that may be interrupted between any two instructions."""

    def __init__(self, client, name):
        super().__init__(client, name)
        self.failures = []
        self.longest = 0.0

    def run(self, ended):
        while not ended.is_set():
            self.step()

    def step(self):
        begun = time.monotonic()
        writes = self.rng.random() < 0.4
        try:
            if not writes:
                self.saw(self.client.get(self.key))
            elif self.rng.random() < 0.5:
                self.write(lambda value: self.client.set(self.key, value))
            else:
                self.write(lambda value: self.client.pipeline().set(self.key, value).get(self.key).execute()[1])
        except LOST as error:
            self.failures.append((writes, error))
            time.sleep(0.001)
        self.longest = max(self.longest, time.monotonic() - begun)

    def write(self, send):
        self.turn += 1
        value = f"{self.key}={self.turn}".encode()
        before = self.possible
        # From here on, and until the reply is in, an interrupt leaves both possible.
        self.possible = before | {value}
        try:
            reply = send(value)
        except OutcomeUnknown:
            raise
        except LOST:
            self.possible = before
            raise
        self.possible = {value}
        if reply is not True:
            self.saw(reply)


class Storm:
    """Owners in threads; ``interrupt_some`` ends a few of the threads and starts others in their place."""

    def __init__(self, client, count, seed):
        self.owners = [Owner(client, number) for number in range(count)]
        self.ended = threading.Event()
        self.rng = random.Random(seed)
        self.interrupts = 0
        self.threads = {}
        for owner in self.owners:
            self.start(owner)

    def start(self, owner):
        caller = self.threads[owner] = Caller(lambda: owner.run(self.ended))
        caller.start()

    def interrupt_some(self, most=8):
        chosen = self.rng.sample(self.owners, self.rng.randint(1, min(most, len(self.owners))))
        for owner in chosen:
            interrupt(self.threads[owner], self.rng.choice(KINDS))
        until = time.monotonic() + HANGS
        for owner in chosen:
            caller = self.threads[owner]
            caller.join(5)
            while caller.is_alive() and time.monotonic() < until:
                # A finaliser may have met the first exception, and those swallow it.
                interrupt(caller)
                caller.join(5)
            joined([caller], 0)
            assert isinstance(caller.outcome, KINDS), f"the thread ended with {caller.outcome!r}"
            self.interrupts += 1
            self.start(owner)

    def end(self):
        self.ended.set()
        joined(self.threads.values())

    def check(self, client):
        """Assert that each owner finds what may be there, and that nobody ever saw anything else."""
        assert client.sharing.in_flight == client.sharing.waiting == 0
        for owner in self.owners:
            owner.saw(client.get(owner.key))
        assert [wrong for owner in self.owners for wrong in owner.wrong] == []
        assert min(owner.replies for owner in self.owners) > 0, "somebody starved"


def test_interrupted_threads_strand_no_other(server):
    """Without any other fault a read never fails, and nobody waits for a reply that somebody took away."""
    with SyncRedis(port=server.port, socket_timeout=HANGS) as client:
        client.ping()
        storm = Storm(client, THREADS, seed=1)
        for _ in range(60):
            time.sleep(storm.rng.uniform(0, 0.02))
            storm.interrupt_some()
        storm.end()
        storm.check(client)
        assert storm.interrupts > 60
        failures = [(writes, error) for owner in storm.owners for writes, error in owner.failures]
        assert [error for writes, error in failures if not writes] == []
        assert [error for _, error in failures if not isinstance(error, OutcomeUnknown)] == []
        assert max(owner.longest for owner in storm.owners) < HANGS / 2


def test_interrupts_cuts_and_timeouts_at_once(server):
    """The main thread leads like any other, and a signal handler raises in it again and again."""
    with Proxy(server.port) as proxy:
        before, threads = descriptors(), threading.active_count()
        with SyncRedis.from_url(proxy.url, socket_timeout=0.5, socket_connect_timeout=5) as client:
            mine = Owner(client, "main")
            storm = Storm(client, THREADS - 1, seed=2)

            def blow():
                for turn in range(60):
                    time.sleep(storm.rng.uniform(0, 0.03))
                    if turn % 3 == 0:
                        proxy.cut(reset=storm.rng.random() < 0.5)
                    if turn % 20 == 10:
                        proxy.reply_delay = 0.7
                    elif turn % 20 == 13:
                        proxy.heal()
                    storm.interrupt_some()
                proxy.heal()

            driver = Caller(blow)
            with alarm(every=0.02) as bell:
                driver.start()
                while driver.is_alive():
                    try:
                        bell.armed = True
                        mine.step()
                    except Interruption:
                        pass
                    bell.armed = False
            assert driver.ended() is None
            storm.end()
            eventually(lambda: at_once([client.ping])[0] is True)
            storm.owners.append(mine)
            storm.check(client)
            assert proxy.cuts > 10
            assert bell.rung > 5
            assert any(isinstance(error, OutcomeUnknown) for owner in storm.owners for _, error in owner.failures)
            assert any(
                isinstance(error, redis_exceptions.TimeoutError)
                for owner in storm.owners
                for _, error in owner.failures
            )
            assert max(owner.longest for owner in storm.owners) < HANGS
        eventually(lambda: proxy.connections == 0)
        # An interrupt may take a socket from redis-py as it connects; the exceptions kept here hold its frames.
        storm.owners.clear()
        storm.threads.clear()
        mine.failures.clear()
        gc.collect()
        eventually(lambda: descriptors() <= before)
        assert threading.active_count() <= threads


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_managers_counters_close_after_interrupts_and_cuts(server, pool_settings, protocol):
    with Proxy(server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=5.0, PROTOCOL=protocol)
        client = manager.get_sync_client()
        client.ping()
        storm = Storm(client, 16, seed=protocol)
        for _ in range(20):
            time.sleep(storm.rng.uniform(0, 0.03))
            storm.interrupt_some(most=4)
            proxy.cut(reset=storm.rng.random() < 0.5)
        storm.end()
        # A check that was interrupted is given up only after the longest that it could have taken.
        eventually(lambda: manager._is_healthy, HANGS)
        client = manager.get_sync_client()
        assert client.echo("after") == b"after"
        storm.check(client)
        info = manager.get_pool_info()
        assert info["connections_opened_total"] - info["connections_closed_total"] == info["connections_open"]
        assert info["connections_in_use"] == info["waiting"] == info["commands_in_flight"] == 0
        eventually(lambda: proxy.connections == info["connections_open"])
        manager.close_sync()
        info = manager.get_pool_info()
        assert info["connections_opened_total"] == info["connections_closed_total"]
        eventually(lambda: proxy.connections == 0)
