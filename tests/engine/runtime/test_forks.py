"""A forked child forgets what it inherited and harms nothing of its parent's."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import traceback
import warnings
from functools import partial

import pytest

from redispool_app.engine.connection import lifecycle
from redispool_app.engine.runtime.jitter import uniform
from tests.support.crowd import started
from tests.support.servers import eventually

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    # Python 3.12 warns about forking a process with threads; that is what these tests do.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def in_child(function):
    """Run ``function`` in a forked child and return what it returns, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, str(function()).encode())
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, said
    return said


def test_parent_and_child_both_keep_working(manager):
    client = manager.get_sync_client()
    client.set("x", "parent")
    mine = client.client_id()

    def work():
        own = manager.get_sync_client()
        own.set("y", "child")
        return own.client_id()

    theirs = int(in_child(work))
    assert theirs != mine
    assert client.client_id() == mine, "the parent's connection survived the child's end"
    assert client.get("y") == b"child"


def test_a_child_does_not_speak_on_its_parents_socket(manager):
    manager.get_sync_client().ping()
    descriptors = [lifecycle._descriptor(connection) for connection in lifecycle._open]
    inherited = [each for each in descriptors if each >= 0]  # a thread of another test may still hold a closed one
    assert inherited

    def work():
        return {os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in inherited}

    assert in_child(work) == "{'/dev/null'}"


async def test_a_fork_inside_a_running_loop_leaves_the_parents_loop_alone(manager):
    client = await manager.get_client()
    mine = await client.client_id()

    def work():
        # A loop of the child's own: the parent's cannot run here.
        asyncio._set_running_loop(None)

        async def use():
            own = await manager.get_client()
            await own.set("from", "child")
            return await own.client_id()

        return asyncio.run(use())

    assert int(in_child(work)) != mine
    assert await client.client_id() == mine
    assert await client.get("from") == b"child"


def test_a_child_that_exits_normally_finalises_nothing_of_its_parents(manager):
    client = manager.get_sync_client()
    mine = client.client_id()
    child = os.fork()
    if child == 0:
        import gc

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert client.client_id() == mine


def test_a_fork_while_another_thread_holds_every_lock_does_not_hang_the_child(manager):
    client = manager.get_sync_client()
    client.ping()
    pool_set = manager._built()
    owners = [manager, pool_set, pool_set.loops, pool_set.monitor, client.sharing, client.sharing.connection]
    is_lock = type(threading.Lock())
    locks = [value for owner in owners for value in vars(owner).values() if isinstance(value, is_lock)]
    assert locks
    held, release = threading.Event(), threading.Event()

    def hold():
        for lock in locks:
            lock.acquire()
        held.set()
        release.wait(30)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        assert in_child(lambda: manager.get_sync_client().ping()) == "True"
    finally:
        release.set()
        thread.join(5)


def test_a_fork_under_traffic_of_many_threads(manager):
    stop = threading.Event()
    wrong = []

    def traffic(number):
        client = manager.get_sync_client()
        turn = 0
        while not stop.is_set():
            turn += 1
            if client.echo(f"{number}-{turn}") != f"{number}-{turn}".encode():
                wrong.append((number, turn))

    threads = [threading.Thread(target=traffic, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: manager.get_sync_client().echo("child")) == "b'child'"
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert wrong == []


def test_a_child_starts_its_counters_at_zero(manager):
    manager.get_sync_client().ping()

    def work():
        info = manager.get_pool_info()
        return info["state"], info["connections_open"], info["connections_opened_total"]

    assert in_child(work) == "('unknown', 0, 0)"


def test_a_closed_manager_stays_closed_in_the_child(manager):
    manager.get_sync_client()
    manager.close_sync()
    assert in_child(lambda: manager.get_pool_info()["state"]) == "closed"


def test_a_fork_while_other_threads_wait_for_room_finds_no_error_in_the_child(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url, MAX_IN_FLIGHT=1, SOCKET_TIMEOUT=30.0, MAX_SHARED_CONNECTIONS=1)
    client, found = manager.get_sync_client(), []
    client.ping()
    with own_server.client() as other:
        other.client_pause(30_000, all=False)
        callers = started([partial(client.set, "k", "v")] * 3)
        eventually(lambda: client.sharing.waiting == 2)
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: found.append(unraisable.exc_value))
        assert in_child(lambda: (manager.get_sync_client().ping(), found)) == "(True, [])"
        other.client_unpause()
    assert [caller.ended() for caller in callers] == [True] * 3


def test_random_delays_leave_the_projects_generator_alone_and_differ_in_a_child():
    before = random.getstate()
    uniform(0.0, 1.0)
    assert random.getstate() == before
    in_the_child = in_child(lambda: uniform(0.0, 1.0))
    assert in_the_child != str(uniform(0.0, 1.0))
