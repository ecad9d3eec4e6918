"""The thread that lets a process publish its pools: one per process, begun by the first use of a manager.

It ends when no pool is left to publish, is not there after a fork until the child uses a pool itself, and never keeps
a process from ending.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from redispool_app.engine.runtime import fork, process
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.runtime.worker import Run, Worker

from . import snapshot
from .heartbeat import Publication

if TYPE_CHECKING:
    from redispool_app.redis_pool import RedisConnectionManager

__all__ = ["ensure", "on_tick", "recent"]

logger = logging.getLogger("redispool_app.workers")

Callback = Callable[[str, dict[str, Any]], None]

FIRST_AFTER = 1.0
"""Seconds that a process must live before it publishes: what is over sooner is no worker."""

WITHOUT_PUBLISHING = 5.0
"""Seconds between two snapshots that are only kept, not published."""


class _Publisher:
    """What a process publishes, and the thread that does; a forked child has a new one."""

    def __init__(self) -> None:
        self._worker = Worker("redispool-publisher", self._run)
        # Not an event: its put is one call in C, which a signal handler cannot find half done.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._publications: dict[str, Publication] = {}
        self._failed: set[str] = set()

    def watch(self, manager: RedisConnectionManager) -> Publication:
        publication = self._publications.setdefault(manager.alias, Publication(manager, self.wake))
        if publication.manager is not manager:
            publication = self._publications[manager.alias] = Publication(manager, self.wake)
        self._worker.ensure()
        return publication

    def start(self) -> None:
        """Start the thread unless it runs, or none may be started."""
        self._worker.ensure()

    def wake(self) -> None:
        """Let the thread look again what is due."""
        if self._wake.empty():
            self._wake.put(None)

    def find(self, alias: str) -> Publication | None:
        return self._publications.get(alias)

    def _run(self, run: Run) -> None:
        wait, woken = 0.0, self._wake
        while True:
            with contextlib.suppress(Empty):
                woken.get(True, wait)
            if (wait := FIRST_AFTER - process.age()) > 0:
                continue
            for publication in list(self._publications.values()):
                if publication.next_at <= monotonic():
                    self._round(publication)
            due = [each.next_at for each in list(self._publications.values())]
            if not due:
                # A pool that is to be published from here on finds that no thread is there; one before is seen here.
                run.ended = True
                if self._publications:
                    self._worker.ensure()
                return
            wait = max(0.0, min(due) - monotonic())

    def _round(self, publication: Publication) -> None:
        alias = publication.manager.alias
        interval = snapshot.interval_of(publication.manager) or WITHOUT_PUBLISHING
        publication.next_at = monotonic() + interval
        try:
            said = publication.round()
        except Exception as error:
            self._note_failed(alias, error)
            return
        if said is None:
            return
        for callback in tuple(_callbacks):
            try:
                callback(alias, said)
            except Exception as error:
                self._note_failed(alias, error)

    def _note_failed(self, alias: str, error: Exception) -> None:
        """Log what a round or a callback raised, once for each kind: the same would come again with every round."""
        if (kind := type(error).__name__) not in self._failed:
            self._failed.add(kind)
            tell(logger.warning, "Redis pool %r: a round of publishing failed: %s", alias, kind, exc_info=error)

    def drop(self, manager: RedisConnectionManager) -> None:
        if self._publications.pop(manager.alias, None) is not None:
            self.wake()


_publisher = _Publisher()
_callbacks: list[Callback] = []


def ensure(manager: RedisConnectionManager) -> None:
    """Begin to publish a manager's pool if that is not done yet and not switched off. No I/O, never raises."""
    publication = _publisher.find(manager.alias)
    if publication is not None and publication.manager is manager:
        _publisher.start()  # uWSGI's master had no thread, and may have become the first worker
        return
    if snapshot.interval_of(manager) is not None and not _is_fake(manager):
        _publisher.watch(manager)


def opened(manager: RedisConnectionManager) -> None:
    """A connection of a manager's pool was opened: it is in use. No I/O, never raises."""
    ensure(manager)
    if (publication := publication_of(manager)) is not None:
        publication.publish_soon()


def forget(manager: RedisConnectionManager) -> None:
    """The manager's settings are read again, and its totals begin again: so does its next use."""
    _publisher.drop(manager)
    snapshot.forget(manager)


def publication_of(manager: RedisConnectionManager) -> Publication | None:
    """Return what this process publishes of a pool; None when it publishes nothing of it."""
    publication = _publisher.find(manager.alias)
    return publication if publication is not None and publication.manager is manager else None


def recent(alias: str) -> list[dict[str, Any]]:
    """Return this process's own snapshots of a pool, of the last ten minutes, oldest first.

    Where publishing is switched off they begin with the first call of this function. No I/O.
    """
    if not mark[0]:
        fork.renew()
    publication = _publisher.find(alias)
    if publication is None:
        from redispool_app.redis_pool import RedisConnectionManager

        manager = RedisConnectionManager(alias)
        if manager.pool_set is None:
            return []
        publication = _publisher.watch(manager)
    return publication.recent()


def on_tick(callback: Callback) -> Callable[[], None]:
    """Call ``callback(alias, snapshot)`` after each snapshot, in the publisher's thread; return what ends that.

    It must not block. What it raises is logged once.
    """
    _callbacks.append(callback)

    def end() -> None:
        with contextlib.suppress(ValueError):
            _callbacks.remove(callback)

    return end


def _is_fake(manager: RedisConnectionManager) -> bool:
    """A server in memory, of a project's unit tests, has no other workers."""
    pool_set = manager.pool_set
    return pool_set is not None and pool_set.settings.sync_class is not None


def _after_fork_in_child() -> None:
    """In a forked child the parent's thread does not run, and its locks may be held for ever."""
    global _publisher
    _graveyard.append(_publisher)
    _publisher = _Publisher()
    snapshot.forget_all()


_graveyard: list[_Publisher] = []
"""What a forked child must not finalise: threads that do not run here."""

fork.register(_after_fork_in_child)
