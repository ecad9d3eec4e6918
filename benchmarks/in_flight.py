"""What many callers at once cost apart from time: connections, and memory for each of them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from dataclasses import dataclass

from .peers import OURS, PEERS, REDIS_PY, Peer
from .server import Server

CROWD = 1000
CALLERS = 200


@dataclass(frozen=True)
class Footprint:
    """``connections`` opened by a crowd of callers; ``bytes_per_caller``: peak of traced memory, None if not taken."""

    contender: str
    connections: int
    bytes_per_caller: int | None


def measure(server: Server) -> list[Footprint]:
    server.control.set("bench:one", b"x" * 100)
    footprints = []
    for peer in PEERS:
        if peer.absent:
            continue
        connections = asyncio.run(_crowd(server, peer))
        memory = asyncio.run(_traced(server, peer)) if peer.name in (OURS, REDIS_PY) else None
        footprints.append(Footprint(peer.name, connections, memory))
    return footprints


async def _crowd(server: Server, peer: Peer) -> int:
    """Return how many connections ``CROWD`` callers use when they call at once, ten times each."""

    async def caller() -> None:
        for _ in range(10):
            if await get("bench:one") is None:
                raise AssertionError("bench:one is gone")

    with server.watching() as seen:
        async with peer.connect(server.port, CROWD) as get:
            await asyncio.gather(*(caller() for _ in range(CROWD)))
            seen.look()
    return seen.most


async def _traced(server: Server, peer: Peer) -> int:
    """Return the peak of memory that each of ``CALLERS`` callers in flight adds, its task and connection included.

    tracemalloc sees what Python allocates, not what hiredis or the kernel keep for a connection.
    """

    async def caller() -> None:
        if await get("bench:one") is None:
            raise AssertionError("bench:one is gone")

    async with peer.connect(server.port, CALLERS) as get:
        await caller()
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return (peak - before) // CALLERS
