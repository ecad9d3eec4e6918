"""``get_or_set``: one caller in the whole fleet computes, the others wait for its value or take a stale one."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redispool_app.cache.get_or_set import under_way
from redispool_app.cache.keys import LOCK
from tests.support import cache_faces
from tests.support.cache_faces import new_cache, pickled
from tests.support.servers import eventually

face, at_redis, elsewhere = cache_faces.face, cache_faces.at_redis, cache_faces.elsewhere

pytestmark = pytest.mark.usefixtures("manager")

TOO_LONG = 30.0
"""Seconds after which something hangs."""


# One caller alone: Django's semantics.


async def test_what_is_there_is_not_computed(face):
    cache = face()
    await cache.set("k", None)
    assert await cache.get_or_set("k", lambda: pytest.fail("computed")) is None


async def test_what_is_missing_is_computed_and_stored_with_its_time(face, at_redis):
    cache = face()
    assert await cache.get_or_set("k", lambda: (1, 2), 50) == (1, 2)
    assert await cache.get_or_set("k", lambda: pytest.fail("computed")) == (1, 2)
    assert await cache.get_or_set("always", lambda: 5, None) == 5
    assert await cache.get_or_set("v", lambda: 5, version=2) == 5
    assert (at_redis.get(":1:k"), at_redis.get(":1:always")) == (pickled((1, 2)), b"5")
    assert (at_redis.ttl(":1:k"), at_redis.ttl(":1:always"), at_redis.ttl(":2:v")) == (50, -1, 300)
    assert at_redis.dbsize() == 3, "no lock is left behind"


async def test_what_is_no_function_is_stored_as_it_is(face):
    cache = face()
    assert await cache.get_or_set("k", 5) == await cache.get_or_set("k", 6) == 5
    assert await cache.get_or_set("none", None) is None
    assert await cache.has_key("none")


@pytest.mark.parametrize("timeout", [0, -1])
async def test_what_is_not_to_be_stored_is_computed_for_each(face, at_redis, timeout):
    cache, numbers = face(), itertools.count()
    assert [await cache.get_or_set("k", lambda: next(numbers), timeout) for _ in range(3)] == [0, 1, 2]
    assert at_redis.dbsize() == 0


async def test_the_answer_is_what_everybody_else_reads(face):
    value = ["mutable"]
    cache = face()
    assert (answer := await cache.get_or_set("k", lambda: value)) == value
    assert answer is not value
    assert await face(SERIALIZER="json").get_or_set("j", lambda: (1, 2)) == [1, 2]


async def test_a_function_that_fails_stores_nothing_and_leaves_no_lock(face, at_redis):
    cache = face()
    with pytest.raises(LookupError):
        await cache.get_or_set("k", lambda: {}["missing"])
    with pytest.raises(Exception, match=r"pickle|local object"):
        await cache.get_or_set("k", lambda: lambda: None)
    assert at_redis.dbsize() == 0


async def test_a_value_that_came_first_wins(face, at_redis):
    cache = face()

    def computed():
        at_redis.set(":1:k", pickled("faster"))
        return "slower"

    assert await cache.get_or_set("k", computed) == "faster"
    assert await cache.get("k") == "faster"


async def test_a_coroutine_function_is_awaited(at_redis):
    async def computed():
        await asyncio.sleep(0.01)
        return "v"

    for options in ({}, {"STAMPEDE_WAIT": 0}):
        cache = new_cache(**options)
        await cache.adelete("k")
        assert await cache.aget_or_set("k", computed) == await cache.aget("k") == "v"


# Many callers.


async def test_of_many_coroutines_one_computes():
    cache, computed = new_cache(), []

    async def compute():
        computed.append(1)
        await asyncio.sleep(0.05)
        return {"n": len(computed)}

    values = await asyncio.gather(*(cache.aget_or_set("k", compute) for _ in range(200)))
    assert computed == [1]
    assert values == [{"n": 1}] * 200
    values[0]["n"] = "changed"
    assert values[1] == {"n": 1}, "each has a copy of its own"


def test_of_many_threads_one_computes():
    cache, computed = new_cache(), []

    def compute():
        computed.append(1)
        time.sleep(0.05)
        return "v"

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda _: cache.get_or_set("k", compute), range(60))) == ["v"] * 60
    assert computed == [1]


def test_waiting_in_a_process_asks_the_server_once(server, at_redis):
    cache, inside = new_cache(), threading.Event()
    cache.get_or_set("other", lambda: 1)  # the server knows the scripts from here on
    at_redis.config_resetstat()

    def compute():
        inside.wait(TOO_LONG)
        return "v"

    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(cache.get_or_set, "k", compute) for _ in range(20)]
        eventually(lambda: server.calls("get") >= 20)
        time.sleep(0.2)
        inside.set()
        assert [call.result(TOO_LONG) for call in calls] == ["v"] * 20
    assert server.calls("evalsha") == 2, "one to claim and one to fulfil"


def test_of_threads_and_event_loops_together_one_computes():
    cache, computed, barrier = new_cache(), [], threading.Barrier(8)

    def compute():
        computed.append(1)
        time.sleep(0.1)
        return "v"

    def visit(number):
        barrier.wait(TOO_LONG)
        if number % 2:
            return cache.get_or_set("k", compute)
        return asyncio.run(cache.aget_or_set("k", compute))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(visit, range(8))) == ["v"] * 8
    assert computed == [1]


VISITOR = """
import os, sys, time
import django
from django.conf import settings

settings.configure(
    REDIS_POOL={"CONNECTION_URL": sys.argv[1]},
    CACHES={"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}},
    INSTALLED_APPS=["redispool_app"],
)
django.setup()
from django.core.cache import cache

def compute():
    cache.get_client().incr("computed")
    time.sleep(0.3)
    return "v"

client = cache.get_client()
client.incr("ready")
while int(client.get("ready")) < 4:
    time.sleep(0.001)
assert cache.get_or_set("k", compute) == "v"
"""


def test_of_many_processes_one_computes(server, at_redis):
    visitors = [
        subprocess.Popen(
            [sys.executable, "-c", VISITOR, server.url], cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        )
        for _ in range(4)
    ]
    assert [visitor.wait(60) for visitor in visitors] == [0] * 4
    assert at_redis.get("computed") == b"1"


async def test_different_keys_and_versions_do_not_wait_for_each_other(face):
    cache = new_cache()
    inside = asyncio.Event()

    async def slow():
        await inside.wait()
        return "slow"

    waiting = asyncio.create_task(cache.aget_or_set("k", slow))
    assert await cache.aget_or_set("other", lambda: 1) == 1
    assert await cache.aget_or_set("k", lambda: 2, version=2) == 2
    assert not waiting.done()
    inside.set()
    assert await waiting == "slow"


# Somebody else is computing.


async def test_who_waits_gets_the_value_as_soon_as_it_is_there(face, elsewhere):
    threading.Timer(0.1, lambda: elsewhere.set(":1:k", pickled("theirs"))).start()
    assert await face().get_or_set("k", lambda: pytest.fail("computed")) == "theirs"


async def test_a_caller_that_died_is_followed_by_the_next(face, elsewhere):
    cache = face()
    elsewhere.pexpire(f":1:k{LOCK}", 100)
    started = time.monotonic()
    assert await cache.get_or_set("k", lambda: "mine") == "mine"
    assert time.monotonic() - started > 0.05
    assert elsewhere.exists(f":1:k{LOCK}") == 0


async def test_nobody_waits_longer_than_allowed(face, elsewhere):
    started = time.monotonic()
    assert await face(STAMPEDE_WAIT=0.1).get_or_set("k", lambda: "mine") == "mine"
    assert 0.1 <= time.monotonic() - started < TOO_LONG
    assert elsewhere.get(f":1:k{LOCK}") == b"somebody else's token", "not ours to release"
    assert elsewhere.get(":1:k") == pickled("mine")


async def test_without_a_wait_everybody_computes_for_himself(face, elsewhere, server):
    assert await face(STAMPEDE_WAIT=0).get_or_set("k", lambda: "mine") == "mine"
    assert server.calls("evalsha") + server.calls("eval") == 0


async def test_a_lock_lives_as_long_as_the_option_says(face, at_redis):
    left = []

    def compute():
        left.append(at_redis.pttl(f":1:k{LOCK}"))

    await face(STAMPEDE_LOCK_TIMEOUT=2.5).get_or_set("k", compute)
    assert 0 < left[0] <= 2500


async def test_a_failure_is_its_callers_own_and_the_next_tries():
    cache, turns = new_cache(), itertools.count()

    async def compute():
        turn = next(turns)
        await asyncio.sleep(0.02)
        if turn < 2:
            raise LookupError(turn)
        return "third time"

    results = await asyncio.gather(*(cache.aget_or_set("k", compute) for _ in range(20)), return_exceptions=True)
    assert sorted(map(str, results)) == ["0", "1", *["third time"] * 18]


def test_so_it_is_among_threads():
    cache, turns = new_cache(), itertools.count()

    def compute():
        turn = next(turns)
        time.sleep(0.02)
        if turn < 2:
            raise LookupError(turn)
        return "third time"

    def visit(_):
        try:
            return cache.get_or_set("k", compute)
        except LookupError as error:
            return str(error)

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(visit, range(10))) == ["0", "1", *["third time"] * 8]


async def test_a_cancelled_computation_gives_its_lock_back_and_the_next_takes_over(at_redis):
    cache, inside = new_cache(), asyncio.Event()

    async def endless():
        inside.set()
        await asyncio.sleep(3600)

    first = asyncio.create_task(cache.aget_or_set("k", endless))
    await inside.wait()
    second = asyncio.create_task(cache.aget_or_set("k", lambda: "second"))
    await asyncio.sleep(0.05)
    assert not second.done()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, TOO_LONG) == "second"
    assert at_redis.exists(f":1:k{LOCK}") == 0


async def test_a_caller_cancelled_at_any_moment_leaves_no_lock(at_redis):
    cache = new_cache()
    for moment in range(40):
        at_redis.flushdb()
        task = asyncio.create_task(cache.aget_or_set("k", lambda: "v"))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert at_redis.exists(f":1:k{LOCK}") == 0, moment


async def test_a_waiting_caller_can_be_cancelled(elsewhere):
    waiting = [asyncio.create_task(new_cache().aget_or_set("k", lambda: "mine")) for _ in range(3)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    waiting[1].cancel()
    elsewhere.delete(f":1:k{LOCK}")
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), TOO_LONG)
    assert [type(result) for result in results] == [asyncio.CancelledError, asyncio.CancelledError, str]


async def test_nothing_is_remembered_afterwards():
    cache = new_cache()
    await asyncio.gather(*(cache.aget_or_set(str(number), lambda: 1) for number in range(10)))
    await asyncio.to_thread(cache.get_or_set, "k", lambda: 1)
    assert len(under_way) == 0


def test_a_forked_child_does_not_wait_for_its_parents_computation(at_redis):
    cache, inside, done = new_cache(STAMPEDE_LOCK_TIMEOUT=0.2), threading.Event(), threading.Event()

    def compute():
        inside.set()
        done.wait(TOO_LONG)
        return "parent"

    thread = threading.Thread(target=cache.get_or_set, args=("k", compute))
    thread.start()
    inside.wait(TOO_LONG)
    child = os.fork()
    if child == 0:
        started = time.monotonic()
        found = cache.get_or_set("k", lambda: "child")
        os._exit(0 if found == "child" and time.monotonic() - started < 8 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    thread.join()
    assert status == 0
