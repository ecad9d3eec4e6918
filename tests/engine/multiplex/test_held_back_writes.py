"""A server that holds writes back for long (``CLIENT PAUSE``): few new connections, and health says what is so."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from redispool_app.exceptions import OutcomeUnknown
from redispool_app.signals import health_changed

TIMEOUT = 1.0
"""``SOCKET_TIMEOUT`` in seconds."""

WAVES = 4
"""For how many such times callers go on."""

WRITERS = 12


class Seen:
    """What readers and writers have met, and what health was meanwhile."""

    def __init__(self, server, manager):
        self._server, self._manager = server, manager
        self.unknown = self.reads = 0
        self.states = set()
        self.until = time.monotonic() + WAVES * TIMEOUT

    def look(self):
        self.states.add(self._manager.get_pool_info()["state"])

    @property
    def goes_on(self):
        return time.monotonic() < self.until


def connections_of(server):
    with server.client() as admin:
        return admin.info("stats")["total_connections_received"]


def in_threads(manager, seen):
    client = manager.get_sync_client()

    def write(number):
        time.sleep(number * TIMEOUT / WRITERS)  # so that their times end one after another
        while seen.goes_on:
            with pytest.raises(OutcomeUnknown):
                client.incr("n")
            seen.unknown += 1

    def read():
        while seen.goes_on:
            assert client.get("k") == b"v"
            seen.reads += 1
            seen.look()
            time.sleep(0.02)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


async def in_loop(manager, seen):
    client = await manager.get_client()

    async def write(number):
        await asyncio.sleep(number * TIMEOUT / WRITERS)
        while seen.goes_on:
            with pytest.raises(OutcomeUnknown):
                await client.incr("n")
            seen.unknown += 1

    async def read():
        while seen.goes_on:
            assert await client.get("k") == b"v"
            seen.reads += 1
            seen.look()
            await asyncio.sleep(0.02)

    await asyncio.gather(*map(write, range(WRITERS)), read())
    await manager.close()


@pytest.mark.parametrize("side", ["async", "threads"])
def test_writes_that_time_out_cost_a_connection_for_each_time_out_and_no_health(
    side, own_server, pool_settings, caplog
):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=TIMEOUT, SOCKET_CONNECT_TIMEOUT=10, HEALTH_CHECK_TIMEOUT=10)
    manager.get_sync_client().set("k", "v")
    changes = []

    def listen(state, **event):
        if state == "unhealthy":
            changes.append(event)

    health_changed.connect(listen)
    before = connections_of(own_server)
    with own_server.client() as admin:
        admin.client_pause(60_000, all=False)
        try:
            seen = Seen(own_server, manager)
            if side == "async":
                asyncio.run(in_loop(manager, seen))
            else:
                in_threads(manager, seen)
            info = manager.get_pool_info()
            made = connections_of(own_server) - before
        finally:
            admin.client_unpause()
            health_changed.disconnect(listen)
    assert seen.unknown >= WRITERS * (WAVES - 2)
    assert seen.reads
    # Those of this test, the loop's first, the one beside the stall, and at most two for the time of each time-out.
    assert made <= 4 + 2 * WAVES, f"{seen.unknown} writes have timed out"
    assert seen.states == {"healthy"}
    assert not changes
    if side == "threads":  # the loop's manager is closed
        assert (info["state"], info["warning_kind"], info["last_error_kind"]) == ("healthy", "held_back", "held_back")
    told = [record.fault_kind for record in caplog.records if record.name == "redispool_app.health"]
    assert told == ["held_back"], "said once"
