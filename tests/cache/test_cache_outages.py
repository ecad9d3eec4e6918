"""Redis stops, dies, comes back: the cache raises at once, or is an empty one with ``IGNORE_EXCEPTIONS``."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.cache import context as cache_setup
from redispool_app.cache.get_or_set import Compute, Wanted
from redispool_app.cache.keys import LOCK
from redispool_app.cache.scripts import CLAIM, RELEASE
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, RedisUnavailable
from tests.support import cache_faces
from tests.support.cache_faces import Face, new_cache
from tests.support.servers import eventually, free_port

face = cache_faces.face

# Limits are the promise plus room for a machine that does other things meanwhile.
SLACK = 1.0

SHORT = {"SOCKET_TIMEOUT": 0.3, "HEALTH_CHECK_TIMEOUT": 0.3}


@pytest.fixture
def down(pool_settings):
    """The default pool on a port where nothing listens, and where nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield pool_settings(f"redis://127.0.0.1:{taken.getsockname()[1]}")


EMPTY = [
    ("get", ("k", "default"), "default"),
    ("get_many", (["a", "b"],), {}),
    ("set", ("k", 1), None),
    ("set", ("k", 1, 0), None),
    ("add", ("k", 1), False),
    ("add", ("k", 1, 0), False),
    ("set_many", ({"a": 1, "b": 2},), ["a", "b"]),
    ("set_many", ({"a": 1}, None), ["a"]),
    ("delete", ("k",), False),
    ("delete_many", (["a", "b"],), None),
    ("touch", ("k", 5), False),
    ("touch", ("k", None), False),
    ("has_key", ("k",), False),
    ("get_or_set", ("k", "plain"), "plain"),
    ("get_or_set", ("k", lambda: "computed"), "computed"),
    ("clear", (), False),
    ("ttl", ("k",), 0),
    ("pttl", ("k",), 0),
    ("persist", ("k",), False),
    ("expire", ("k", 5), False),
    ("pexpire", ("k", 5), False),
    ("expire_at", ("k", 5), False),
    ("pexpire_at", ("k", 5), False),
    ("keys", ("*",), []),
    ("iter_keys", ("*",), []),
    ("delete_pattern", ("*",), 0),
]


@pytest.mark.parametrize("options", [{}, {"STALE_TIMEOUT": 5}], ids=["", "stale"])
@pytest.mark.parametrize(
    ("name", "args", "answer"), EMPTY, ids=[f"{number}-{name}" for number, (name, *_) in enumerate(EMPTY)]
)
async def test_an_ignored_outage_makes_the_cache_an_empty_one(face, down, name, args, answer, options):
    assert await getattr(face(IGNORE_EXCEPTIONS=True, **options), name)(*args) == answer


@pytest.mark.parametrize("options", [{}, {"STALE_TIMEOUT": 5}], ids=["", "stale"])
@pytest.mark.parametrize("condition", ["nx", "xx"])
@pytest.mark.parametrize("timeout", [5, None, 0])
async def test_on_a_condition_nothing_is_stored_during_an_outage(face, down, timeout, condition, options):
    ignoring, strict = face(IGNORE_EXCEPTIONS=True, **options), face(**options)
    assert await ignoring.set("k", 1, timeout, **{condition: True}) is False
    with pytest.raises(RedisUnavailable):
        await strict.set("k", 1, timeout, **{condition: True})


def test_during_an_outage_nothing_is_in_the_cache(down):
    assert "k" not in new_cache(IGNORE_EXCEPTIONS=True)
    with pytest.raises(RedisUnavailable):
        assert "k" in new_cache()


@pytest.mark.parametrize("name", ["incr", "decr", "incr_version", "decr_version"])
async def test_counting_what_an_empty_cache_does_not_have_is_a_value_error(face, down, name):
    with pytest.raises(ValueError, match=r"^Key '.*k' not found\.?$"):
        await getattr(face(IGNORE_EXCEPTIONS=True), name)("k")


async def test_flushing_says_that_it_was_not_done(face, down):
    assert await face(IGNORE_EXCEPTIONS=True, CLEAR_FLUSHES_DB=True).clear() is False


CALLS = [(name, args) for name, args, _ in EMPTY] + [("incr", ("k",)), ("incr_version", ("k",))]


@pytest.mark.parametrize(("name", "args"), CALLS, ids=[f"{number}-{name}" for number, (name, _) in enumerate(CALLS)])
async def test_without_the_option_every_call_raises(face, down, name, args):
    with pytest.raises(RedisUnavailable, match="Nothing listens"):
        await getattr(face(), name)(*args)


async def test_locks_are_never_pretended(face, down):
    cache = face(IGNORE_EXCEPTIONS=True)
    with pytest.raises(RedisUnavailable):
        async with cache.lock("job", timeout=5):
            pytest.fail("a lock without a server")
    with pytest.raises(RedisUnavailable):
        await cache.get_client()


def waits_of(call):
    """Return what ``call()`` returns, and the names of what this thread spoke to the network with, or waited with."""
    waits = []

    def note(frame, event, function):
        if event == "c_call" and function.__qualname__.partition(".")[0] in (
            "epoll",
            "poll",
            "select",
            "sleep",
            "socket",
        ):
            waits.append(function.__qualname__)
        elif event == "call" and frame.f_code.co_name == "wait":
            waits.append("wait")  # threading's, and whatever is built on locks here

    sys.setprofile(note)
    try:
        returned = call()
    finally:
        sys.setprofile(None)
    return returned, waits


def at_once(coroutine):
    """Return what the coroutine returns; it must do so without ever handing over to its event loop."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


def test_what_waits_is_seen(server):
    with server.client() as client:
        assert set(waits_of(client.ping)[1]) >= {"socket.connect", "socket.sendall"}
    assert waits_of(lambda: time.sleep(0))[1] == ["sleep"]
    assert "wait" in waits_of(lambda: threading.Event().wait(0))[1]
    assert waits_of(lambda: 5) == (5, [])


async def test_a_paused_server_costs_one_timeout_and_then_nobody_waits_or_asks_it(own_server, pool_settings):
    manager = pool_settings(own_server.url, **SHORT)
    cache = new_cache(IGNORE_EXCEPTIONS=True)
    await cache.aset("k", "v")
    cache.set("j", "w")
    own_server.pause()
    started = time.monotonic()
    assert await cache.aget("k", "default") == "default"
    assert time.monotonic() - started < 0.3 + SLACK
    eventually(lambda: manager.is_down)
    for _ in range(20):
        for coroutine, answer in (
            (cache.aget("k", "default"), "default"),
            (cache.aset("k", "new"), None),
            (cache.aget_or_set("k", lambda: 5), 5),
        ):
            assert waits_of(partial(at_once, coroutine)) == (answer, [])
        for call, answer in (
            (partial(cache.get, "j", "default"), "default"),
            (partial(cache.set, "j", "new"), None),
            (partial(cache.get_or_set, "j", lambda: 5), 5),
        ):
            assert waits_of(call) == (answer, [])
    own_server.resume()
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    assert own_server.calls("get") <= 1, "the one that waited"
    assert own_server.calls("set") == 2
    assert own_server.calls("evalsha") == 0
    assert await cache.aget("k") == "v"
    assert cache.get("j") == "w"


async def test_a_server_that_died_is_back_in_use_as_soon_as_it_is_back(own_server, pool_settings, face):
    manager = pool_settings(own_server.url, **SHORT)
    ignoring, strict = face(IGNORE_EXCEPTIONS=True), face()
    await strict.set("k", "v")
    own_server.kill()
    for _ in range(20):
        assert await ignoring.get("k") is None
    with pytest.raises(RedisUnavailable):
        await strict.get("k")
    own_server.start()
    eventually(lambda: manager._is_healthy, 2 + SLACK)
    assert await strict.get("k") is None
    await ignoring.set("k", "w")
    assert await strict.get("k") == "w"


@pytest.mark.parametrize("blocking", [True, False])
async def test_an_outage_while_many_call_hangs_nobody(own_server, pool_settings, blocking):
    pool_settings(own_server.url, **SHORT)
    cache = Face(new_cache(IGNORE_EXCEPTIONS=True, STAMPEDE_WAIT=5), blocking)
    await cache.set("k", "v")
    ended = threading.Event()

    async def visit(number):
        calls = 0
        while not ended.is_set():
            assert await cache.get("k") in ("v", None)
            assert await cache.get_or_set(f"{number % 3}", lambda: number % 3) == number % 3
            await asyncio.sleep(0.001)
            calls += 1
        return calls

    def in_thread(number):
        return asyncio.run(visit(number))

    if blocking:
        # Threads of their own: those of the loop are for pausing and killing.
        pool, loop = ThreadPoolExecutor(6), asyncio.get_running_loop()
        visits = [loop.run_in_executor(pool, in_thread, number) for number in range(6)]
    else:
        visits = [asyncio.create_task(visit(number)) for number in range(30)]
    await asyncio.sleep(0.2)
    for act in (own_server.pause, own_server.resume, own_server.kill, own_server.start):
        await asyncio.to_thread(act)
        await asyncio.sleep(0.4)
    ended.set()
    assert sum(await asyncio.wait_for(asyncio.gather(*visits), 30)) > len(visits)


async def test_a_computation_outlives_the_server(own_server, pool_settings, face):
    pool_settings(own_server.url, **SHORT)
    cache = face(IGNORE_EXCEPTIONS=True)

    def compute():
        own_server.kill()
        return "v"

    assert await cache.get_or_set("k", compute) == "v"


async def test_an_ignored_outage_still_has_a_function_called_once_for_all_who_wait(down):
    cache, computed = new_cache(IGNORE_EXCEPTIONS=True), []

    async def compute():
        computed.append(1)
        await asyncio.sleep(0.05)
        return {"n": 1}

    values = await asyncio.gather(*(cache.aget_or_set("k", compute) for _ in range(20)))
    assert values == [{"n": 1}] * 20
    assert computed == [1]


def test_so_it_is_among_threads(down):
    cache, computed = new_cache(IGNORE_EXCEPTIONS=True), []

    def compute():
        computed.append(1)
        # Until all the others wait, or have asked in vain.
        eventually(lambda: waiting_in_flights() == 9)
        return "v"

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(lambda _: cache.get_or_set("k", compute), range(10))) == ["v"] * 10
    assert computed == [1]


def waiting_in_flights():
    frames = sys._current_frames().values()
    return sum(
        (frame.f_code.co_name, Path(frame.f_code.co_filename).name) == ("wait", "single_flight.py") for frame in frames
    )


async def test_a_value_that_the_server_refuses_leaves_no_lock_for_others_to_wait_for(own_server, pool_settings, face):
    pool_settings(own_server.url)
    cache, locks = face(IGNORE_EXCEPTIONS=True), []
    with own_server.client() as admin:

        def compute():
            locks.append(admin.exists(f":1:k{LOCK}"))
            admin.config_set("maxmemory", 1)
            return "v"

        assert await cache.get_or_set("k", compute) == "v"
        assert locks == [1]
        assert admin.dbsize() == 0


@pytest.mark.parametrize("ignored", [True, False])
def test_a_lock_whose_grant_was_lost_on_the_way_is_given_back(down, ignored):
    wanted = Wanted(new_cache(IGNORE_EXCEPTIONS=ignored)._setup, ":1:k", 50)
    steps = wanted.steps()
    claim = next(steps)
    assert claim.script is CLAIM
    release = steps.throw(OutcomeUnknown("cut"))
    _, _, _, _, token, _ = claim.commands[0]
    assert (release.script, release.commands) == (RELEASE, ((1, f":1:k{LOCK}", token),))
    if ignored:
        assert isinstance(steps.send(1), Compute)
        with pytest.raises(StopIteration) as end:
            steps.send("v")
        assert end.value.value == "v"
    else:
        with pytest.raises(OutcomeUnknown):
            steps.send(1)


async def test_a_server_that_refuses_to_store_is_an_outage_too(own_server, pool_settings, face):
    pool_settings(own_server.url)
    ignoring, strict = face(IGNORE_EXCEPTIONS=True), face()
    await strict.set("k", "v")
    with own_server.client() as admin:
        admin.config_set("maxmemory", 1)
        admin.config_set("maxmemory-policy", "noeviction")
    assert await ignoring.set("k", "w") is None
    assert await ignoring.add("new", "w") is False
    assert await ignoring.get("k") == "v"
    with pytest.raises(redis_exceptions.OutOfMemoryError):
        await strict.set("k", "w")


@pytest.mark.parametrize("options", [{}, {"STALE_TIMEOUT": 5}], ids=["", "stale"])
async def test_a_primary_that_misses_its_replicas_is_an_outage_too(own_server, pool_settings, face, options):
    pool_settings(own_server.url)
    ignoring, strict = face(IGNORE_EXCEPTIONS=True, **options), face(**options)
    await strict.set_many({"k": "v", "n": 1})
    with own_server.client() as admin:
        admin.config_set("min-replicas-to-write", 1)
    assert await ignoring.set("k", "w") is None
    assert await ignoring.add("new", "w") is False
    assert await ignoring.delete("k") is False
    assert await ignoring.set_many({"k": "w", "new": 1}) == ["k", "new"]
    assert await ignoring.get_or_set("new", lambda: "computed") == "computed"
    with pytest.raises(ValueError, match="not found"):
        await ignoring.incr("n")
    assert await ignoring.clear() is False
    assert await ignoring.get_many(["k", "n", "new"]) == {"k": "v", "n": 1}
    with pytest.raises(redis_exceptions.ResponseError, match="NOREPLICAS"):
        await strict.set("k", "w")


@pytest.mark.parametrize("options", [{}, {"CLEAR_FLUSHES_DB": True}], ids=["by key", "flushing"])
async def test_a_server_that_refuses_to_delete_has_cleared_nothing(own_server, pool_settings, face, options):
    pool_settings(own_server.url)
    cache = face(IGNORE_EXCEPTIONS=True, **options)
    await cache.set("k", "v")
    with own_server.client() as admin:
        admin.replicaof("127.0.0.1", str(free_port()))
        assert await cache.clear() is False
        assert await cache.delete_pattern("*") == 0
        assert await cache.delete("k") is False
        assert await cache.get("k") == "v"
        with pytest.raises(redis_exceptions.ReadOnlyError):
            await face(**options).clear()
        admin.replicaof("NO", "ONE")
        assert await cache.clear() is True
        assert admin.dbsize() == 0


async def test_a_callers_own_mistake_is_not_ignored(server, manager, face):
    with server.client() as client:
        client.rpush(":1:k", 1)
    cache = face(IGNORE_EXCEPTIONS=True)
    with pytest.raises(redis_exceptions.ResponseError, match=r"WRONGTYPE|wrong kind"):
        await cache.get("k")
    with pytest.raises(ValueError, match="not found"):
        await cache.incr("missing")


async def test_a_closed_manager_is_an_outage(manager, face):
    manager.close_sync()
    assert await face(IGNORE_EXCEPTIONS=True).get("k", 1) == 1
    with pytest.raises(PoolClosed):
        await face().get("k")


# The log.


def warnings_of(caplog):
    return [record for record in caplog.records if record.name == "redispool_app.cache"]


async def test_an_outage_is_told_once_and_the_next_one_again(own_server, pool_settings, caplog, monkeypatch):
    monkeypatch.setattr(cache_setup, "_SAME", 0.0)
    caplog.set_level(logging.INFO, "redispool_app.cache")
    manager = pool_settings(own_server.url, **SHORT)
    cache = new_cache(IGNORE_EXCEPTIONS=True)
    cache.set("k", 1)
    assert warnings_of(caplog) == []
    for outages in (1, 2):
        own_server.kill()
        # The first call meets the outage, and may be told before it is known as one.
        await cache.aget("k")
        for _ in range(50):
            await cache.aget("k")
            cache.get("k")
        told = warnings_of(caplog)
        assert outages <= len(told) <= 2 * outages
        own_server.start()
        eventually(lambda: manager._is_healthy, 2 + SLACK)
        assert cache.get("k") is None
    assert all(record.levelno == logging.WARNING for record in told)
    assert f"127.0.0.1:{own_server.port}" in told[-1].getMessage()
    assert "pool 'default'" in told[0].getMessage()


def test_an_outage_that_lasts_is_told_once_to_all_threads(down, caplog):
    cache = new_cache(IGNORE_EXCEPTIONS=True)

    def visit():
        for _ in range(50):
            cache.get("k")

    threads = [threading.Thread(target=visit) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warnings_of(caplog)) == 1
    assert "Nothing listens" in warnings_of(caplog)[0].getMessage()


def test_the_log_can_be_silent(down, caplog):
    new_cache(IGNORE_EXCEPTIONS=True, LOG_IGNORED_EXCEPTIONS=False).get("k")
    new_cache(IGNORE_EXCEPTIONS=False, LOG_IGNORED_EXCEPTIONS=True)
    assert warnings_of(caplog) == []
