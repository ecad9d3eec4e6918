"""A child of a fork that Python does not hear of works beside its parent, and harms nothing of its parent's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest
import redis
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.engine.connection import lifecycle
from redispool_app.engine.multiplex import connection_sync
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import Caller, at_once, value_of, working
from tests.support.servers import eventually
from tests.support.twin_clients import opened
from tests.support.unheard_forks import fork as fork_in_c
from tests.support.unheard_forks import hear, in_unheard_child, say_born, speak_and_exit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

THREADS = 4
TIMEOUT = 30.0
PROMPT = 5.0


@pytest.fixture(autouse=True)
def leaders_sleep_while_the_process_is_forked(monkeypatch):
    """One that wakes and waits for the interpreter's lock just then would leave the child without it for good."""
    monkeypatch.setattr(connection_sync, "_WAIT", 0.05)


@pytest.fixture
def manager(pool_settings, own_server):
    return pool_settings(own_server.url, SOCKET_TIMEOUT=TIMEOUT)


@pytest.fixture(params=["alone", "managed"])
def client(request, own_server):
    """A client that threads share, made by hand or by the manager."""
    if request.param == "managed":
        yield request.getfixturevalue("manager").get_sync_client()
        return
    with SyncRedis.from_url(own_server.url, socket_timeout=TIMEOUT) as client:
        yield client


def echo_one(client, counter=None):
    text = b"%d-%d-%f" % (os.getpid(), threading.get_ident(), time.monotonic())
    assert client.echo(text) == text
    if counter is not None:
        counter.append(1)


def echo_in_threads(client, threads=THREADS, turns=50):
    """Use the client from threads; return how many replies went to their owners."""
    counter = []
    for outcome in at_once([lambda: [echo_one(client, counter) for _ in range(turns)]] * threads):
        value_of(outcome)
    return len(counter)


async def echo_in_tasks(client, tasks=20, turns=20):
    async def one(number):
        for turn in range(turns):
            text = b"%d-%d-%d" % (os.getpid(), number, turn)
            assert await client.echo(text) == text

    await asyncio.gather(*(one(number) for number in range(tasks)))
    return tasks * turns


@pytest.mark.parametrize("releasing", [False, True], ids=["lock held", "lock released"])
def test_parent_and_child_both_keep_working(own_server, client, releasing):
    echo_one(client)
    before = opened(own_server)
    shared = client.sharing.connection
    assert in_unheard_child(lambda: echo_in_threads(client), releasing=releasing) == str(THREADS * 50)
    assert echo_in_threads(client) == THREADS * 50
    assert client.sharing.connection is shared
    assert opened(own_server, before) == 1, "the child's"


def fork_amid(own_server, client, in_flight, function):
    """Fork while so many commands of other threads or tasks are under way; return what the child says.

    The server stands still meanwhile, so that the other threads wait in the kernel. With one that waits for the
    interpreter's lock, Python itself would not survive a fork that it does not hear of.
    """
    client.ping()  # connected before the server stands still
    # Threads that look around for another connection would wait for the interpreter's lock, too.
    client.sharing.connection.on_stalled, client.sharing._first_wait = None, TIMEOUT
    while True:
        own_server.pause()
        try:
            eventually(lambda: client.sharing.in_flight == in_flight)
            time.sleep(0.02)
            reading, writing = os.pipe()
            child = fork_in_c()
            if child == 0:
                speak_and_exit(function, writing)
            os.close(writing)
        finally:
            own_server.resume()
        if (said := hear(reading, child)) is not None:
            return said


def test_amid_calls_of_many_threads_each_reply_belongs_to_its_caller(own_server, client):
    done = []
    with working([partial(echo_one, client, done)] * THREADS):
        for _ in range(5):
            said = fork_amid(own_server, client, THREADS, lambda: echo_in_threads(client))
            assert said == str(THREADS * 50)
            before = len(done)
            eventually(lambda before=before: len(done) > before + 100, 20)
    assert client.sharing.in_flight == 0


def test_a_thread_forks_that_is_not_the_main_one(own_server, client):
    def fork_and_use():
        return fork_amid(own_server, client, THREADS, lambda: echo_in_threads(client, threads=2))

    with working([partial(echo_one, client)] * THREADS):
        assert at_once([fork_and_use]) == ["100"]


def test_a_reused_process_id_fools_nothing(own_server, client, monkeypatch):
    echo_one(client)
    before = opened(own_server)
    parent = os.getpid()

    def use():
        monkeypatch.setattr(os, "getpid", lambda: parent)
        return echo_in_threads(client)

    assert in_unheard_child(use) == str(THREADS * 50)
    assert echo_in_threads(client) == THREADS * 50
    assert opened(own_server, before) == 1, "the child's"


def test_children_of_children_keep_working(client):
    def generation(left):
        echo_one(client)
        return f"{left} {in_unheard_child(partial(generation, left - 1))}" if left else "0"

    assert in_unheard_child(partial(generation, 3)) == "3 2 1 0"
    echo_one(client)


def test_a_child_that_never_looked_forks_again(client):
    echo_one(client)
    assert in_unheard_child(lambda: in_unheard_child(lambda: echo_in_threads(client, threads=2))) == "100"
    echo_one(client)


def test_a_child_that_closes_its_clients_closes_nothing_of_its_parents(own_server, client, monkeypatch):
    client.ping()
    before, parent = opened(own_server), os.getpid()

    def close():
        monkeypatch.setattr(os, "getpid", lambda: parent)
        client.close()
        client.connection_pool.disconnect()
        return "closed"

    assert in_unheard_child(close) == "closed"
    assert echo_in_threads(client) == THREADS * 50
    assert opened(own_server, before) == 0


def test_the_child_holds_no_socket_of_its_parents_once_it_has_looked(manager):
    client = manager.get_sync_client()
    client.ping()
    client.blpop("empty", timeout=0.01)  # one connection of its own, which lies idle now
    inherited = [number for number in map(lifecycle._descriptor, lifecycle._open) if number >= 0]
    assert len(inherited) == 2

    def look():
        client.ping()
        return {os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in inherited}

    assert in_unheard_child(look) == "{'/dev/null'}"


def test_a_child_at_its_limit_of_open_files_lets_go_of_its_parents_sockets(own_server, manager):
    import resource

    client = manager.get_sync_client()
    client.ping()
    client.blpop("empty", timeout=0.01)
    inherited = [number for number in map(lifecycle._descriptor, lifecycle._open) if number >= 0]

    def use():
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with contextlib.suppress(redis_exceptions.ConnectionError):
            client.get("needs a descriptor")
        return {os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in inherited}

    assert in_unheard_child(use) == "{'/dev/null'}"
    assert client.ping()


def every_lock():
    """Return all locks of the package's modules and objects."""
    holders = [vars(module) for name, module in sys.modules.items() if name.startswith("redispool_app")]
    for found in gc.get_objects():
        if str(type(found).__module__).startswith("redispool_app"):
            slots = [name for each in type(found).__mro__ for name in getattr(each, "__slots__", ())]
            holders += [getattr(found, "__dict__", {}), {name: getattr(found, name, None) for name in slots}]
    kinds = (type(threading.Lock()), type(threading.RLock()))
    return list(
        {id(value): value for holder in holders for value in holder.values() if isinstance(value, kinds)}.values()
    )


def test_every_lock_of_the_manager_may_have_been_held(manager):
    manager.get_sync_client().ping()
    locks = every_lock()
    assert len(locks) > 5
    held, release = threading.Event(), threading.Event()

    def hold():
        taken = [lock for lock in locks if lock.acquire(blocking=False)]
        held.set()
        release.wait(60)
        for lock in taken:
            lock.release()

    def use():
        client = manager.get_sync_client()
        with client.pipeline() as pipe:
            pipe.watch("x")
            pipe.multi()
            pipe.set("x", 1)
            pipe.execute()
        return client.ping()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        assert in_unheard_child(use) == "True"
        for method in ("health_history", "slow_commands", "latency_histogram", "get_pool_info", "resume", "pause"):
            assert in_unheard_child(lambda method=method: bool(getattr(manager, method)()) in (True, False)) == "True"
    finally:
        release.set()
        thread.join(10)


def test_a_child_starts_its_counters_at_zero(manager):
    manager.get_sync_client().ping()

    def work():
        info = manager.get_pool_info()
        return info["state"], info["connections_open"], info["connections_opened_total"], info["commands_total"]

    assert in_unheard_child(work) == "('unknown', 0, 0, 0)"


# What callers held when the process was forked.


def test_a_held_subscription_subscribes_again_in_the_child(own_server, manager):
    client = manager.get_sync_client()
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=1) is None

        def listen():
            pubsub.subscribe("more")
            eventually(lambda: client.pubsub_numsub("more") == [(b"more", 1)])
            client.publish("news", "to both")
            deadline = time.monotonic() + PROMPT
            while time.monotonic() < deadline:
                if message := pubsub.get_message(timeout=0.1):
                    return message["data"], manager.get_pool_info()["state"]
            return None

        assert in_unheard_child(listen) in ("(b'to both', 'healthy')", "(b'to both', 'unknown')")
        messages = []
        eventually(lambda: messages.append(pubsub.get_message(timeout=0.1)) or any(messages))
        assert next(filter(None, messages))["data"] == b"to both"


def test_a_subscription_that_the_child_drops_ends_nothing_of_its_parents(manager):
    client = manager.get_sync_client()
    held = [client.pubsub(ignore_subscribe_messages=True)]
    held[0].subscribe("news")
    held[0].get_message(timeout=1)

    def drop():
        held.clear()
        gc.collect()
        return "dropped"

    assert in_unheard_child(drop) == "dropped"
    client.publish("news", "still here")
    messages = []
    eventually(lambda: messages.append(held[0].get_message(timeout=0.1)) or any(messages))


def test_a_watch_of_the_parents_is_lost_in_the_child_and_says_so(manager):
    client = manager.get_sync_client()
    client.set("balance", 1)
    with client.pipeline() as pipe:
        pipe.watch("balance")

        def execute():
            pipe.multi()
            pipe.set("balance", 2)
            try:
                pipe.execute()
            except (redis.WatchError, redis_exceptions.ConnectionError) as error:
                return type(error).__name__, manager.get_sync_client().get("balance")
            return "executed"

        def read_and_execute():
            try:
                pipe.get("balance")
                return execute()
            except (redis.WatchError, redis_exceptions.ConnectionError) as error:
                return type(error).__name__, manager.get_sync_client().get("balance")

        for attempt in (execute, read_and_execute):
            assert in_unheard_child(attempt).endswith("Error', b'1')")
        pipe.multi()
        pipe.set("balance", 3)
        assert pipe.execute() == [True]


def test_what_the_parents_threads_held_of_the_pool_is_free_in_the_child(pool_settings, own_server):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=TIMEOUT, MAX_CONNECTIONS=2)
    client = manager.get_sync_client()
    waiting = Caller(lambda: client.blpop("queue", timeout=20))
    waiting.start()
    eventually(lambda: own_server.info("clients")["blocked_clients"] == 1)  # that thread waits in the kernel

    def use():
        began = time.monotonic()
        client.blpop("nothing", timeout=0.01)
        return time.monotonic() - began < PROMPT

    assert in_unheard_child(use) == "True"
    client.rpush("queue", "item")
    assert waiting.ended() == (b"queue", b"item")


# A fork inside a call: the frames of the thread that forks go on in the child.


class ForkInside:
    """Runs calls while a timer's signal forks the process inside them.

    The timer is the kernel's: a thread that sent the signal would want the interpreter's lock while the process forks.
    """

    def __init__(self):
        self.parent = os.getpid()
        self.children = []
        self._busy = False
        self._calls = False
        self._writing = None

    def handle(self, number, frame):
        if self._busy or not self._calls:
            return  # it has interrupted itself, is in a child, or comes where no look for a child follows
        self._busy = True
        reading, writing = os.pipe()
        child = fork_in_c()
        if child == 0:
            self._writing = writing
            say_born(writing)
            return  # the interrupted call goes on
        os.close(writing)
        self.children.append((reading, child))
        self._busy = False

    def run(self, call, then):
        """Return what ``call`` returns, or the name of what it raises. A child says ``then(that)``, and ends."""
        try:
            try:
                self._calls = True
                value = call()
            except Exception as error:
                value = type(error).__name__
            self._calls = False
        except BaseException:
            if os.getpid() != self.parent:
                os._exit(1)
            raise
        if os.getpid() != self.parent:
            speak_and_exit(lambda: then(value), self._writing, born=True)
        return value

    def heard(self):
        """Return what each child said; without those that never ran (see ``in_unheard_child``)."""
        said = [hear(reading, child) for reading, child in self.children]
        return [each for each in said if each is not None]


@pytest.fixture
def inside():
    forking = ForkInside()
    before = signal.signal(signal.SIGALRM, forking.handle)
    yield forking
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_leader_that_forks_reads_and_writes_nothing_of_its_parents_in_the_child(inside, own_server, client):
    client.set("k", "v")
    own_server.pause()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    threading.Timer(1.5, own_server.resume).start()
    value = inside.run(lambda: client.get("k"), lambda value: (value, echo_in_threads(client, threads=2)))
    assert value == b"v"
    assert echo_in_threads(client) == THREADS * 50
    assert len(inside.children) == 1
    assert set(inside.heard()) <= {"(b'v', 100)"}


def test_a_write_under_way_when_its_leader_forks_is_unknown_in_the_child(inside, own_server, client):
    client.ping()
    own_server.pause()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    threading.Timer(1.5, own_server.resume).start()
    value = inside.run(lambda: client.incr("n"), lambda value: (value, client.get("n")))
    assert value == 1
    assert len(inside.children) == 1
    assert set(inside.heard()) <= {f"({OutcomeUnknown.__name__!r}, b'1')"}
    assert client.get("n") == b"1"


def test_a_follower_that_forks_gets_its_own_reply_in_parent_and_child(inside, own_server, client):
    client.set("k", "v")
    # A thread that makes another connection would wait for the interpreter's lock. CPython's queue waits for ever if a
    # signal handler outlasts the time-out of the wait that it interrupts, so that is longer here.
    client.sharing.connection.on_stalled, client.sharing._first_wait = None, 0.5
    own_server.pause()
    leader = Caller(partial(client.echo, "leader"))
    leader.start()
    eventually(lambda: client.sharing.in_flight == 1)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    threading.Timer(1.5, own_server.resume).start()
    began = time.monotonic()
    value = inside.run(lambda: client.get("k"), lambda value: (value, time.monotonic() - began < PROMPT))
    assert value == b"v"
    assert leader.ended() == b"leader"
    assert len(inside.children) == 1
    assert set(inside.heard()) <= {"(b'v', True)"}


def test_forks_at_any_moment_of_a_busy_caller_shift_no_reply(inside, client):
    """A signal every few milliseconds; each child ends its call, makes some more, and ends."""
    client.ping()
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0373)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        inside.run(lambda: echo_one(client), lambda value: (value, *(echo_one(client) for _ in range(10))))
    signal.setitimer(signal.ITIMER_REAL, 0)
    heard = inside.heard()
    assert len(heard) > 5
    assert set(heard) == {str((None,) * 11)}
