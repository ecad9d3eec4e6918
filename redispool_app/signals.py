"""Django signals for the events of this process's pools; docs/signals.md lists their arguments.

Receivers run in a separate thread, one event after the other, so that none delays a command. If ``QUEUE`` events wait
for slow receivers, further events are dropped, counted and logged. For a signal without receivers nothing is queued,
and no thread runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from django.dispatch import Signal

from .engine.health.history import Change
from .engine.health.monitor import Listener
from .engine.runtime import fork, threads
from .engine.runtime.fork import mark
from .engine.runtime.hooks import tell
from .engine.runtime.worker import Run, Worker
from .engine.stats.log_throttle import LogThrottle

__all__ = ["health_changed", "pool_closed", "pool_created", "pool_exhausted"]

logger = logging.getLogger("redispool_app.signals")

QUEUE = 1000
"""Maximum number of events that wait for their receivers."""

pool_created = Signal()
"""A manager has built its pool from the settings, or opened it again after ``close()``.

``sender``: the manager. ``alias`` (str), ``url`` (str, without credentials).
"""

pool_closed = Signal()
"""A manager has closed its pool, or dropped it because the settings changed. ``sender``, ``alias`` as above."""

health_changed = Signal()
"""The state of a pool's health, or its cause, has changed.

``sender``, ``alias`` as above; ``state`` (``"healthy"``, ``"unhealthy"``, ``"unknown"``), ``fault`` (str or None, one
line that names the cure), ``fault_kind`` (str or None), ``at`` (Unix seconds).
"""

pool_exhausted = Signal()
"""A caller was refused because no connection, room or place to wait was left. At most once per second and pool.

``sender``, ``alias`` as above; ``reason`` (str, the error text of the caller), ``exhausted_total`` (int, number of
callers of this process that were refused so far).
"""


class Dispatcher:
    """Passes events on to the receivers, in a daemon thread."""

    def __init__(self, most: int = QUEUE) -> None:
        self.most = most
        self.dropped = 0
        self._start_anew()
        fork.register(self.after_fork_in_child)

    def _start_anew(self) -> None:
        # Its ``put`` never waits, even if a signal handler or a finaliser has interrupted another ``put``.
        self._queue: SimpleQueue[tuple[Any, Callable[[], Any]]] = SimpleQueue()
        self._worker = Worker("redispool-signals", self._run)
        self._limits: dict[Any, LogThrottle] = {}
        """By the alias of the pool whose events were dropped."""

    def announce(self, signal: Signal, sender: Any, **arguments: Any) -> None:
        """Send ``signal`` soon. Returns at once and never raises."""
        if not signal.receivers:
            return
        if not mark[0]:
            fork.renew()
        alias = arguments.get("alias")
        if self._queue.qsize() >= self.most or not (self._worker.ensure() or not threads.may_start()):
            self.dropped += 1
            text = "Redis pool %r: an event was dropped, because its receivers are too slow"
            extra = {"pool": alias, "dropped_total": self.dropped}
            self._limits.setdefault(alias, LogThrottle()).log(logger, logging.WARNING, text, alias, extra=extra)
            return
        self._queue.put((alias, lambda: signal.send_robust(sender, **arguments)))

    def after_fork_in_child(self) -> None:
        """In a forked child: the thread does not run here, and the events belong to the parent."""
        self._start_anew()

    def _run(self, run: Run) -> None:
        # Only when there is an event to send: without receivers, settings may not be configured.
        from django.db import close_old_connections

        queue = self._queue
        while True:
            alias, send = queue.get()
            close_old_connections()
            try:
                send()  # Django logs a receiver's exception, to ``django.dispatch``
            except Exception:
                tell(logger.exception, "Redis pool %r: an event could not be sent.", alias, extra={"pool": alias})
            finally:
                close_old_connections()


dispatcher = Dispatcher()


class Announcer(Listener):
    """Announces the events of one manager's pool."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def created(self, url: str) -> None:
        self._announce(pool_created, url=url)

    def closed(self) -> None:
        self._announce(pool_closed)

    def health_changed(self, change: Change) -> None:
        self._announce(health_changed, **change.as_dict())

    def pool_exhausted(self, reason: str, total: int) -> None:
        self._announce(pool_exhausted, reason=reason, exhausted_total=total)

    def _announce(self, signal: Signal, **arguments: Any) -> None:
        dispatcher.announce(signal, self._manager, alias=self._manager.alias, **arguments)
