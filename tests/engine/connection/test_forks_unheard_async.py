"""Event loops and forks that Python does not hear of: the parent's goes on, and the child needs one of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest
import uvloop
from django.core.cache import caches
from django.test import override_settings

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.servers import eventually
from tests.support.twin_clients import opened
from tests.support.unheard_forks import fork, hear, in_unheard_child, speak_and_exit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

TIMEOUT = 30.0
PROMPT = 5.0
CURE = "create a new one there, as asyncio.run() does."


@pytest.fixture(params=["asyncio"])
def run(request):
    """Runs a coroutine on a new event loop of the kind."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture
def manager(pool_settings, own_server):
    return pool_settings(own_server.url, SOCKET_TIMEOUT=TIMEOUT)


@pytest.fixture(params=["alone", "managed"])
def find_client(request, own_server):
    """Returns the running loop's client, made by hand or by the manager."""
    if request.param == "managed":
        return request.getfixturevalue("manager").get_client
    client = AsyncRedis.from_url(own_server.url, socket_timeout=TIMEOUT)

    async def find():
        return client

    return find


async def echo_in_tasks(client, tasks=20, turns=20):
    """Use the client from many tasks; return how many replies went to their owners."""

    async def one(number):
        for turn in range(turns):
            text = b"%d-%d-%d" % (os.getpid(), number, turn)
            assert await client.echo(text) == text

    await asyncio.gather(*(one(number) for number in range(tasks)))
    return tasks * turns


def on_a_new_loop(run, find_client):
    async def use():
        return await echo_in_tasks(await find_client())

    return run(use())


def refused(call):
    """Return the text of the ``RuntimeError`` that ends a coroutine at its first step."""
    try:
        call.send(None)
    except RuntimeError as error:
        return str(error)
    except StopIteration as answer:
        return f"returned {answer.value!r}"
    finally:
        call.close()
    return "went on"


def test_a_new_loop_in_the_child_works_and_so_does_the_parents(own_server, run, find_client):
    async def use():
        client = await find_client()
        await client.ping()
        mine, before = await client.client_id(), opened(own_server)
        for _ in range(3):
            assert in_unheard_child(lambda: (refused(client.get("x")), on_a_new_loop(run, find_client))[1]) == "400"
            assert await echo_in_tasks(client) == 400
        assert await client.client_id() == mine
        assert client.sharing.in_flight == 0
        assert opened(own_server, before) <= 6, "each child's: one, and one for CLIENT ID"
        await client.aclose()

    run(use())


def test_a_call_on_the_parents_loop_is_refused_in_the_child_with_the_cure(run, manager):
    async def use():
        client = await manager.get_client()
        await client.ping()

        def calls():
            async def connect():
                async with manager.get_connection() as found:
                    await found.ping()

            return [
                refused(call)
                for call in (
                    client.get("x"),
                    client.blpop("x", timeout=0.01),
                    client.pipeline().get("x").execute(),
                    client.pipeline(transaction=False).get("x").execute(),
                    manager.get_client(),
                    manager.initialize(),
                    manager._health_check(),
                    connect(),
                )
            ]

        said = in_unheard_child(lambda: "\n".join(calls()))
        assert len(said.splitlines()) == 8
        assert {line.endswith(CURE) for line in said.splitlines()} == {True}, said

    run(use())


def test_the_cache_is_refused_on_the_parents_loop_and_works_on_a_new_one(run, manager):
    async def use():
        cache = caches["default"]
        await cache.aset("a", "value of a")

        async def again():
            return [await caches["default"].aget("a") for _ in range(20)]

        def child():
            return refused(cache.aget("a")), refused(cache.aget_or_set("b", 1)), set(run(again()))

        said = in_unheard_child(child)
        assert said.count(CURE) == 2
        assert "{'value of a'}" in said
        assert await cache.aget("a") == "value of a"

    with override_settings(CACHES={"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}):
        run(use())


def test_a_child_of_another_thread_leaves_a_busy_loop_alone(own_server, run, find_client):
    done, stop, failed = [], threading.Event(), []

    async def use():
        client = await find_client()
        while not stop.is_set():
            done.append(await echo_in_tasks(client, turns=2))
        await client.aclose()

    def work():
        try:
            run(use())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            before = len(done)
            eventually(lambda before=before: len(done) > before + 2 or failed, 20)
            # The loop must wait in the kernel: see ``fork_amid`` of the tests for threads.
            own_server.pause()
            time.sleep(0.2)
            reading, writing = os.pipe()
            child = fork()
            if child == 0:
                speak_and_exit(lambda: on_a_new_loop(run, find_client), writing)
            os.close(writing)
            own_server.resume()
            assert hear(reading, child) in ("400", None)
    finally:
        own_server.resume()
        stop.set()
        thread.join(30)
    assert not failed
    assert not thread.is_alive()


@pytest.mark.parametrize("harm", ["abort", "close", "abandon", "collect", "sweep", "drain"])
def test_whatever_a_child_does_to_inherited_connections_the_parents_reads_go_on(own_server, run, manager, harm):
    async def use():
        client = await manager.get_client()
        await client.ping()
        sharing = client.sharing
        transport = sharing.connection._transport
        await client.blpop("empty", timeout=0.01)  # a connection of its own, which lies idle now
        before = opened(own_server)

        def child():
            if harm == "abort":
                sharing.connection.close()
                transport.abort()
            elif harm == "close":
                refused(client.aclose(close_connection_pool=True))
                refused(client.connection_pool.disconnect())
            elif harm == "abandon":
                sharing.abandon()
                client.connection_pool.abandon()
            elif harm == "collect":
                manager._by_loop.clear()
                gc.collect()
            elif harm == "sweep":
                asyncio._set_running_loop(None)
                manager.reset_sync()
            else:
                asyncio._set_running_loop(None)
                manager.close_sync()
            return "done"

        assert in_unheard_child(child) == "done"
        assert await echo_in_tasks(client) == 400
        assert await client.blpop("empty", timeout=0.01) is None
        assert opened(own_server, before) <= 1, "the child's own"

    run(use())


def test_calls_under_way_on_a_loop_that_goes_on_in_the_child_end_there_and_steal_nothing(own_server, manager):
    """The child returns from the fork into the event loop. Its calls end; the parent's get their replies."""

    async def use():
        client = await manager.get_client()
        await client.set("k", "v")
        own_server.pause()
        try:
            read = asyncio.ensure_future(client.get("k"))
            written = asyncio.ensure_future(client.incr("n"))
            await asyncio.sleep(0.1)
            assert client.sharing.in_flight == 2
            reading, writing = os.pipe()
            child = fork()
            if child == 0:
                try:
                    began, outcomes = time.monotonic(), []
                    refused(client.get("another"))  # the first look
                    for call in (read, written):
                        try:
                            outcomes.append(await call)
                        except Exception as error:
                            outcomes.append(type(error).__name__)
                    speak_and_exit(lambda: (outcomes, time.monotonic() - began < PROMPT), writing)
                finally:
                    os._exit(1)  # whatever comes: the child must not go on with the tests
            os.close(writing)
            said = await asyncio.get_running_loop().run_in_executor(None, hear, reading, child)
        finally:
            own_server.resume()
        assert said == f"(['RuntimeError', {OutcomeUnknown.__name__!r}], True)"
        assert await read == b"v"
        assert await written == 1
        assert await echo_in_tasks(client) == 400

    asyncio.run(use())


def test_a_loop_that_reads_in_the_child_before_anything_looked_steals_no_reply(own_server, manager):
    """The reply arrives while both processes wait for it, on one epoll."""

    async def use():
        client = await manager.get_client()
        await client.set("k", "v")
        own_server.pause()
        try:
            read = asyncio.ensure_future(client.get("k"))
            await asyncio.sleep(0.1)
            reading, writing = os.pipe()
            child = fork()
            if child == 0:
                try:
                    try:
                        outcome = await read
                    except Exception as error:
                        outcome = type(error).__name__
                    speak_and_exit(lambda: outcome, writing)
                finally:
                    os._exit(1)
            os.close(writing)
        finally:
            if child:
                time.sleep(0.3)  # the child waits, this process does not
                own_server.resume()
                time.sleep(0.3)
        assert await asyncio.wait_for(read, PROMPT) == b"v"
        assert await asyncio.get_running_loop().run_in_executor(None, hear, reading, child) == "RuntimeError"
        assert await echo_in_tasks(client) == 400

    asyncio.run(use())


def test_a_loop_of_the_childs_own_outlives_a_fork_that_python_makes(own_server, manager):
    """After ``os.fork`` a loop may go on where the parent does not run it any more, as in a daemon."""
    loop = asyncio.new_event_loop()

    async def use():
        return await (await manager.get_client()).ping()

    assert loop.run_until_complete(use())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        speak_and_exit(lambda: loop.run_until_complete(use()), writing)
    os.close(writing)
    assert hear(reading, child) == "True"
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_loop_that_was_never_running_at_the_fork_is_refused_too(manager):
    loop = asyncio.new_event_loop()

    async def use():
        return await (await manager.get_client()).ping()

    async def use_again():
        try:
            return await use()
        except RuntimeError as error:
            return str(error)

    assert loop.run_until_complete(use())
    assert in_unheard_child(lambda: loop.run_until_complete(use_again())).endswith(CURE)
    assert loop.run_until_complete(use())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
