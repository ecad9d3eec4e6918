"""Random commands from several threads under random faults, against the model that the async client obeys.

The threads ask all at once. Some are interrupted at a random moment, which leaves what they sent of unknown outcome.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.awaited import Awaited, run
from tests.support.crowd import Caller, at_once, joined, value_of
from tests.support.interrupts import interrupt, interrupt_until_it_ends, socket_left_behind
from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.servers import eventually

from .test_sharing_cuts import LOST
from .test_sharing_model import KEYS, Model, proxy, rounds, send, set_fault  # noqa: F401


class Sender:
    """A thread that sends one unit; one that is to leave stays until its interruption comes."""

    def __init__(self, client, key, unit, ending):
        self.key = key
        self.unit = unit
        self.leaves_after = None if ending[0] == "stays" else ending[1] / 1000
        self.replies = None
        self.failure = None
        self.thread = Caller(partial(self.send, client))

    def send(self, client):
        try:
            self.replies = run(send(Awaited(client), self.key, self.unit))
        except LOST as error:
            self.failure = error
        while self.leaves_after is not None:
            time.sleep(0.0005)

    def judged_by(self, model):
        if self.replies is not None:
            model.replied(self.key, self.unit, self.replies)
        elif self.failure is None or isinstance(self.failure, OutcomeUnknown):
            event(type(self.failure or self.thread.outcome).__name__)
            model.unknown(self.key, self.unit)
        else:
            event(f"not carried out: {type(self.failure).__name__}")


class Timers:
    """What the model takes for an event loop: it calls something later."""

    def __init__(self):
        self.running = []

    def call_later(self, delay, function):
        self.running.append(threading.Timer(delay, function))
        self.running[-1].start()


def play_round(client, proxy, model, fault, calls):  # noqa: F811
    timers = Timers()
    set_fault(proxy, fault, timers)
    senders = [Sender(client, key, unit, ending) for key, (unit, ending) in calls.items()]
    for sender in senders:
        sender.thread.start()
    waited = 0.0
    for sender in sorted(
        (each for each in senders if each.leaves_after is not None), key=lambda each: each.leaves_after
    ):
        time.sleep(sender.leaves_after - waited)
        waited = sender.leaves_after
        interrupt(sender.thread)
    for sender in senders:
        if sender.leaves_after is not None:
            interrupt_until_it_ends(sender.thread)
    joined([*timers.running, *(sender.thread for sender in senders)])
    proxy.heal()
    for sender in senders:
        if sender.leaves_after is None:
            value_of(sender.thread.outcome)
        sender.judged_by(model)


def settled(client, model, key):
    """Read the key, whatever it holds, until that succeeds."""

    def read():
        try:
            for name in ("get", "lrange", "hgetall"):
                unit = ("alone", ((name,),))
                model.replied(key, unit, run(send(Awaited(client), key, unit)))
        except LOST:
            return False
        return True

    eventually(read, timeout=20)


@socket_left_behind
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(rounds, min_size=1, max_size=5), protocol=st.sampled_from([2, 3]))
def test_every_reply_is_explained_by_a_possible_state(shared_server, proxy, plan, protocol):  # noqa: F811
    proxy.heal()
    with shared_server.client() as admin:
        admin.delete(*KEYS)
    model = Model()
    options = {"socket_timeout": 0.1, "socket_connect_timeout": 5, "protocol": protocol}
    with SyncRedis.from_url(proxy.url, **options) as client:
        for fault, calls in plan:
            play_round(client, proxy, model, fault, calls)
            time.sleep(0.005)
        for outcome in at_once(partial(settled, client, model, key) for key in KEYS):
            value_of(outcome)
        # A reply that comes late closes its connection, or the connection is closed when all its callers have left.
        eventually(lambda: client.sharing.in_flight == 0)
