"""GET by 1 to 200 concurrent callers through each asyncio client, whole round trips, every value checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext

from .callers import Values, tasks, texts
from .contest import Contest, Effort
from .floor import FLOOR, Floor
from .peers import OURS, PEERS, REDIS_PY
from .samples import Series, Situation, Work
from .server import Server

GET = Work("get", "GET of {size:,} bytes", "caller", "ops", OURS, REDIS_PY)
SIZES = (100, 10_000)
CALLERS = (1, 10, 50, 200)


def measure(server: Server, effort: Effort, report: Callable[[Situation], None]) -> list[Situation]:
    """Measure every size of value with every number of callers; ``report`` gets each block as it is done."""
    situations = []
    for size in SIZES:
        values = fill(server, max(CALLERS), size)
        for callers in CALLERS:
            series = asyncio.run(_compare(server, effort, values[:callers]))
            situations.append(Situation(GET, callers, series, size))
            report(situations[-1])
    return situations


def fill(server: Server, count: int, size: int) -> Values:
    """Store a value of its own for each of ``count`` callers."""
    values = {key: text.encode() for key, text in texts(count, size).items()}
    server.control.mset(values)
    return list(values.items())


async def _compare(server: Server, effort: Effort, values: Values) -> list[Series]:
    async with Contest(server, effort) as contest:
        for peer in PEERS:
            if peer.absent:
                contest.leave_out(peer.name, peer.absent)
            else:
                await contest.enter(peer.name, peer.connect(server.port, len(values)), tasks(values))
        # Nothing is stored, so all callers of the floor get the same value.
        same = [(key, values[0][1]) for key, _ in values]
        await contest.enter(FLOOR, nullcontext(Floor(same[0][1]).get), tasks(same))
        return await contest.run()
