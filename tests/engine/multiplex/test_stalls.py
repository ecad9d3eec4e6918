"""A shared connection that is stalled: other callers go by another one, and in the end there is one again."""

from __future__ import annotations

import asyncio
import math
import threading
from functools import partial
from time import monotonic, sleep

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.multiplex import connection_sync, watched_connection
from redispool_app.engine.multiplex.reader_sync import Incoming
from redispool_app.engine.multiplex.stalls import LONGEST_WIDENING, Lanes, patience, reads_only, stall_after
from redispool_app.engine.runtime.single_flight import Flight
from redispool_app.engine.stats.counters import HELD_BACK, LARGE_REPLY
from redispool_app.exceptions import OutcomeUnknown
from tests.support.crowd import Caller, started
from tests.support.proxy import Proxy
from tests.support.servers import eventually

PATIENT = 30.0
"""A timeout that no test reaches, in seconds."""

SOON = 5.0
"""No caller beside a stall may wait this long, in seconds."""

LARGE = 10_000_000
"""Bytes of a reply that takes ``SLOW_LINK`` several seconds."""

SLOW_LINK = 1_500_000


def hold_writes_back(server, milliseconds=8000):
    with server.client() as admin:
        admin.set("k", "v")
        admin.client_pause(milliseconds, all=False)


def let_writes_go(server):
    with server.client() as admin:
        admin.client_unpause()


# What is decided.


class Lane:
    def __init__(self, stalled=None):
        self.stalled = stalled
        self.closed = False


def lanes_of(*reasons, most=4):
    lanes = Lanes(most)
    for reason in reasons:
        lanes.add(Lane(reason))
    return lanes


def test_with_nothing_stalled_there_is_no_choice():
    lanes = lanes_of(None)
    assert lanes.usual() is lanes.choose(reads=True) is lanes.choose(reads=False) is lanes.open[0]
    assert not lanes.may_widen(monotonic())
    assert lanes_of().usual() is None


def test_an_attempt_to_make_another_connection_that_never_ends_is_taken_over():
    lanes = lanes_of(HELD_BACK)
    lost = Flight()
    assert lanes.may_lead_widening(lost)
    assert not lanes.may_widen(monotonic())
    assert not lanes.may_lead_widening(Flight())
    lost.began -= LONGEST_WIDENING
    assert lanes.may_widen(monotonic())
    assert lanes.may_lead_widening(Flight())


async def test_a_stall_is_passed_although_an_earlier_attempt_to_pass_it_was_lost(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = await manager.get_client()
    lost = Flight()
    assert client.sharing.lanes.may_lead_widening(lost)
    lost.began -= LONGEST_WIDENING
    client.sharing._widening = asyncio.get_running_loop().create_future()
    hold_writes_back(own_server)
    write = asyncio.ensure_future(client.set("k", "w"))
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(client.get("k"), SOON) == b"v"
    let_writes_go(own_server)
    assert await write


def test_a_stalled_connection_is_used_until_there_is_another():
    lanes = lanes_of(HELD_BACK)
    assert lanes.usual() is lanes.choose(reads=True) is lanes.open[0]
    assert lanes.may_widen(monotonic())
    attempt = lanes.widening.join(Flight())
    assert not lanes.may_widen(monotonic()), "one attempt at a time"
    attempt.ended = True
    assert lanes.may_widen(monotonic())
    lanes.add(Lane())
    assert lanes.usual() is None
    assert lanes.choose(reads=True) is lanes.open[1]
    assert not lanes.may_widen(monotonic())


def test_a_write_joins_those_that_are_held_back():
    lanes = lanes_of(None, HELD_BACK)
    assert lanes.choose(reads=False) is lanes.open[1]


def test_a_write_beside_a_large_reply_never_takes_the_last_free_connection():
    lanes = lanes_of(LARGE_REPLY, None)
    assert lanes.choose(reads=False) is lanes.open[1], "another could be made"
    lanes = lanes_of(LARGE_REPLY, None, most=2)
    assert lanes.choose(reads=False) is lanes.open[0]
    assert lanes.choose(reads=True) is lanes.open[1]


def test_there_are_never_more_than_allowed():
    assert not lanes_of(HELD_BACK, LARGE_REPLY, most=2).may_widen(monotonic())
    assert not lanes_of(HELD_BACK, most=1).may_widen(monotonic())


def test_a_far_server_has_more_time():
    assert stall_after(0.0) == 0.02
    assert stall_after(0.1) == 0.2
    assert stall_after(100.0) == 1.0


def test_a_short_round_trip_corrects_a_connection_that_took_long_to_make():
    assert patience(0.6, math.inf) == 0.6
    assert patience(0.6, 0.001) == 0.02
    assert patience(0.6, 0.1) == 0.4
    assert patience(PATIENT, 0.001) == PATIENT, "not measured"


def test_what_only_reads_is_told_by_its_bytes():
    get, incr = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n"
    multi, execute = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
    assert reads_only(get, 0)
    assert not reads_only(incr, 0)
    assert reads_only(get + get, 2)
    assert not reads_only(get + incr, 2)
    assert reads_only(multi + get + execute, 3)
    assert not reads_only(multi + incr + execute, 3)
    info, slow = b"*1\r\n$4\r\nINFO\r\n", b"*3\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n$2\r\n25\r\n"
    reset = b"*2\r\n$7\r\nSLOWLOG\r\n$5\r\nRESET\r\n"
    assert reads_only(info + slow, 2, own=True)
    assert reads_only(slow, 1, own=True)
    assert not reads_only(slow, 1), "a caller's own"
    assert not reads_only(reset, 1, own=True)
    assert not reads_only(incr, 1, own=True)


# Held-back writes.


async def test_reads_do_not_wait_behind_a_held_back_write(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = await manager.get_client()
    hold_writes_back(own_server)
    write = asyncio.create_task(client.set("held", "back"))
    await asyncio.sleep(0)
    asked = monotonic()
    behind = [asyncio.create_task(client.get("k")) for _ in range(20)]
    behind.append(asyncio.create_task(client.pipeline(transaction=False).get("k").exists("k").execute()))
    assert await asyncio.gather(*behind) == [b"v"] * 20 + [[b"v", 1]]
    for _ in range(100):
        assert await client.get("k") == b"v"
    assert monotonic() - asked < SOON
    assert not write.done()
    second = asyncio.create_task(client.incr("n"))
    await asyncio.sleep(0.2)
    assert await client.get("k") == b"v"
    info = manager.get_pool_info()
    assert (info["connections_shared"], info["held_back_connections_total"]) == (2, 1)
    assert (info["retries_total"], info["outcome_unknown_total"], info["command_timeouts_total"]) == (0, 0, 0)
    let_writes_go(own_server)
    assert await write is True
    assert await second == 1
    await until(lambda: manager.get_pool_info()["connections_shared"] == 1)
    assert await client.incr("n") == 2
    info = manager.get_pool_info()
    assert (info["connections_open"], info["state"]) == (1, "healthy")


async def until(condition, patience=10.0):
    for _ in range(int(patience / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it has not come true")


def test_threads_that_read_do_not_wait_behind_a_held_back_write(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    hold_writes_back(own_server)
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1)

    def read():
        for _ in range(20):
            asked = monotonic()
            assert client.get("k") == b"v"
            assert client.pipeline(transaction=False).get("k").exists("k").execute() == [b"v", 1]
            assert monotonic() - asked < SOON

    for reader in started([read] * 8):
        assert reader.ended(2 * SOON) is None
    assert write.is_alive()
    info = manager.get_pool_info()
    assert (info["connections_shared"], info["held_back_connections_total"]) == (2, 1)
    assert (info["retries_total"], info["outcome_unknown_total"], info["command_timeouts_total"]) == (0, 0, 0)
    let_writes_go(own_server)
    assert write.ended(SOON) is True
    eventually(lambda: manager.get_pool_info()["connections_shared"] == 1)
    assert client.incr("n") == 1
    assert manager.get_pool_info()["connections_open"] == 1


# Large replies.


async def test_small_reads_pass_by_a_large_reply(own_server, pool_settings):
    with own_server.client() as admin:
        admin.mset({"large": b"x" * LARGE, "k": "v"})
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=PATIENT)
        client = await manager.get_client()
        proxy.bandwidth = SLOW_LINK
        large = asyncio.create_task(client.get("large"))
        await asyncio.sleep(0.01)
        for _ in range(30):
            asked = monotonic()
            assert await client.get("k") == b"v"
            assert await client.set("w", 1) is True
            assert monotonic() - asked < SOON / 2
        assert not large.done()
        info = manager.get_pool_info()
        assert (info["connections_shared"], info["large_reply_connections_total"]) == (2, 1)
        proxy.bandwidth = 0.0
        assert len(await large) == LARGE
        await until(lambda: manager.get_pool_info()["connections_shared"] == 1)
        assert manager.get_pool_info()["retries_total"] == 0


def test_small_reads_of_threads_pass_by_a_large_reply(own_server, pool_settings):
    with own_server.client() as admin:
        admin.mset({"large": b"x" * LARGE, "k": "v"})
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=PATIENT)
        client = manager.get_sync_client()
        proxy.bandwidth = SLOW_LINK
        large = Caller(partial(client.get, "large"))
        large.start()
        eventually(lambda: client.sharing.in_flight == 1)
        for _ in range(30):
            asked = monotonic()
            assert client.get("k") == b"v"
            assert client.set("w", 1) is True
            assert monotonic() - asked < SOON / 2
        assert large.is_alive()
        info = manager.get_pool_info()
        assert (info["connections_shared"], info["large_reply_connections_total"]) == (2, 1)
        proxy.bandwidth = 0.0
        assert len(large.ended(2 * SOON)) == LARGE
        eventually(lambda: manager.get_pool_info()["connections_shared"] == 1)


def test_the_second_look_of_a_thread_that_waits_finds_the_stall(own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(connection_sync, "_LOOK", 2 * SOON)
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server, 4 * 1000 * int(SOON))
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1)
    asked = monotonic()
    assert client.get("k") == b"v"
    assert monotonic() - asked < SOON
    let_writes_go(own_server)
    assert write.ended() is True


# What does not change.


async def test_a_server_that_is_stopped_gets_one_attempt_more_and_nothing_twice(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=1.0, SOCKET_CONNECT_TIMEOUT=1.0)
    client = await manager.get_client()
    await client.set("k", "v")
    own_server.pause()
    found = await asyncio.gather(*[client.get("k") for _ in range(50)], return_exceptions=True)
    assert all(isinstance(each, redis_exceptions.TimeoutError) for each in found)
    info = manager.get_pool_info()
    assert (info["retries_total"], info["held_back_connections_total"]) == (0, 0)
    assert info["state"] == "unhealthy"
    own_server.resume()
    await asyncio.to_thread(eventually, lambda: manager.get_pool_info()["state"] == "healthy")
    with own_server.client() as admin:
        assert admin.info("commandstats")["cmdstat_get"]["calls"] <= 50


async def test_with_one_shared_connection_allowed_there_is_one(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, MAX_SHARED_CONNECTIONS=1)
    client = await manager.get_client()
    hold_writes_back(own_server, 1000)
    write = asyncio.create_task(client.set("held", "back"))
    await asyncio.sleep(0)
    assert await client.get("k") == b"v"
    assert await write is True
    assert manager.get_pool_info()["connections_opened_total"] == 1


async def test_with_none_allowed_each_command_borrows(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, MAX_SHARED_CONNECTIONS=0)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    assert (client.sharing, blocking.sharing) == (None, None)
    assert await client.set("k", "v") is True
    assert blocking.get("k") == b"v"
    info = manager.get_pool_info()
    assert (info["connections_shared"], info["commands_total"]) == (0, 0)


async def test_the_pool_closes_while_a_connection_is_stalled(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, CLOSE_TIMEOUT=0.2)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    hold_writes_back(own_server)
    write = asyncio.create_task(client.set("held", "back"))
    held = Caller(partial(blocking.set, "held", "back"))
    held.start()
    await asyncio.sleep(0)
    assert await client.get("k") == b"v"
    assert await asyncio.to_thread(blocking.get, "k") == b"v"
    asked = monotonic()
    await manager.close()
    with pytest.raises(redis_exceptions.ConnectionError):
        await write
    assert isinstance(held.ended(SOON), redis_exceptions.ConnectionError)
    assert monotonic() - asked < SOON
    with own_server.client() as admin:
        await until(lambda: len(admin.client_list()) == 1)
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "redispool-widening"])


# A server that is slow for all, and what a stall costs.


async def two_shared(own_server, manager, client):
    """Let one connection be stalled for a moment, so that there are two."""
    hold_writes_back(own_server)
    write = asyncio.create_task(client.set("held", "back"))
    await asyncio.sleep(0)
    await client.get("k")
    let_writes_go(own_server)
    await write
    assert manager.get_pool_info()["connections_shared"] == 2


async def test_a_stopped_server_carries_a_slow_read_out_once(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = await manager.get_client()
    await two_shared(own_server, manager, client)
    own_server.pause()
    slow = asyncio.create_task(client.strlen("k"))
    await asyncio.sleep(0)
    behind = [asyncio.create_task(client.exists("k")) for _ in range(20)]
    await asyncio.sleep(0.5)
    own_server.resume()
    assert await slow == 1
    assert await asyncio.gather(*behind) == [1] * 20
    assert await asyncio.to_thread(own_server.calls, "strlen") == 1
    assert await asyncio.to_thread(own_server.calls, "exists") <= 21


def test_a_stopped_server_carries_a_slow_read_of_a_thread_out_once(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server)
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1)
    client.get("k")
    let_writes_go(own_server)
    assert write.ended() is True
    assert manager.get_pool_info()["connections_shared"] == 2
    own_server.pause()
    slow = Caller(partial(client.strlen, "k"))
    slow.start()
    eventually(lambda: client.sharing.in_flight == 1)
    behind = started([partial(client.exists, "k")] * 8)
    threading.Event().wait(0.5)
    own_server.resume()
    assert slow.ended() == 1
    assert [caller.ended() for caller in behind] == [1] * 8
    assert own_server.calls("strlen") == 1
    assert own_server.calls("exists") <= 9


async def test_a_health_check_passes_by_a_held_back_write(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, HEALTH_CHECK_TIMEOUT=SOON)
    client = await manager.get_client()
    hold_writes_back(own_server, 3 * 1000 * int(SOON))
    write = asyncio.create_task(client.set("held", "back"))
    await asyncio.sleep(0)
    with pytest.raises(LookupError):
        async with manager.get_connection():
            raise LookupError
    assert await (await manager.get_client()).get("k") == b"v"
    let_writes_go(own_server)
    assert await write is True
    assert manager.get_pool_info()["state"] == "healthy"


def test_a_health_check_of_a_thread_passes_by_a_held_back_write(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, HEALTH_CHECK_TIMEOUT=SOON)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server, 3 * 1000 * int(SOON))
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1)
    with pytest.raises(LookupError), manager.get_sync_connection():
        raise LookupError
    assert manager.get_sync_client().get("k") == b"v"
    let_writes_go(own_server)
    assert write.ended() is True
    assert manager.get_pool_info()["state"] == "healthy"


def test_a_write_of_the_pool_itself_never_takes_the_last_free_connection(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server)
    write = Caller(partial(client.set, "held", "back"))
    write.start()
    eventually(lambda: client.sharing.in_flight == 1)
    client.get("k")
    heartbeat = Caller(partial(client.sharing.exchange, b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n", 1, monotonic() + PATIENT))
    heartbeat.start()
    eventually(lambda: client.sharing.in_flight == 3)  # with the read that has gone elsewhere
    (free,) = client.sharing.lanes.free
    assert free.in_flight == 0
    let_writes_go(own_server)
    assert (write.ended(), heartbeat.ended()) == (True, [1])


def widening():
    return [thread for thread in threading.enumerate() if thread.name == "redispool-widening"]


def test_one_thread_closes_what_many_stalls_have_made(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.5)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server, 60_000)
    for _ in range(6):
        write = Caller(partial(client.incr, "n"))
        write.start()
        eventually(lambda: client.sharing.in_flight == 1)
        assert client.get("k") == b"v"
        assert isinstance(write.ended(), redis_exceptions.TimeoutError)
    assert manager.get_pool_info()["held_back_connections_total"] >= 4
    eventually(lambda: len(widening()) == 1)
    eventually(lambda: client.sharing.connections == 1)
    let_writes_go(own_server)
    eventually(lambda: not widening())
    assert client.incr("n") == 1


async def test_one_timer_closes_what_many_stalls_have_made(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.5)
    client = await manager.get_client()
    hold_writes_back(own_server, 60_000)
    for _ in range(6):
        write = asyncio.create_task(client.incr("n"))
        await asyncio.sleep(0)
        assert await client.get("k") == b"v"
        with pytest.raises(redis_exceptions.TimeoutError):
            await write
    assert manager.get_pool_info()["held_back_connections_total"] >= 4
    timers = [timer for timer in asyncio.get_running_loop()._scheduled if "_close_surplus" in repr(timer)]
    assert len(timers) <= 2
    await until(lambda: client.sharing.connections == 1)
    let_writes_go(own_server)
    assert await client.incr("n") == 1


def test_a_stalled_connection_that_all_threads_have_left_is_closed(own_server, pool_settings):
    with own_server.client() as admin:
        admin.mset({"large": b"x" * LARGE, "k": "v"})
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=1.0, CLOSE_TIMEOUT=PATIENT)
        client = manager.get_sync_client()
        client.ping()
        proxy.bandwidth = SLOW_LINK
        large = Caller(partial(client.get, "large"))
        large.start()
        eventually(lambda: client.sharing.in_flight == 1)
        while large.is_alive():
            assert client.get("k") == b"v"
        assert isinstance(large.ended(), redis_exceptions.TimeoutError)
        eventually(lambda: manager.get_pool_info()["connections_shared"] == 1)
        assert client.sharing.in_flight == 0
        assert client.get("k") == b"v"


def test_to_close_waits_for_no_reply_that_all_threads_have_left(own_server, pool_settings):
    with own_server.client() as admin:
        admin.mset({"large": b"x" * LARGE, "k": "v"})
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=0.5, CLOSE_TIMEOUT=PATIENT, MAX_SHARED_CONNECTIONS=1)
        client = manager.get_sync_client()
        client.ping()
        proxy.bandwidth = SLOW_LINK
        with pytest.raises(redis_exceptions.TimeoutError):
            client.get("large")
        assert client.sharing.in_flight == 1, "bytes still came, so the connection is not given up"
        asked = monotonic()
        manager.close_sync()
        assert monotonic() - asked < SOON


async def test_held_back_writes_are_looked_through_once(own_server, pool_settings, monkeypatch):
    looked = []
    monkeypatch.setattr(watched_connection, "reads_only", lambda *args: looked.append(None) or reads_only(*args))
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = await manager.get_client()
    hold_writes_back(own_server)
    writes = [asyncio.create_task(client.set(f"k{number}", 1)) for number in range(500)]
    await asyncio.sleep(0)
    assert await client.get("k") == b"v"
    await asyncio.sleep(0.5)
    assert 0 < len(looked) <= 600
    let_writes_go(own_server)
    assert await asyncio.gather(*writes) == [True] * 500


def test_threads_that_wait_share_the_looks_at_a_stall(own_server, pool_settings, monkeypatch):
    looks = []
    usual = connection_sync.SharedSocket.send_reads_elsewhere

    def counted(*args, **kwargs):
        looks.append(None)
        usual(*args, **kwargs)

    monkeypatch.setattr(connection_sync.SharedSocket, "send_reads_elsewhere", counted)
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    hold_writes_back(own_server)
    writers = started([partial(client.set, "held", "back")] * 60)
    eventually(lambda: client.sharing.in_flight == 60)
    assert client.get("k") == b"v"
    looks.clear()
    threading.Event().wait(0.5)
    assert 0 < len(looks) < 60
    let_writes_go(own_server)
    assert [writer.ended() for writer in writers] == [True] * 60


async def test_held_back_writes_that_time_out_are_no_outage(own_server, pool_settings, caplog):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=1.5)
    client = await manager.get_client()
    hold_writes_back(own_server, 60_000)
    for _ in range(2):
        write = asyncio.create_task(client.incr("n"))
        await asyncio.sleep(0)
        assert await client.get("k") == b"v"
        with pytest.raises(OutcomeUnknown):
            await write
        assert await (await manager.get_client()).get("k") == b"v"
    assert not [record for record in caplog.records if "is unhealthy" in record.getMessage()]


def test_a_reply_that_a_busy_leader_has_not_handed_out_is_no_stall(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    usual = Incoming.receive

    def receive(incoming, how):
        size = usual(incoming, how)
        sleep(0.3)  # other threads hold the interpreter
        return size

    monkeypatch.setattr(Incoming, "receive", receive)
    callers = started([partial(client.exists, "k")] * 4)
    assert [caller.ended() for caller in callers] == [0] * 4
    assert manager.get_pool_info()["connections_opened_total"] == 1


def test_what_is_not_sent_yet_is_no_stall(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    client.ping()
    usual = connection_sync.SharedSocket._lead

    def lead(*args):
        sleep(0.3)  # other threads hold the interpreter
        return usual(*args)

    monkeypatch.setattr(connection_sync.SharedSocket, "_lead", lead)
    callers = started([partial(client.exists, "k")] * 4)
    assert [caller.ended() for caller in callers] == [0] * 4
    assert manager.get_pool_info()["connections_opened_total"] == 1


@pytest.mark.parametrize("is_async", [True, False])
def test_a_stall_is_found_soon_also_where_connecting_took_long(own_server, pool_settings, is_async):
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, SOCKET_TIMEOUT=PATIENT, HEALTH_CHECK_TIMEOUT=PATIENT)
        proxy.reply_delay = 0.1

        async def made_slowly():
            client = await manager.get_client()
            proxy.reply_delay = 0.0
            for _ in range(20):
                await client.get("k")
            connection = client.sharing.connection
            return connection.stall_after, connection._round_trip

        if is_async:
            stall_after, round_trip = asyncio.run(made_slowly())
        else:
            client = manager.get_sync_client()
            client.ping()
            proxy.reply_delay = 0.0
            for _ in range(20):
                client.get("k")
            connection = client.sharing.connection
            stall_after, round_trip = connection.stall_after, connection._round_trip
        assert stall_after > 0.2
        assert patience(stall_after, round_trip) < 0.1


async def test_a_connection_that_two_attempts_have_made_twice_is_closed_again(own_server, pool_settings):
    """An event loop, or a thread, that was interrupted may connect once more than it needs to."""
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    assert await client.get("k") is blocking.get("k") is None
    await client.sharing._make_connection()
    blocking.sharing._make_connection(monotonic() + PATIENT)
    assert client.sharing.connections == blocking.sharing.connections == 2

    def one_is_left():
        blocking.get("k")  # threads look when replies come
        return client.sharing.connections == blocking.sharing.connections == 1

    await until(one_is_left)


# One caller alone.


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "threads"])
def test_a_lone_write_that_is_held_back_and_times_out_is_no_outage(own_server, pool_settings, caplog, is_async):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=1.5)
    hold_writes_back(own_server, 60_000)

    async def in_loop():
        client = await manager.get_client()
        with pytest.raises(OutcomeUnknown):
            await client.incr("n")
        return await (await manager.get_client()).get("k")

    if is_async:
        assert asyncio.run(in_loop()) == b"v"
    else:
        with pytest.raises(OutcomeUnknown):
            manager.get_sync_client().incr("n")
        assert manager.get_sync_client().get("k") == b"v"
    assert not [record for record in caplog.records if "is unhealthy" in record.getMessage()]
    assert manager.get_pool_info()["held_back_connections_total"] == 1


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "threads"])
def test_a_slow_command_of_a_lone_caller_makes_no_connection(own_server, pool_settings, is_async):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    hold_writes_back(own_server, 500)

    async def in_loop():
        return await (await manager.get_client()).incr("n"), manager.get_pool_info()["connections_opened_total"]

    value, made = asyncio.run(in_loop()) if is_async else (manager.get_sync_client().incr("n"), None)
    assert value == 1
    assert (made or manager.get_pool_info()["connections_opened_total"]) == 1


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "threads"])
def test_a_lone_read_passes_by_a_connection_that_has_fallen_silent(own_server, pool_settings, is_async):
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(f"redis://127.0.0.1:{proxy.port}/0", SOCKET_TIMEOUT=3.0)

        async def in_loop():
            client = await manager.get_client()
            await client.set("k", "v")
            proxy.swallow_replies_of_open_connections()
            return await client.get("k")

        def in_thread():
            client = manager.get_sync_client()
            client.set("k", "v")
            proxy.swallow_replies_of_open_connections()
            return client.get("k")

        assert (asyncio.run(in_loop()) if is_async else in_thread()) == b"v"


def test_a_read_does_not_wait_behind_a_held_back_write_whose_caller_has_left(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT)
    client = manager.get_sync_client()
    hold_writes_back(own_server, 60_000)
    with pytest.raises(redis_exceptions.TimeoutError):
        client.sharing.exchange(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n", 1, monotonic() + 0.1)
    asked = monotonic()
    assert client.get("k") == b"v"
    assert manager._health_check_sync()
    assert monotonic() - asked < SOON
    let_writes_go(own_server)
    assert client.incr("n") in (1, 2)
