"""Reads beside a stalled connection: how they are measured for each client, as a table and for the JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from time import monotonic, sleep
from typing import Any

import redis

from tests.support.crowd import Caller, joined
from tests.support.servers import RedisServer

from .tables import aligned

rows: list[dict[str, Any]] = []

COLUMNS = {
    "reads": "reads",
    "errors": "errors",
    "timed_out": "timed out",
    "late": "above 2 s",
    "wrong_replies": "wrong",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "connections": "connections",
}

READERS, WRITERS = 4, 2
PACE = 0.01
"""Seconds between two calls of a reader or writer."""
BANDWIDTH = 12_500_000
"""Bytes per second of each connection beside a large reply."""
TIMEOUT = 10.0
"""Seconds, of every client: the large reply must have time to arrive."""
LATE = 2.0
"""Seconds; a read that waits longer would time out with the default ``SOCKET_TIMEOUT``."""
WATCHED = 1.4
"""Seconds for which reads beside held-back writes are counted."""
_PAUSE_MS = 1500
_WARM = 0.2
"""Seconds of calls before the stall."""
_PATIENCE = 60.0


class Calls:
    """What the calls of one client came to; reads that begin while ``stalled`` is set are counted."""

    def __init__(self) -> None:
        self.stalled = False
        self.ended = False
        self.waits: list[float] = []
        self.errors = self.timed_out = self.wrong = 0
        self.connections = 0

    @contextmanager
    def one(self, *, read: bool = False) -> Iterator[None]:
        """Time the call in the block, and count its error."""
        counted, began = read and self.stalled, monotonic()
        try:
            yield
        except (redis.RedisError, OSError) as error:
            self.errors += 1
            self.timed_out += isinstance(error, redis.TimeoutError | TimeoutError)
        else:
            if counted:
                self.waits.append(monotonic() - began)

    def check(self, right: bool) -> None:
        self.wrong += not right

    def look(self, server: RedisServer) -> None:
        """Count the client's connections, then count no further reads."""
        self.connections = int(server.info("clients")["connected_clients"]) - 1
        self.stalled = False

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of a row."""
        waits = sorted(self.waits)

        def percentile(share: float) -> float | None:
            return round(waits[min(len(waits) - 1, int(len(waits) * share))] * 1000, 1) if waits else None

        return {
            "reads": len(waits),
            "errors": self.errors,
            "timed_out": self.timed_out,
            "late": sum(wait > LATE for wait in waits),
            "wrong_replies": self.wrong,
            "p50_ms": percentile(0.5),
            "p99_ms": percentile(0.99),
            "connections": self.connections,
        }


def prepare(server: RedisServer, large: int) -> None:
    """Store what is read: a small value for each reader, and one of ``large`` bytes."""
    with server.client() as admin:
        admin.mset({f"small:{number}": f"value {number}" for number in range(READERS)})
        if large:
            admin.set("large", b"x" * large)


async def play_async(client: Any, server: RedisServer, large: int, slow: Callable[[], None]) -> Calls:
    """Let tasks read beside a reply of ``large`` bytes after ``slow()``, or beside held-back writes if it is 0."""
    calls = Calls()

    async def reader(number: int) -> None:
        while not calls.ended:
            with calls.one(read=True):
                calls.check(await client.get(f"small:{number}") == b"value %d" % number)
            await asyncio.sleep(PACE)

    async def writer(number: int) -> None:
        done = 0
        while not calls.ended:
            with calls.one():
                before, done = done, await client.incr(f"count:{number}")
                calls.check(done > before)
            await asyncio.sleep(PACE)

    tasks = [asyncio.create_task(reader(number)) for number in range(READERS)]
    tasks += [asyncio.create_task(writer(number)) for number in range(0 if large else WRITERS)]
    await asyncio.sleep(_WARM)
    if large:
        slow()
        fetched = asyncio.create_task(client.get("large"))
        await asyncio.sleep(0)
        calls.stalled = True
        with calls.one():
            calls.check(len(await fetched) == large)
    else:
        await asyncio.to_thread(_hold_writes_back, server)
        calls.stalled = True
        await asyncio.sleep(WATCHED)
    await asyncio.to_thread(calls.look, server)
    calls.ended = True
    await asyncio.wait_for(asyncio.gather(*tasks), _PATIENCE)
    return calls


def play_in_threads(client: Any, server: RedisServer, large: int, slow: Callable[[], None]) -> Calls:
    """Do the same with threads."""
    calls = Calls()

    def reader(number: int) -> None:
        while not calls.ended:
            with calls.one(read=True):
                calls.check(client.get(f"small:{number}") == b"value %d" % number)
            sleep(PACE)

    def writer(number: int) -> None:
        done = 0
        while not calls.ended:
            with calls.one():
                before, done = done, client.incr(f"count:{number}")
                calls.check(done > before)
            sleep(PACE)

    threads = [Caller(partial(reader, number)) for number in range(READERS)]
    threads += [Caller(partial(writer, number)) for number in range(0 if large else WRITERS)]
    for thread in threads:
        thread.start()
    sleep(_WARM)
    if large:
        slow()
        calls.stalled = True
        with calls.one():
            calls.check(len(client.get("large")) == large)
    else:
        _hold_writes_back(server)
        calls.stalled = True
        sleep(WATCHED)
    calls.look(server)
    calls.ended = True
    joined(threads, _PATIENCE)
    for thread in threads:
        if isinstance(thread.outcome, BaseException):
            raise thread.outcome
    return calls


def _hold_writes_back(server: RedisServer) -> None:
    with server.client() as admin:
        admin.client_pause(_PAUSE_MS, all=False)


def name_of(large: int) -> str:
    """Return what stalls the connection."""
    return f"a reply of {large // 1_000_000} MB" if large else f"CLIENT PAUSE WRITE ({WATCHED:g} s)"


def record(large: int, subject: str, numbers: dict[str, Any]) -> None:
    """Keep what one client's callers saw."""
    rows.append({"stall": name_of(large), "reply_bytes": large, "subject": subject, **numbers})
    rows.sort(key=lambda row: row["reply_bytes"])


def cells(row: dict[str, Any]) -> list[str]:
    """Return what a row says under each of ``COLUMNS``."""
    return ["-" if row[name] is None else str(row[name]) for name in COLUMNS]


def table() -> Iterator[str]:
    """Yield the lines of the table; none when nothing was measured."""
    if rows:
        lines = [[row["stall"], row["subject"], *cells(row)] for row in rows]
        yield from aligned([["stalled by", "client", *COLUMNS.values()], *lines], left=2)


def section() -> dict[str, Any] | None:
    """Return what the JSON says, if anything was measured."""
    return {"versions": {"redis": version("redis")}, "rows": rows} if rows else None
