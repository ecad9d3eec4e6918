"""``cache.aget`` by concurrent coroutines and ``cache.get`` by threads, through each cache backend.

Each caller looks its cache up once, with ``caches[alias]``, as Django does for ``django.core.cache.cache``: so every
thread has a backend of its own, and the coroutines share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from django.core.cache import caches

from .cache_backends import BACKENDS, DJANGO, OURS_CACHE, configure_django
from .callers import Get, Values, crew, tasks, texts, threads
from .contest import Contest, Effort
from .samples import Series, Situation, Work
from .server import Server

CACHE_AGET = Work("cache_aget", "cache.aget of {size:,} characters", "caller", "ops", OURS_CACHE, DJANGO)
CACHE_GET = Work("cache_get", "cache.get of {size:,} characters", "thread", "ops", OURS_CACHE, DJANGO)
CALLERS = {CACHE_AGET: (50, 300), CACHE_GET: (1, 16)}


def measure(server: Server, effort: Effort, report: Callable[[Situation], None]) -> list[Situation]:
    """Measure both methods with every number of callers; ``report`` gets each block as it is done."""
    configure_django(server.port)
    stored = texts(max(map(max, CALLERS.values())), 100)
    values = list(stored.items())
    for backend in BACKENDS:
        if not backend.absent:
            backend.fill(stored)
    situations = []
    for work, numbers in CALLERS.items():
        for callers in numbers:
            situations.append(Situation(work, callers, asyncio.run(_compare(server, effort, work, values[:callers]))))
            report(situations[-1])
    return situations


async def _compare(server: Server, effort: Effort, work: Work, values: Values) -> list[Series]:
    async with Contest(server, effort) as contest:
        for backend in BACKENDS:
            if backend.absent:
                contest.leave_out(backend.name, backend.absent)
            elif work is CACHE_AGET:
                await contest.enter(backend.name, nullcontext(caches[backend.alias].aget), tasks(values))
            else:
                await contest.enter(backend.name, crew(len(values), partial(_look_up, backend.alias)), threads(values))
        return await contest.run()


def _look_up(alias: str) -> Get:
    """Return the method of the calling thread's own backend."""
    get: Get = caches[alias].get
    return get
