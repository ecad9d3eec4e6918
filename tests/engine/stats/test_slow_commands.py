"""Who waited longest is remembered, by the name of what it asked and by nothing else."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.engine.stats.slow_log import HORIZON, MOST, SlowLog, name_of, name_of_args
from redispool_app.exceptions import PoolTimeout
from tests.engine.runtime.test_forks import in_child
from tests.support.servers import eventually

SECRET = "key-of-a-customer"


@pytest.fixture
def slow(server, pool_settings):
    """A manager that remembers from 50 ms on, and a way to make the server that slow."""
    manager = pool_settings(server.url, SLOW_COMMAND=0.05)

    def stall(milliseconds=300):
        with server.client() as admin:
            admin.client_pause(milliseconds)

    manager.stall = stall
    yield manager
    del manager.stall


def names(manager):
    """The names of what was slow, without the health checks, which are slow on a busy machine."""
    return sorted(each["command"] for each in manager.slow_commands() if not each["command"].startswith("PING"))


async def test_a_slow_command_of_async_code_is_remembered_by_its_name(slow):
    client = await slow.get_client()
    await client.get(SECRET)
    assert slow.slow_commands() == []
    slow.stall()
    await client.get(SECRET)
    (found,) = slow.slow_commands()
    assert (found["command"], found["callers"]) == ("GET", 1)
    assert 50 < found["duration_ms"] < 2000
    assert abs(time.time() - found["at"]) < 2
    assert SECRET not in json.dumps(slow.slow_commands())
    assert slow.get_pool_info()["slow_commands_total"] == 1


def test_so_is_one_of_a_thread(slow):
    client = slow.get_sync_client()
    slow.stall()
    client.hget(SECRET, "field")
    assert names(slow) == ["HGET"]


async def test_callers_who_waited_side_by_side_are_one_entry_for_each_name(slow):
    client = await slow.get_client()
    slow.stall()
    await asyncio.gather(*(client.get(f"{SECRET}{number}") for number in range(70)), client.llen("n"))
    assert set(names(slow)) == {"GET", "LLEN"}
    assert sum(each["callers"] for each in slow.slow_commands()) == 71
    assert len(slow.slow_commands()) <= 4
    assert slow.get_pool_info()["slow_commands_total"] == 71


async def test_of_a_pipeline_the_first_command_and_the_number_of_the_others(slow):
    client = await slow.get_client()
    for transaction in (False, True):
        pipe = client.pipeline(transaction)
        pipe.set(SECRET, 1).incr(SECRET).get(SECRET)
        slow.stall()
        await pipe.execute()
    pipe = slow.get_sync_client().pipeline(False)
    pipe.lpush("l", 1).llen("l")
    slow.stall()
    pipe.execute()
    assert names(slow) == ["LPUSH +1", "MULTI SET +2", "SET +2"]
    assert slow.get_pool_info()["slow_commands_total"] == 3


async def test_connections_that_serve_one_caller_are_watched_too(slow):
    client = await slow.get_client()
    slow.stall()
    await client.client_getname()
    slow.stall()
    slow.get_sync_client().client_getname()
    pipe = client.pipeline()
    await pipe.watch(SECRET)
    pipe.multi()
    pipe.get("n").llen("n")
    slow.stall()
    await pipe.execute()
    assert names(slow) == ["CLIENT", "CLIENT", "GET +1"]


async def test_waiting_for_somebody_else_is_not_slow(slow):
    client = await slow.get_client()
    await client.blpop(["nothing"], 0.1)
    await client.xread({"stream": "$"}, block=80)
    slow.get_sync_client().blpop(["nothing"], 0.1)
    assert slow.slow_commands() == []


async def test_who_waited_in_vain_is_remembered_once(slow, server, pool_settings):
    manager = pool_settings(server.url, SLOW_COMMAND=0.05, SOCKET_TIMEOUT=0.1)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    blocking.ping()
    await client.ping()
    unit = client.pipeline().get("c").get("d")
    for wait in (lambda: client.get("a"), lambda: asyncio.to_thread(blocking.get, "b"), unit.execute):
        slow.stall(150)
        with pytest.raises(redis_exceptions.TimeoutError):
            await wait()
        # The reply comes late, and is nobody's.
        await asyncio.to_thread(eventually, lambda: manager._is_healthy)
    # The health checks that met the same are commands too.
    assert names(manager) == ["GET", "GET", "MULTI GET +1"]


async def test_who_waited_for_a_connection_is_remembered(slow, server, pool_settings):
    manager = pool_settings(server.url, SLOW_COMMAND=0.05, MAX_CONNECTIONS=2, TIMEOUT=0.08)
    client = await manager.get_client()
    holder = asyncio.create_task(client.blpop(["nothing"], 1))
    await asyncio.sleep(0.02)
    with pytest.raises(PoolTimeout):
        await client.client_getname()
    assert names(manager) == ["CLIENT"]
    holder.cancel()


async def test_waiting_before_the_command_is_sent_counts(own_server, pool_settings):
    manager = pool_settings(own_server.url, SLOW_COMMAND=0.05)
    client = await manager.get_client()
    own_server.pause()
    await asyncio.to_thread(manager._pool_set._sync_pair)
    sharing = client.sharing
    sharing.abandon()
    sharing.closed = False
    sharing.connection = None
    waits = asyncio.create_task(client.get("a"))
    await asyncio.sleep(0.1)
    own_server.resume()
    await waits
    assert names(manager) == ["GET"]


def test_a_threads_command_that_waits_for_its_leader_counts(slow):
    client = slow.get_sync_client()
    slow.stall()
    threads = [threading.Thread(target=client.get, args=(f"k{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # On a busy machine a health check waits, too.
    assert sum(each["callers"] for each in slow.slow_commands() if each["command"] == "GET") == 8


async def test_a_client_without_a_manager_remembers_nothing(server):
    async with AsyncRedis(port=server.port) as client:
        await client.get("a")
        assert client.sharing.slow_commands.threshold == math.inf


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_with_none(slow):
    client = slow.get_sync_client()
    slow.stall()
    client.get("a")
    assert names(slow) == ["GET"]
    assert in_child(lambda: (slow.slow_commands(), slow.get_pool_info()["slow_commands_total"])) == "([], 0)"


# The record.


def test_the_slowest_are_kept_and_come_first():
    record = SlowLog(threshold=0.1)
    for number in range(MOST + 10):
        record.note(f"COMMAND{number}", 1.0 + number)
    found = record.as_list()
    assert len(found) == MOST == 32
    assert [each["duration_ms"] for each in found] == sorted((each["duration_ms"] for each in found), reverse=True)
    assert found[0]["command"] == f"COMMAND{MOST + 9}"
    assert record.total == MOST + 10


def test_what_is_old_makes_way():
    now = [1000.0]
    record = SlowLog(threshold=0.1, clock=lambda: now[0])
    record.note("OLD", 9.0)
    now[0] += HORIZON + 1
    assert record.as_list() == []
    record.note("NEW", 0.2)
    assert [each["command"] for each in record.as_list()] == ["NEW"]


@pytest.mark.parametrize(
    ("packed", "commands", "name"),
    [
        (b"*2\r\n$3\r\nget\r\n$1\r\na\r\n", 1, "GET"),
        (b"*2\r\n$8\r\nJSON.GET\r\n$1\r\na\r\n", 1, "JSON.GET"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n", 3, "GET +2"),
        (b"*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n", 3, "MULTI GET"),
        (b"*1\r\n$90\r\n" + b"x" * 90 + b"\r\n", 1, "?"),
        (b"*1\r\n$9\r\nno\xffname..\r\n", 1, "?"),
        (b"*1\r\n$8\r\nhas word\r\n", 1, "?"),
        (b"", 1, "?"),
    ],
)
def test_a_name_is_read_from_what_was_sent(packed, commands, name):
    assert name_of(packed, commands) == name


@pytest.mark.parametrize(
    ("args", "name"),
    [(("get", "a"), "GET"), ((b"CONFIG GET", "x"), "CONFIG"), (("Sch\xf6n", "x"), "?"), (("",), "?"), ((), "?")],
)
def test_a_name_is_read_from_what_would_be_sent(args, name):
    assert name_of_args(args) == name


def test_a_pool_without_slow_commands_says_so(manager):
    manager.get_sync_client().get("a")
    eventually(lambda: manager.slow_commands() == [])
    assert manager.get_pool_info()["slow_commands_total"] == 0
