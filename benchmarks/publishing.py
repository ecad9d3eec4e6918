"""What it costs that a process publishes its pool: GETs at full load, once with publishing (and scrapes), once without.

One manager does both in turn, so that nothing else differs. It publishes every second, five times as often as by
default, and its metrics are scraped as often. A shared machine's own restlessness is larger than the cost, so what is
promised is measured as the processor time of publishing and scraping.
"""

from __future__ import annotations

import asyncio
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
    """Return which part of a processor's time one publication and one scrape each ``INTERVAL`` take.

    Of the two ways to publish, on the threads' connection and on an event loop's, the dearer one.
    """
    configure_django(server.port)
    return max(_cost_by_threads(), asyncio.run(_cost_by_tasks())) / INTERVAL


def _cost_by_threads() -> float:
    from redispool_app.redis_pool import redis_connection_manager as manager

    try:
        manager.get_sync_client().ping()
        return _cost()
    finally:
        manager.close_sync()
        manager.reload_settings()


async def _cost_by_tasks() -> float:
    from redispool_app.redis_pool import redis_connection_manager as manager

    try:
        await (await manager.get_client()).ping()
        return await asyncio.to_thread(_cost)
    finally:
        await manager.close()
        manager.reload_settings()


def _cost() -> float:
    """Return the seconds of processor time, of whatever thread, that one publication and one scrape take."""
    from redispool_app.redis_pool import redis_connection_manager as manager
    from redispool_app.workers.heartbeat import Publication

    publication = Publication(manager, lambda: None)
    publication.round()
    _scrape()
    started = time.process_time()
    for _ in range(ROUNDS):
        publication.round()
        _scrape()
    cost = (time.process_time() - started) / ROUNDS
    if not publication.published:
        raise AssertionError("nothing was published")
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
    _scrape()  # what a thread raises would be lost
    publisher.ensure(manager)
    ended = threading.Event()
    scraper = threading.Thread(target=_scrape_until, args=(ended, interval))
    scraper.start()
    try:
        yield
        publication = publisher.publication_of(manager)
        if publication is None or publication.saying.problem:
            raise AssertionError("nothing was published")
    finally:
        ended.set()
        scraper.join()
        publisher.forget(manager)


def _scrape_until(ended: threading.Event, interval: float) -> None:
    while not ended.wait(interval):
        _scrape()


def _scrape() -> None:
    """Raises ``ModuleNotFoundError`` without prometheus_client: what is promised has scrapes in it."""
    from redispool_app.metrics.prometheus import scrape

    scrape()
