"""Numbers among a command's arguments: hiredis ends the process where a number cannot be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from redispool_app.engine import SyncRedis

SCRIPT = """
import asyncio, sys
from redis.exceptions import ConnectionError, DataError
from redispool_app.engine import AsyncRedis, SyncRedis

class Unwritable(float):
    def __repr__(self):
        raise OSError("no text")

def deep(levels, function):
    return function() if levels <= 0 else deep(levels - 1, function)

async def adeep(levels, function):
    return await (function() if levels <= 0 else adeep(levels - 1, function))

def calls(client):
    return [
        lambda: client.set("key", 1),
        lambda: client.get(1),
        lambda: client.set("key", 1.5, px=1000),
        lambda: client.blpop("empty", 0.01),
        lambda: client.pipeline(transaction=False).set("key", 1).execute(),
    ]

port, limit = int(sys.argv[1]), 250
met = set()

def sync():
    with SyncRedis(port=port) as client:
        for value, error in ((10**5000, DataError), (Unwritable(1), OSError)):
            for call in (lambda: client.set("key", value), lambda: client.pipeline().rpush("list", value).execute()):
                try:
                    call()
                except error:
                    met.add("refused")
        for call in calls(client):
            for levels in range(limit - 45, limit):
                try:
                    deep(levels, call)
                except (RecursionError, ConnectionError):  # redis-py wraps what it meets while it connects
                    met.add("sync")
        assert client.incr("count") == 1

async def main():
    async with AsyncRedis(port=port) as client:
        for value, error in ((10**5000, DataError), (Unwritable(1), OSError)):
            for call in (lambda: client.set("key", value), lambda: client.get(value)):
                try:
                    await call()
                except error:
                    met.add("refused too")
        for call in calls(client):
            for levels in range(limit - 45, limit):
                try:
                    await adeep(levels, call)
                except (RecursionError, ConnectionError):  # redis-py wraps what it meets while it connects
                    met.add("async")
        assert await client.incr("count") == 2

sys.setrecursionlimit(limit)
sync()
asyncio.run(main())
print(sorted(met))
"""


def test_a_number_that_cannot_be_written_ends_no_process(server):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(server.port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.strip() == "['async', 'refused', 'refused too', 'sync']"


@pytest.mark.parametrize("number", [0, -1, 2**70, 1.5, -0.0, 1e300, float("inf"), True.__int__()])
def test_numbers_are_sent_as_redis_py_sends_them(server, number):
    with SyncRedis(port=server.port) as client, server.client() as plain:
        client.set("ours", number)
        plain.set("theirs", number)
        assert client.get("ours") == plain.get("theirs")
        client.rpush("list", number)
        plain.rpush("list", number)
        assert len(set(client.lrange("list", 0, -1))) == 1
