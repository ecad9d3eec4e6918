"""A pause holds new commands back and loses none: the way through a planned failover."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest
from django.core.cache import caches
from redis import exceptions as redis_exceptions

from redispool_app.engine.health.pause import Pause
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, RedisUnavailable
from tests.engine.runtime.test_forks import in_child
from tests.support.interrupts import handled
from tests.support.servers import eventually


@pytest.fixture
def paused(manager):
    """The manager on the shared server, in use and paused; it is resumed afterwards."""
    manager.get_sync_client().set("a", "1")
    manager.pause()
    yield manager
    manager.resume()


class Caller(threading.Thread):
    """A thread that makes one call; ``result`` is what came of it."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.result = call, None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except Exception as error:
            self.result = error

    def ended(self):
        self.join(5)
        assert not self.is_alive()
        return self.result


def waits(manager, count):
    eventually(lambda: manager.get_pool_info()["waiting"] == count)


def test_a_threads_command_waits_and_is_sent_when_the_pause_ends(server, paused):
    calls = server.calls("get")
    caller = Caller(lambda: paused.get_sync_client().get("a"))
    waits(paused, 1)
    assert server.calls("get") == calls, "nothing was sent"
    paused.resume()
    assert caller.ended() == b"1"


async def test_so_does_one_of_an_event_loop(server, paused):
    client = await paused.get_client()
    caller = asyncio.create_task(client.get("a"))
    await asyncio.to_thread(waits, paused, 1)
    assert server.calls("get") == 0
    paused.resume()
    assert await caller == b"1"


async def test_who_has_a_client_already_waits_too_and_so_does_everything_it_can_send(server, manager):
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.set("a", "1")
    blocking.ping()
    manager.pause()
    pipe, watching = client.pipeline().get("a"), client.pipeline()
    tasks = [
        asyncio.create_task(call)
        for call in (
            client.get("a"),
            client.execute_raw("GET", "a"),
            pipe.execute(),
            client.client_getname(),
            watching.watch("a"),
            asyncio.to_thread(blocking.get, "a"),
            asyncio.to_thread(blocking.execute_raw, "GET", "a"),
            asyncio.to_thread(blocking.pipeline().get("a").execute),
            asyncio.to_thread(blocking.client_getname),
        )
    ]
    await asyncio.to_thread(waits, manager, len(tasks))
    assert client.send_raw("GET", "a") is None
    assert not any(task.done() for task in tasks)
    manager.resume()
    name = manager.get_pool_info()["client_name"]
    assert await asyncio.gather(*tasks) == [b"1", b"1", [b"1"], name, True, b"1", b"1", [b"1"], name]
    await watching.reset()
    assert manager.get_pool_info()["waiting"] == 0


async def test_the_cache_waits_too(server, settings, manager):
    settings.CACHES = {
        "default": {"BACKEND": "redispool_app.cache.RedisPoolCache", "LOCATION": "default", "TIMEOUT": None}
    }
    cache = caches["default"]
    await cache.aset("x", "value")
    manager.pause()
    tasks = [asyncio.create_task(cache.aget("x")), asyncio.create_task(asyncio.to_thread(cache.get, "x"))]
    await asyncio.to_thread(waits, manager, 2)
    manager.resume()
    assert await asyncio.gather(*tasks) == ["value", "value"]


async def test_callers_of_a_loop_go_on_in_the_order_in_which_they_came(server, paused):
    client = await paused.get_client()
    tasks = [asyncio.create_task(client.rpush("order", number)) for number in range(50)]
    await asyncio.to_thread(waits, paused, 50)
    paused.resume()
    await asyncio.gather(*tasks)
    assert await client.lrange("order", 0, -1) == [str(number).encode() for number in range(50)]


def test_threads_are_let_go_in_the_order_in_which_they_came():
    pause, woken = Pause(10, lambda is_on: None), []
    pause.begin(30)
    callers = []
    for number in range(5):
        callers.append(Caller(lambda: pause.wait_in_thread(None, lambda: None)))
        eventually(lambda number=number: pause.waiting == number + 1)
    for number, waiter in enumerate(list(pause.waiters)):
        wake = waiter.wake
        pause.waiters[number] = Recorded(lambda number=number, wake=wake: (woken.append(number), wake()))
    pause.end()
    for caller in callers:
        assert caller.ended() >= 0
    assert woken == [0, 1, 2, 3, 4]


class Recorded:
    """A waiter that tells when it is let go."""

    def __init__(self, wake):
        self.wake = wake


async def test_what_runs_already_finishes(manager):
    client = await manager.get_client()
    running = asyncio.create_task(client.blpop(["list"], 5))
    borrowed = client.pipeline()
    await borrowed.watch("a")
    await asyncio.to_thread(eventually, lambda: manager.get_pool_info()["connections_in_use"] == 2)
    manager.pause()
    borrowed.multi()
    borrowed.rpush("list", "x")
    assert await borrowed.execute() == [1], "it holds its connection already"
    assert await running == (b"list", b"x")


async def test_a_pause_ends_by_itself(manager):
    client = await manager.get_client()
    await client.set("a", "1")
    started = time.monotonic()
    manager.pause(0.2)
    info = manager.get_pool_info()
    assert (info["paused"], 0.1 < info["paused_for"] <= 0.2) == (True, True)
    found = await asyncio.gather(client.get("a"), asyncio.to_thread(manager.get_sync_client().get, "a"))
    assert found == [b"1", b"1"]
    assert 0.2 <= time.monotonic() - started < 2
    info = manager.get_pool_info()
    assert (info["paused"], info["paused_for"]) == (False, None)


async def test_one_that_nobody_waited_for_ends_too(manager):
    client = await manager.get_client()
    manager.pause(0.02)
    await asyncio.sleep(0.03)
    assert await client.set("a", "1")
    assert not manager._built().health.blocked, "the fast path is open again"


async def test_the_callers_own_deadline_begins_after_the_pause(server, pool_settings):
    manager = pool_settings(server.url, SOCKET_TIMEOUT=0.1, TIMEOUT=0.1)
    client = await manager.get_client()
    await client.set("a", "1")
    manager.pause(0.3)
    found = await asyncio.gather(
        client.get("a"), client.client_getname(), asyncio.to_thread(manager.get_sync_client().get, "a")
    )
    assert found[0] == found[2] == b"1"
    assert manager.slow_commands() == [], "to wait for the end of a pause is not to be slow"


async def test_to_pause_again_begins_the_time_anew(manager):
    client = await manager.get_client()
    manager.pause(0.1)
    caller = asyncio.create_task(client.set("a", "1"))
    await asyncio.to_thread(waits, manager, 1)
    manager.pause(30)
    await asyncio.sleep(0.15)
    assert not caller.done()
    assert manager.get_pool_info()["waiting"] == 1
    manager.pause(0.1)
    assert await asyncio.wait_for(caller, 5)


async def test_no_more_callers_wait_than_may(server, pool_settings):
    manager = pool_settings(server.url, MAX_WAITING=3)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    manager.pause()
    tasks = [asyncio.create_task(client.get("a")) for _ in range(3)]
    await asyncio.to_thread(waits, manager, 3)
    for refused in (client.get("a"), client.client_getname(), asyncio.to_thread(blocking.get, "a")):
        with pytest.raises(PoolQueueFull, match="paused"):
            await refused
    manager.pause(20)
    await asyncio.to_thread(waits, manager, 3)
    manager.resume()
    await asyncio.gather(*tasks)


async def test_a_caller_that_leaves_while_it_waits_leaves_its_place(manager):
    client = await manager.get_client()
    manager.pause()
    tasks = [asyncio.create_task(client.rpush("list", number)) for number in range(3)]
    await asyncio.to_thread(waits, manager, 3)
    tasks[1].cancel()
    await asyncio.to_thread(waits, manager, 2)
    manager.resume()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await client.lrange("list", 0, -1) == [b"0", b"2"]


@pytest.mark.parametrize("seconds", [0, -1, 301, float("nan"), float("inf"), "30", True, None])
def test_a_time_that_cannot_be_is_refused(manager, seconds):
    with pytest.raises(ValueError, match="give a number of seconds above 0, at most 300"):
        manager.pause(seconds)
    assert not manager.get_pool_info()["paused"]


def test_to_resume_what_is_not_paused_is_nothing(manager):
    manager.resume()
    manager.get_sync_client()
    manager.resume()
    assert manager.get_sync_client().ping()


# Failover.


async def test_callers_wait_through_a_restart_of_the_server(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.5)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.set("a", "1")
    blocking.ping()
    manager.pause()
    tasks = [
        asyncio.create_task(each)
        for each in (client.incr("n"), client.client_getname(), asyncio.to_thread(blocking.incr, "n"))
    ]
    await asyncio.to_thread(waits, manager, 3)
    own_server.kill()
    assert not await manager._health_check()
    assert manager.get_pool_info()["state"] == "unhealthy", "what is known is told"
    # Those who come now are not refused either.
    assert not manager.is_down
    late = asyncio.create_task((await manager.get_client()).incr("n"))
    late_thread = Caller(lambda: manager.get_sync_client().incr("n"))
    await asyncio.to_thread(waits, manager, 5)
    await asyncio.to_thread(own_server.start)
    manager.resume()
    found = await asyncio.gather(*tasks, late)
    assert sorted([found[0], found[2], found[3], late_thread.ended()]) == [1, 2, 3, 4]
    await asyncio.to_thread(eventually, lambda: manager._is_healthy)


async def test_if_the_server_is_still_away_they_are_told_then(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    client = await manager.get_client()
    manager.pause()
    tasks = [asyncio.create_task(client.get("a")) for _ in range(3)]
    await asyncio.to_thread(waits, manager, 3)
    own_server.kill()
    assert not await manager._health_check()
    manager.resume()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(found, redis_exceptions.ConnectionError)
    await asyncio.to_thread(eventually, lambda: manager.is_down)
    with pytest.raises(RedisUnavailable):
        await manager.get_client()


async def test_a_read_that_was_under_way_is_sent_again_after_the_pause_and_a_write_is_not(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=5)
    client = await manager.get_client()
    await client.set("a", "1")
    own_server.pause()
    read, write = asyncio.create_task(client.get("b")), asyncio.create_task(client.incr("n"))
    await asyncio.sleep(0.02)
    manager.pause()
    own_server.signal(signal.SIGKILL)
    with pytest.raises(OutcomeUnknown):
        await write
    await asyncio.to_thread(waits, manager, 1)
    own_server.stop()
    await asyncio.to_thread(own_server.start)
    manager.resume()
    assert await read is None


async def test_callers_who_waited_for_room_wait_for_the_end_of_the_pause_and_then_go_on(own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_IN_FLIGHT=2, SOCKET_TIMEOUT=5)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.ping()
    blocking.ping()
    own_server.pause()
    tasks = [asyncio.create_task(client.rpush("list", number)) for number in range(6)]
    threads = [Caller(lambda: blocking.rpush("other", 1)) for _ in range(6)]
    await asyncio.to_thread(waits, manager, 8)
    manager.pause()
    own_server.resume()
    # Two of each were sent already; the others come one after the other from the room's queue to the pause's.
    await asyncio.to_thread(eventually, lambda: manager._built().monitor.pause.waiting == 8)
    assert sum(task.done() for task in tasks) == 2
    manager.resume()
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4, 5, 6]
    assert sorted(thread.ended() for thread in threads) == [1, 2, 3, 4, 5, 6]


async def test_callers_who_waited_for_a_connection_do_so_too(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2, TIMEOUT=5)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    holders = [
        asyncio.create_task(client.blpop(["list"], 5)),
        asyncio.create_task(asyncio.to_thread(blocking.blpop, ["list"], 5)),
    ]
    await asyncio.to_thread(eventually, lambda: manager.get_pool_info()["connections_in_use"] == 2)
    tasks = [
        *(asyncio.create_task(client.client_getname()) for _ in range(2)),
        *(asyncio.create_task(asyncio.to_thread(blocking.client_getname)) for _ in range(2)),
    ]
    await asyncio.to_thread(waits, manager, 4)
    manager.pause()
    with server.client() as admin:
        admin.rpush("list", 1, 2)
    await asyncio.gather(*holders)
    await asyncio.to_thread(eventually, lambda: manager._built().monitor.pause.waiting == 4)
    assert manager.get_pool_info()["connections_in_use"] == 0
    manager.resume()
    assert len(await asyncio.gather(*tasks)) == 4


# Close, reset, fork.


async def test_close_ends_the_pause_and_refuses_who_waits(manager):
    client, blocking = await manager.get_client(), manager.get_sync_client()
    manager.pause()
    tasks = [
        asyncio.create_task(each)
        for each in (client.get("a"), client.client_getname(), asyncio.to_thread(blocking.get, "a"))
    ]
    await asyncio.to_thread(waits, manager, 3)
    await manager.close()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(found, PoolClosed)
    await manager.initialize()
    assert not manager.get_pool_info()["paused"]
    assert await (await manager.get_client()).get("a") is None


async def test_reset_keeps_the_pause_and_refuses_who_waits_on_what_it_drops(manager):
    client, blocking = await manager.get_client(), manager.get_sync_client()
    manager.pause()
    tasks = [
        asyncio.create_task(each)
        for each in (
            client.get("a"),
            client.client_getname(),
            asyncio.to_thread(blocking.get, "a"),
            asyncio.to_thread(blocking.client_getname),
        )
    ]
    await asyncio.to_thread(waits, manager, 4)
    await manager.reset_pool()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(found, PoolClosed)
    assert manager.get_pool_info()["paused"]
    late = asyncio.create_task((await manager.get_client()).set("a", "1"))
    await asyncio.to_thread(waits, manager, 1)
    manager.resume()
    assert await late


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_not_paused(paused):
    caller = Caller(lambda: paused.get_sync_client().get("a"))
    waits(paused, 1)

    def work():
        info = paused.get_pool_info()
        return info["paused"], info["waiting"], paused.get_sync_client().get("a")

    assert in_child(work) == "(False, 0, b'1')"
    assert paused.get_pool_info()["paused"]
    paused.resume()
    assert caller.ended() == b"1"


def test_new_settings_end_it(server, paused):
    paused.reload_settings()
    assert not paused.get_pool_info()["paused"]
    assert paused.get_sync_client().get("a") == b"1"


async def test_a_loop_that_ends_while_its_callers_wait_harms_nobody(manager):
    def run():
        async def call():
            client = await manager.get_client()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("a"), 0.05)

        asyncio.run(call())

    await (await manager.get_client()).ping()
    manager.pause()
    await asyncio.to_thread(run)
    assert manager.get_pool_info()["waiting"] == 0
    manager.resume()


# User code that runs inside the pause's own functions.


def test_a_listener_of_each_change_may_use_the_pause_itself():
    heard = []

    def on_change(is_on):
        heard.append((is_on, pause.is_on, pause.left() is not None))
        if is_on:
            pause.begin(20)

    pause = Pause(10, on_change, lambda: heard.append("ended"))
    pause.begin(30)
    assert pause.left() <= 20
    pause.end()
    assert heard == [(True, True, True), (False, False, False), "ended"]


def test_a_listener_that_resumes_what_was_just_paused_is_the_last_word():
    told = []

    def on_change(is_on):
        told.append(is_on)
        if is_on:
            pause.end()

    pause = Pause(10, on_change)
    pause.begin(30)
    assert not pause.is_on
    assert (told[0], told[-1]) == (True, False)


def test_a_listener_that_raises_reaches_no_caller():
    def on_end():
        raise ValueError

    pause = Pause(10, lambda is_on: None, on_end)
    pause.begin(30)
    caller = Caller(lambda: pause.wait_in_thread(None, lambda: None))
    eventually(lambda: pause.waiting == 1)
    pause.end()
    assert caller.ended() < 5
    pause.begin(0.01)
    time.sleep(0.02)
    assert not pause.is_on


def test_threads_that_pause_and_resume_at_once_leave_what_the_last_of_them_said():
    told = []
    pause = Pause(10, told.append)

    def toggle():
        for _ in range(300):
            pause.begin(30)
            pause.end()

    for caller in [Caller(toggle) for _ in range(4)]:
        assert caller.ended() is None
    assert not pause.is_on
    assert told[-1] is False


async def test_a_signal_handler_ends_the_pause_for_a_loop_that_waits(manager):
    client = await manager.get_client()
    manager.pause(30)
    with handled(lambda number, frame: manager.resume()):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = time.monotonic()
        assert await client.ping()
    assert time.monotonic() - started < 5
