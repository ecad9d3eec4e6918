"""What raises inside the async engine harms its own caller only: memory, the stack, a lost step of the event loop.

Each caller asks for a key of its own and checks its value. ``SOCKET_TIMEOUT`` is 30 s, and no caller waits for it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from time import monotonic, sleep

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from tests.engine.connection.test_transports import tls  # noqa: F401 (a fixture)
from tests.support.proxy import Proxy

PATIENT = 30.0
AT_ONCE = 5.0
"""Seconds within which everything here ends; generous, for a busy machine."""

KEYS = {f"key:{number}": b"value %d" % number for number in range(40)}


@pytest.fixture
def stocked(server):
    with server.client() as admin:
        admin.mset(KEYS)
    return server


def client_of(server):
    return AsyncRedis(port=server.port, socket_timeout=PATIENT)


async def all_right(client):
    """Let each key be asked for at once; assert that each caller gets its own value, without waiting."""
    started = monotonic()
    values = await asyncio.gather(*(client.get(key) for key in KEYS))
    assert values == list(KEYS.values())
    assert monotonic() - started < AT_ONCE


async def test_a_recursion_error_harms_its_own_caller_only(stocked):
    async with client_of(stocked) as client:

        async def deeper():
            await client.get("key:0")
            return await deeper()

        for _ in range(3):
            with pytest.raises(RecursionError):
                await deeper()
            await all_right(client)
        assert client.sharing.in_flight == 0


OUT_OF_MEMORY = """
    import asyncio, resource, sys
    from redispool_app.engine import AsyncRedis

    async def main():
        client = AsyncRedis(port=int(sys.argv[1]), socket_timeout=30)
        for number in range(60):
            await client.set(f"user:{number}", f"secret of {number}")
        values = [b"x" * 1_000_000 for _ in range(25)]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), hard))
        asked = {number: asyncio.create_task(client.get(f"user:{number}")) for number in range(5)}
        writes = [asyncio.create_task(client.set(f"big:{n}", value)) for n, value in enumerate(values)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        asked |= {number: asyncio.create_task(client.get(f"user:{number}")) for number in range(40, 60)}
        done, pending = await asyncio.wait([*asked.values(), *writes], timeout=10)
        assert not pending, f"{len(pending)} callers wait"
        for number, task in asked.items():
            if not task.exception():
                assert task.result() == b"secret of %d" % number, (number, task.result())
        failed = [str(task.exception()) for task in asked.values() if task.exception()]
        assert await client.get("user:7") == b"secret of 7"
        print(len(failed), "failed", failed[:1])
        await client.aclose()

    asyncio.run(main())
"""


@pytest.mark.parametrize("room", [4_000_000, 20_000_000, 38_000_000])
def test_no_memory_for_what_is_written_gives_no_caller_the_reply_of_another(server, room):
    command = [sys.executable, "-c", textwrap.dedent(OUT_OF_MEMORY), str(server.port), str(room)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.startswith("0 failed"), "a read that was not written is sent again"


async def test_an_end_of_tick_that_the_event_loop_lost_comes_again(stocked):
    async with client_of(stocked) as client:
        await client.ping()
        first = asyncio.ensure_future(client.get("key:0"))
        await asyncio.sleep(0)
        client.sharing.connection._tick_end.cancel()  # as if an interrupt had come before its run
        await all_right(client)
        assert await first == b"value 0"
        assert client.sharing.in_flight == 0


async def test_an_end_of_tick_that_was_lost_comes_again_without_another_caller(stocked):
    async with client_of(stocked) as client:
        await client.ping()
        alone = asyncio.ensure_future(client.get("key:0"))
        await asyncio.sleep(0)
        client.sharing.connection._tick_end.cancel()
        assert await asyncio.wait_for(alone, AT_ONCE) == b"value 0"


def lose_looks():
    """Cancel the next looks at connections, as exceptions that come at their beginning do."""
    looks = [timer for timer in asyncio.get_running_loop()._scheduled if is_look(timer)]
    for timer in looks:
        timer.cancel()
    assert looks


async def test_an_end_of_tick_that_was_lost_with_all_looks_comes_again(stocked):
    async with client_of(stocked) as client:
        await client.ping()
        callers = [asyncio.create_task(client.get(key)) for key in list(KEYS)[:3]]
        await asyncio.sleep(0)
        client.sharing.connection._tick_end.cancel()
        lose_looks()
        assert await asyncio.wait_for(asyncio.gather(*callers), AT_ONCE) == list(KEYS.values())[:3]


async def test_a_pipeline_lets_an_end_of_tick_come_again_that_was_lost_with_all_looks(stocked, monkeypatch):
    monkeypatch.setattr("redispool_app.engine.multiplex.watched_connection._LATE_LOOK", PATIENT)
    async with client_of(stocked) as client:
        await client.ping()
        caller = asyncio.create_task(client.get("key:0"))
        await asyncio.sleep(0)
        client.sharing.connection._tick_end.cancel()
        lose_looks()
        await asyncio.sleep(0.3)
        assert not caller.done()
        assert await asyncio.wait_for(client.pipeline().get("key:1").execute(), AT_ONCE) == [KEYS["key:1"]]
        assert await asyncio.wait_for(caller, AT_ONCE) == KEYS["key:0"]


async def test_a_word_that_the_transport_takes_more_may_be_lost(stocked):
    async with client_of(stocked) as client:
        await client.ping()
        client.sharing.connection.pause_writing()  # and no resume_writing follows
        await all_right(client)


class OutsideError(Exception):
    """What the handler of a signal raises."""


FAR = 15.0
"""Seconds, less than those of a connection's own timers: one that was cancelled and is the next tidies the heap up."""


def far_timers(loop):
    for _ in range(30):
        loop.call_later(FAR, print)


@pytest.fixture
def busy_loop():
    """An event loop with timers that are far away, so that each new one is compared with one of them."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    far_timers(loop)
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def is_look(timer):
    return getattr(timer._callback, "__name__", "") == "_look"


def test_an_exception_between_two_timers_of_the_event_loop_delays_no_caller(stocked, busy_loop, monkeypatch):
    struck = []

    def compare(first, second):
        is_new = sys._getframe(1).f_code.co_name == "call_at"
        if is_new and is_look(first) and second._when - first._when > AT_ONCE and len(struck) < 2:
            struck.append(second)
            busy_loop.call_soon(far_timers, busy_loop)  # behind the one that stays where it is
            raise OutsideError
        return first._when < second._when

    async def main(proxy):
        async with AsyncRedis.from_url(proxy.url, socket_timeout=PATIENT) as client:
            await client.ping()
            client.sharing.connection.timeout = 0.3
            client.sharing.connection.on_stalled = None  # or the read goes by another connection in time
            proxy.swallow_replies_of_open_connections()
            asked, started = asyncio.ensure_future(client.get("key:0")), monotonic()
            await asyncio.sleep(0)
            monkeypatch.setattr(asyncio.TimerHandle, "__lt__", compare)
            # No timer of the event loop ends this wait.
            over = threading.Event()
            late = asyncio.ensure_future(asyncio.to_thread(over.wait, AT_ONCE))
            await asyncio.wait([asked, late], return_when=asyncio.FIRST_COMPLETED)
            over.set()
            await late
            assert len(struck) == 2
            assert monotonic() - started < AT_ONCE
            with pytest.raises(redis_exceptions.TimeoutError):
                await asked
            await all_right(client)

    with Proxy(stocked.port) as proxy:
        busy_loop.run_until_complete(main(proxy))


def test_timers_that_other_code_has_left_in_disorder_are_in_order_at_the_next_call(stocked, busy_loop):
    async def main(proxy):
        async with AsyncRedis.from_url(proxy.url, socket_timeout=PATIENT) as client:
            await client.ping()
            connection = client.sharing.connection
            connection.timeout, connection.stall_after = 0.3, PATIENT
            proxy.swallow_replies_of_open_connections()
            first = asyncio.ensure_future(client.get("key:0"))
            await asyncio.sleep(0)
            timers = busy_loop._scheduled
            timers.sort(key=is_look)  # behind those that are far away
            far_timers(busy_loop)
            await asyncio.to_thread(sleep, 0.5)
            assert not first.done()
            assert min(timers, key=lambda timer: timer._when) is not timers[0]
            started, second = monotonic(), asyncio.ensure_future(client.get("key:1"))
            await asyncio.sleep(0)
            assert min(timers, key=lambda timer: timer._when) is timers[0]
            outcomes = await asyncio.gather(first, second, return_exceptions=True)
            assert monotonic() - started < AT_ONCE
            assert isinstance(outcomes[0], redis_exceptions.TimeoutError)

    with Proxy(stocked.port) as proxy:
        busy_loop.run_until_complete(main(proxy))


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "TLS"])
async def test_a_connection_that_was_kept_from_ending_ends(stocked, tls, encrypted):  # noqa: F811
    """asyncio notes first that a transport ends, and then schedules the end, which a stack too deep can prevent."""
    url, keys = tls
    options = {"ssl_ca_certs": keys["SSL_CA_CERTS"]} if encrypted else {}
    client = AsyncRedis.from_url(url if encrypted else stocked.url, socket_timeout=PATIENT, **options)
    loop = asyncio.get_running_loop()
    usual, struck = loop.call_soon, []

    class Deep:
        """Raises once, without a frame of the event loop's own."""

        def __call__(self, callback, *args, **kwargs):
            if not struck and getattr(callback, "__name__", "") == "_call_connection_lost":
                struck.append(callback)
                raise RecursionError
            return usual(callback, *args, **kwargs)

    await client.ping()
    connection = client.sharing.connection
    loop.call_soon = Deep()
    try:
        with pytest.raises(RecursionError):
            connection.close()
    finally:
        loop.call_soon = usual
    async with asyncio.timeout(AT_ONCE):
        await connection.gone
    assert struck
    await client.aclose()
