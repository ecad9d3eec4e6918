"""A command's name in any spelling: it is sent as redis-py sends it, and travels as what is sent."""

from __future__ import annotations

import enum
import threading
import time
from operator import methodcaller as do

import pytest
import redis.asyncio
from redis.connection import HiredisRespSerializer

from redispool_app.engine import SyncRedis
from redispool_app.engine.protocol import commands
from redispool_app.engine.protocol.commands import command_info, is_ephemeral, is_exclusive, may_block, only_reads
from redispool_app.engine.protocol.packing import pack, pack_utf8
from tests.support.twin_clients import assert_same, assert_same_sync


class Name(str, enum.Enum):  # noqa: UP042 (the kind whose str() is not what it equals)
    BLPOP = "BLPOP"
    GET = "get"
    GET_CONFIG = "config get"


class Bytes(bytes, enum.Enum):
    BLPOP = b"blpop"
    GET = b"GET"


class Shouted(str):
    """A ``str`` that is sent as something else than what it equals."""

    def encode(self, *args, **kwargs):
        return super().encode(*args, **kwargs).upper() + b"POP"


SPELLINGS = [
    *("GET", "get", "GeT", " GET ", "GET\t", "\nGET", "", " ", "CONFIG GET", "config\tget", "EVAL_RO", "JSON.GET", "É"),
    *(b"GET", b"get", b" GET ", b"GET\t", b"", b" ", b"CONFIG GET", bytearray(b"CONFIG GET"), memoryview(b"GET")),
    *(Name.BLPOP, Name.GET, Name.GET_CONFIG, Bytes.BLPOP, Bytes.GET, Shouted("BL"), Shouted("config get")),
]


# Not the memoryview's own repr, which differs between the processes that run the tests.
@pytest.mark.parametrize(
    "name",
    SPELLINGS,
    ids=lambda name: f"{type(name).__name__} {bytes(name, 'utf-8') if isinstance(name, str) else bytes(name)!r}",
)
def test_a_name_is_sent_as_redis_py_sends_it(name):
    args = (name, "key", 1)
    blocking = b"".join(HiredisRespSerializer().pack(*args))
    assert pack_utf8(args) == blocking
    connection = redis.asyncio.Connection()
    assert pack(args, connection.encoder) == b"".join(connection.pack_command(*args))
    for encoding in ("latin-1", "utf-16"):
        connection = redis.asyncio.Connection(encoding=encoding)
        assert pack(args, connection.encoder) == b"".join(connection.pack_command(*args))


@pytest.mark.parametrize("blocks", [Name.BLPOP, Bytes.BLPOP, Shouted("BL"), " blpop", b"BLPOP ", "blpop\n"], ids=repr)
def test_what_blocks_is_known_by_what_is_sent(blocks):
    assert is_exclusive([blocks, "q", 0])
    assert may_block([blocks, "q", 0])
    assert not only_reads(blocks)
    assert not is_ephemeral(blocks)


def test_a_name_of_another_class_changes_nothing_for_the_plain_one():
    commands.COMMANDS.clear()
    assert command_info(Shouted("GET")).exclusive is False
    assert command_info(Shouted("BL")).exclusive
    assert not command_info("BL").exclusive
    assert command_info(Name.BLPOP).exclusive
    assert command_info("BLPOP").exclusive
    assert command_info(Bytes.GET).plain
    assert all(name.__class__ in (str, bytes) for name in commands.COMMANDS)
    assert only_reads(Name.GET)


CALLS = [
    do("set", "k", "v"),
    do("execute_command", Name.GET, "k"),
    do("execute_command", Bytes.GET, "k"),
    do("execute_command", "GET\n", "k"),
    do("execute_command", "\tget", "k"),
    do("execute_command", Name.GET_CONFIG, "maxmemory-samples"),
    do("execute_command", "config\nget", "maxmemory-samples"),
    do("rpush", "q", 1, 2, 3),
    do("execute_command", Name.BLPOP, "q", 1),
    do("execute_command", Bytes.BLPOP, "q", 1),
    do("execute_command", "blpop\t", "q", 1),
]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_async_answers_are_those_of_redis_py(server, protocol):
    await assert_same(server, CALLS, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3])
def test_sync_answers_are_those_of_redis_py(server, protocol):
    assert_same_sync(server, CALLS, protocol=protocol)


@pytest.mark.parametrize("name", [Name.BLPOP, Bytes.BLPOP, "blpop\n"], ids=repr)
def test_a_pop_that_waits_under_another_name_holds_up_no_other_caller(server, name):
    with SyncRedis(port=server.port, socket_timeout=30) as client:
        client.set("k", "v")
        popping = threading.Thread(target=client.execute_command, args=(name, "empty", 10))
        popping.start()
        while not server.info("clients")["blocked_clients"]:
            time.sleep(0.01)
        before = time.monotonic()
        assert client.get("k") == b"v"
        assert time.monotonic() - before < 5
        client.rpush("empty", 1)
        popping.join()
