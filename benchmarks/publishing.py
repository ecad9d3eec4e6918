"""What it costs that a process publishes its pool: GETs at full load, once with publishing (and scrapes), once without.

One manager does both in turn, so that nothing else differs. It publishes every second, five times as often as by
default. Where the metrics are installed, a scrape is made as often. As the machine's
own restlessness can be larger than the cost, the processor time of one publication is taken too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from .async_engine import fill
from .cache_backends import configure_django
from .callers import Values, crew, tasks, threads
from .contest import Contest, Effort
from .samples import Sample, Series, Situation, Work
from .server import Server

PUBLISHING, SILENT = "publishing", "silent"
INTERVAL = 1.0
CALLERS = 200
THREADS = 16
TITLE = "GET of {size:,} bytes by a manager that publishes or not"
ASYNC = Work("publishing_async", TITLE, "caller", "ops", PUBLISHING, SILENT)
SYNC = Work("publishing_sync", TITLE, "thread", "ops", PUBLISHING, SILENT)
ROUNDS = 500

Timed = Callable[[Any, int], Awaitable[Sample]]


def measure(server: Server, effort: Effort, report: Callable[[Situation], None]) -> list[Situation]:
    """Measure tasks of an event loop and threads; ``report`` gets each block as it is done."""
    configure_django(server.port)
    values = fill(server, CALLERS, 100)
    situations = []
    for work, callers, compare in ((ASYNC, CALLERS, _compare_tasks), (SYNC, THREADS, _compare_threads)):
        situations.append(Situation(work, callers, asyncio.run(compare(server, effort, values[:callers]))))
        report(situations[-1])
    return situations


def share_of_a_processor(server: Server) -> float:
    """Return which part of a processor's time publishing takes, at one publication each ``INTERVAL``."""
    from redispool_app.redis_pool import redis_connection_manager as manager
    from redispool_app.workers.publication import Publication

    configure_django(server.port)
    manager.get_sync_client().ping()
    publication = Publication(manager, lambda: None)
    publication.round()
    started = time.thread_time()
    for _ in range(ROUNDS):
        publication.round()
    cost = (time.thread_time() - started) / ROUNDS / INTERVAL
    if not publication.published:
        raise AssertionError("nothing was published")
    manager.close_sync()
    manager.reload_settings()
    return cost


async def _compare_tasks(server: Server, effort: Effort, values: Values) -> list[Series]:
    from redispool_app.redis_pool import redis_connection_manager as manager

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield (await manager.get_client()).get

    try:
        return await _compare(server, effort, opened, tasks(values))
    finally:
        await manager.close()
        manager.reload_settings()


async def _compare_threads(server: Server, effort: Effort, values: Values) -> list[Series]:
    from redispool_app.redis_pool import redis_connection_manager as manager

    try:
        return await _compare(
            server, effort, lambda: crew(len(values), lambda: manager.get_sync_client().get), threads(values)
        )
    finally:
        manager.close_sync()
        manager.reload_settings()


async def _compare(server: Server, effort: Effort, opened: Callable[[], Any], timed: Timed) -> list[Series]:
    async with Contest(server, effort) as contest:
        for name, interval in ((PUBLISHING, INTERVAL), (SILENT, None)):
            await contest.enter(name, opened(), _with_interval(timed, interval))
        return await contest.run()


def _with_interval(timed: Timed, interval: float | None) -> Timed:
    async def round_of(contender: Any, each: int) -> Sample:
        with _publishing(interval):
            return await timed(contender, each)

    return round_of


@contextmanager
def _publishing(interval: float | None) -> Iterator[None]:
    from redispool_app.redis_pool import redis_connection_manager as manager
    from redispool_app.workers import publisher

    manager._built()
    manager._known_config = replace(manager._config, publish_interval=interval)
    publisher.forget(manager)
    if interval is None:
        yield
        return
    publisher.ensure(manager)
    ended = threading.Event()
    scraper = threading.Thread(target=_scrape_until, args=(ended, interval))
    scraper.start()
    try:
        yield
        if publisher.publication_of(manager).problem:  # type: ignore[union-attr]
            raise AssertionError("nothing was published")
    finally:
        ended.set()
        scraper.join()
        publisher.forget(manager)


def _scrape_until(ended: threading.Event, interval: float) -> None:
    with contextlib.suppress(ModuleNotFoundError):
        from redispool_app.metrics.prometheus import scrape  # type: ignore[import-not-found]

        while not ended.wait(interval):
            scrape()
