"""Calls that begin inside another call of the same thread: signal handlers, finalizers, logging filters, hooks.

None of them waits for its own thread, and no reply goes to another caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
from functools import partial
from time import monotonic

import pytest

from redispool_app.engine import SyncRedis
from redispool_app.engine.runtime.nesting import inside
from tests.support.cache_faces import new_cache
from tests.support.crowd import HANGS, at_once, value_of, working
from tests.support.interrupts import Interruption, at_every_point, socket_left_behind
from tests.support.proxy import Proxy
from tests.support.servers import eventually

pytestmark = socket_left_behind

PATIENT = 30.0
"""A timeout that no test reaches, in seconds."""

SOON = 5.0
"""No call may take this long, in seconds."""


@pytest.fixture
def client(own_server):
    with SyncRedis.from_url(own_server.url, socket_timeout=PATIENT) as client:
        client.set("k", "v")
        yield client


class Nested:
    """A function for handlers and finalizers: it asks, and remembers what was wrong or slow."""

    def __init__(self, client, raises=False, rests=False):
        self.client = client
        self.raises = raises
        self.calls = 0
        self.wrong = []
        self.slowest = 0.0
        self._depth = 0
        self._rests = rests
        self._rests_until = 0.0

    def __call__(self, *args):
        asked = monotonic()
        if self._depth > 1 or asked < self._rests_until:
            return  # else signals that come more often than they can be handled would leave no time for the other call
        self._depth += 1
        self.calls += 1
        text = f"nested-{self.calls}"
        try:
            wrong = self.ask(text)
            if wrong is not None:
                self.wrong.append((text, wrong))
        except Exception as error:
            self.wrong.append(error)
        finally:
            self._depth -= 1
            now = monotonic()
            self._rests_until = now + (now - asked if self._rests else 0.0)
        self.slowest = max(self.slowest, now - asked)
        if self.raises:
            raise Interruption

    def ask(self, text):
        """Ask by ``text``; return a reply that is not right."""
        found = [self.client.echo(text)]
        if self.calls % 3 == 0:
            found += self.client.pipeline().echo(text).incr("nested").execute()[:1]
        return next((each for each in found if each != text.encode()), None)

    def assert_right(self, at_least):
        assert self.wrong[:3] == []
        assert self.slowest < SOON
        assert self.calls >= at_least


@contextlib.contextmanager
def handled(function, every=0.001):
    """Handle SIGALRM by ``function``, each so many seconds."""
    former = signal.signal(signal.SIGALRM, function)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def ask(client, name, turns):
    for turn in range(turns):
        text = f"{name}-{turn}"
        asked = monotonic()
        assert client.echo(text) == text.encode()
        assert monotonic() - asked < SOON
        if turn % 10 == 0:
            found = client.pipeline(transaction=False).echo(f"a{text}").echo(f"b{text}").execute()
            assert found == [b"a" + text.encode(), b"b" + text.encode()]


def background_threads():
    """Return the threads of the package itself, such as one that keeps a second connection beside a stalled one."""
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("redispool-")}


def at_rest(client):
    """Assert that nothing is left over, and that the client goes on."""
    assert inside.keys() <= background_threads()
    assert at_once([partial(client.get, "k")] * 2, within=HANGS) == [b"v"] * 2
    sharing = client.sharing
    assert (sharing.in_flight, sharing.waiting) == (0, 0)


@pytest.mark.parametrize(("threads", "calls"), [(0, 3000), (3, 500), (15, 50)])
def test_signal_handlers_that_use_the_client_never_wait_for_their_own_thread(client, threads, calls):
    nested = Nested(client, rests=True)
    with working(partial(ask, client, number, 20) for number in range(threads)), handled(nested):
        while nested.calls < calls:
            ask(client, f"main-{nested.calls}", 10)
    nested.assert_right(at_least=calls)
    at_rest(client)


class Garbage:
    """An object in a cycle, whose finalizer uses the client."""

    def __init__(self, nested):
        self.nested = nested
        self.itself = self

    def __del__(self):
        self.nested()


@pytest.mark.parametrize("threads", [1, 16])
def test_finalizers_that_use_the_client_never_wait_for_their_own_thread(client, threads):
    nests = [Nested(client) for _ in range(threads)]

    def produce(number):
        for turn in range(400 // threads):
            for _ in range(5):
                Garbage(nests[number])
            ask(client, f"{number}-{turn}", 3)

    former = gc.get_threshold()
    gc.set_threshold(10, 2, 2)
    try:
        for outcome in at_once([partial(produce, number) for number in range(threads)], within=8 * HANGS):
            value_of(outcome)
    finally:
        gc.set_threshold(*former)
    gc.collect()
    assert sum(nested.calls for nested in nests) >= 1500
    for nested in nests:
        nested.assert_right(at_least=0)
    at_rest(client)


# Every point.


def one_get(client):
    return client.get("k")


def a_pipeline(client):
    return client.pipeline(transaction=False).get("k").get("k").execute()


def a_raw_command(client):
    return client.execute_raw("GET", "k")


WAYS = [one_get, a_raw_command, a_pipeline]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_may_be_nested_anywhere_in_another(client, way, raises):
    nested, expected = Nested(client, raises), way(client)
    for running in at_every_point(partial(way, client), act=nested):
        asked = monotonic()
        (outcome,) = at_once([running])
        if raises:
            assert isinstance(outcome, Interruption) == bool(running.where), (running.where, outcome)
        else:
            assert outcome == expected, running.where
        assert monotonic() - asked < SOON, running.where
        nested.assert_right(at_least=0)
        at_rest(client)
    assert nested.calls > 30


@pytest.mark.lab
@pytest.mark.parametrize("raises", [False, True])
def test_a_call_may_be_nested_anywhere_while_the_other_connects(server, raises):
    made = []

    def begin():
        while made:
            made.pop().close()
        made.append(SyncRedis.from_url(server.url, socket_timeout=PATIENT))

    with server.client() as admin:
        admin.set("k", "v")
    calls = 0

    def nested():
        nonlocal calls
        calls += 1
        assert made[0].echo("nested") == b"nested"
        if raises:
            raise Interruption

    for running in at_every_point(lambda: made[0].get("k"), begin, 60, nested):
        asked = monotonic()
        (outcome,) = at_once([running])
        assert outcome == b"v" or (raises and isinstance(outcome, Interruption)), (running.where, outcome)
        assert monotonic() - asked < SOON, running.where
        at_rest(made[0])
    made.pop().close()
    assert calls > 30


@pytest.mark.lab
@pytest.mark.parametrize("way", WAYS)
def test_a_call_may_be_nested_anywhere_while_the_connection_breaks(server, way):
    with Proxy(server.port) as proxy, SyncRedis.from_url(proxy.url, socket_timeout=PATIENT) as client:
        client.set("k", "v")
        nested, expected = Nested(client), way(client)

        def cut_next():
            client.ping()
            proxy.cut_after = b"GET"

        for running in at_every_point(partial(way, client), cut_next, 40, nested):
            asked = monotonic()
            (outcome,) = at_once([running])
            assert outcome == expected, (running.where, outcome)
            assert monotonic() - asked < SOON, running.where
            proxy.heal()
            nested.assert_right(at_least=0)
            at_rest(client)


@pytest.mark.lab
@pytest.mark.parametrize("way", WAYS)
def test_a_call_may_be_nested_anywhere_in_a_follower(own_server, client, way):
    nested, expected = Nested(client), way(client)
    for running in at_every_point(partial(way, client), most=60, act=nested):
        with working([partial(ask, client, "other", 1)] * 2):
            asked = monotonic()
            (outcome,) = at_once([running])
            assert outcome == expected, running.where
            assert monotonic() - asked < SOON, running.where
        nested.assert_right(at_least=0)
        at_rest(client)


# What else a handler may do.


@pytest.mark.lab
def test_the_client_may_be_closed_anywhere_inside_a_call(server):
    """The call that was interrupted ends at once, by its reply or by an error; nothing stays open."""
    with server.client() as admin:
        admin.set("k", "v")
    made = []

    def begin():
        while made:
            made.pop().close()
        made.append(SyncRedis.from_url(server.url, socket_timeout=PATIENT))
        made[0].ping()

    def close():
        made[0].close()

    for running in at_every_point(lambda: made[0].get("k"), begin, 100, close):
        asked = monotonic()
        at_once([running])
        assert monotonic() - asked < SOON, running.where
        at_rest(made[0])
    made.pop().close()


def test_a_handler_is_answered_while_its_thread_leads(own_server, client):
    """The server holds a write back; a handler of the thread that waits for it asks, and gets its reply meanwhile."""
    answered = []
    with own_server.client() as admin:
        admin.client_pause(1500, all=False)
        with handled(lambda *args: answered.append(client.get("k")), every=0.05):
            client.set("held", "back")
    assert len(answered) > 5
    assert set(answered) == {b"v"}
    at_rest(client)


def test_a_nested_connection_is_kept_for_the_next_and_closed_with_the_client(own_server):
    with own_server.client() as admin:
        before = len(admin.client_list())
        client = SyncRedis.from_url(own_server.url, socket_timeout=PATIENT)
        nested = Nested(client, rests=True)
        with handled(nested):
            while nested.calls < 100:
                client.ping()
        assert len(admin.client_list()) - before == 2
        client.close()
        eventually(lambda: len(admin.client_list()) == before)


# The cache.


@pytest.mark.parametrize(("threads", "calls"), [(0, 1000), (15, 30)])
def test_signal_handlers_that_use_the_cache_never_wait_for_their_own_thread(own_server, pool_settings, threads, calls):
    pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    cache = new_cache()
    cache.set("k", "v")
    nested = Nested(cache, rests=True)
    nested.ask = partial(ask_cache, cache)

    def use(name):
        for turn in range(10):
            ask_cache(cache, f"{name}-{turn}")

    with working(partial(use, number) for number in range(threads)), handled(nested):
        while nested.calls < calls:
            use("main")
    nested.assert_right(at_least=calls)
    assert inside.keys() <= background_threads()
    assert cache.get("k") == "v"


def ask_cache(cache, text):
    cache.set(text, text, 5)
    found = cache.get(text)
    return None if found == text else found


def test_a_blocking_call_may_be_nested_anywhere_in_an_event_loop(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    blocking = manager.get_sync_client()
    blocking.set("k", "v")
    nested, loop = Nested(blocking), asyncio.new_event_loop()
    client = loop.run_until_complete(manager.get_client())

    async def use():
        return [await client.get("k"), *await client.pipeline().get("k").get("k").execute()]

    for running in at_every_point(lambda: loop.run_until_complete(use()), most=400, act=nested):
        asked = monotonic()
        (outcome,) = at_once([running])
        assert outcome == [b"v"] * 3, (running.where, outcome)
        assert monotonic() - asked < SOON, running.where
        nested.assert_right(at_least=0)
        assert blocking.get("k") == b"v"
    assert nested.calls > 15
    loop.run_until_complete(manager.close())
    loop.close()
