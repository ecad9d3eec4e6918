"""Reads beside a stalled shared connection, measured for this project's clients and for redis-py's.

``make faults`` prints what the callers of each client saw; docs/faults.md quotes it. Only this project is asserted to
serve every caller.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import redis
import redis.asyncio

from tests.lab import stalled
from tests.lab.proxy import Proxy
from tests.lab.side_by_side import DEFAULTS
from tests.lab.stalled import BANDWIDTH, COLUMNS, LATE, TIMEOUT, Calls, cells

pytestmark = pytest.mark.lab

STALLS = pytest.mark.parametrize("large", [0, 10_000_000, 60_000_000], ids=stalled.name_of)


class Path:
    """The way to a server: through a proxy whose bandwidth ``slow()`` limits where a reply is large."""

    def __init__(self, server, large):
        self._stack = ExitStack()
        self._proxy = Proxy(server.port) if large else None
        self.url = self._proxy.url if large else server.url
        stalled.prepare(server, large)

    def __enter__(self):
        if self._proxy is not None:
            self._stack.enter_context(self._proxy)
        return self

    def __exit__(self, *args):
        self._stack.close()

    def slow(self):
        self._proxy.bandwidth = BANDWIDTH


def expect_that_every_caller_is_served(numbers):
    assert not any(numbers[name] for name in ("errors", "timed_out", "late", "wrong_replies")), numbers
    assert numbers["reads"] > stalled.READERS, "later reads waited behind the stall"


@STALLS
async def test_reads_of_tasks(large, own_server, pool_settings):
    with Path(own_server, large) as path:
        client = await pool_settings(path.url, SOCKET_TIMEOUT=TIMEOUT).get_client()
        numbers = (await stalled.play_async(client, own_server, large, path.slow)).numbers
        stalled.record(large, "redispool, async", numbers)
    expect_that_every_caller_is_served(numbers)


@STALLS
def test_reads_of_threads(large, own_server, pool_settings):
    with Path(own_server, large) as path:
        client = pool_settings(path.url, SOCKET_TIMEOUT=TIMEOUT).get_sync_client()
        numbers = stalled.play_in_threads(client, own_server, large, path.slow).numbers
        stalled.record(large, "redispool, threads", numbers)
    expect_that_every_caller_is_served(numbers)


@STALLS
async def test_reads_of_tasks_with_redis_py(large, own_server):
    with Path(own_server, large) as path:
        async with redis.asyncio.Redis.from_url(path.url, socket_timeout=TIMEOUT) as client:
            calls = await stalled.play_async(client, own_server, large, path.slow)
        stalled.record(large, "redis-py asyncio", calls.numbers)
    assert calls.numbers["reads"]


@STALLS
def test_reads_of_threads_with_redis_py(large, own_server):
    with Path(own_server, large) as path:
        with redis.Redis.from_url(path.url, socket_timeout=TIMEOUT) as client:
            calls = stalled.play_in_threads(client, own_server, large, path.slow)
        stalled.record(large, "redis-py, threads", calls.numbers)
    assert calls.numbers["reads"]


def test_a_late_read_is_one_that_would_time_out_by_default():
    assert DEFAULTS["SOCKET_TIMEOUT"] == LATE
    assert f"above {LATE:.0f} s" in COLUMNS.values()
    calls = Calls()
    calls.waits = [LATE / 2, 2 * LATE]
    assert calls.numbers["late"] == 1


def test_errors_and_wrong_replies_are_counted():
    calls = Calls()
    with calls.one(read=True):
        pass
    assert (calls.numbers["reads"], calls.numbers["p99_ms"]) == (0, None), "no stall yet"
    assert dict(zip(COLUMNS, cells(calls.numbers), strict=True))["p99_ms"] == "-"
    calls.stalled = True
    with calls.one(read=True):
        calls.check(False)
    with calls.one():
        raise redis.ConnectionError
    with calls.one(read=True):
        raise redis.TimeoutError
    found = calls.numbers
    assert (found["reads"], found["errors"], found["timed_out"], found["wrong_replies"]) == (1, 2, 1, 1)
