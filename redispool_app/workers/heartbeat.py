"""One pool's rounds: say what this worker does, read what it is ordered, obey. One unit of five commands each.

Nothing here may harm the pool: what fails is logged once, tried again later, and never reaches a caller or a verdict.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import Fault, classify
from redispool_app.engine.health.state import HealthState
from redispool_app.engine.runtime import process, threads
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.topology.side_channel import Command, NotConnectedError, carry
from redispool_app.exceptions import PoolClosed, PoolTimeout, RedisUnavailable

from . import keys, orders, snapshot

if TYPE_CHECKING:
    from redispool_app.engine.topology.standalone import PoolSet
    from redispool_app.redis_pool import RedisConnectionManager

logger = logging.getLogger("redispool_app.workers")

_PATIENCE = 5.0
"""Seconds that a round may take at most; SOCKET_TIMEOUT if that is less."""

_SETTLING = 0.1
"""Seconds that who turns to a pool first has for making the connection that this travels on."""

_REFUSED_INTERVALS = 12
_REFUSED_LONGEST = 60.0
"""What a server refused it is asked again after so many intervals, or so many seconds if they are fewer."""

_SECONDS_KEPT = 600.0
_MOST_KEPT = 1200


class Half:
    """Half of a round, which a server may refuse by itself: saying what there is, or hearing orders."""

    def __init__(self, failing: str, working: str) -> None:
        self.failing = failing
        self.working = working
        """How the log puts it."""
        self.again_at = 0.0
        """When (monotonic seconds) it is tried again after it was refused."""
        self.problem: str | None = None
        """Why it does not work, in one line."""
        self._logged: str | None = None

    def failed(self, alias: str, fault: Fault, where: str, *, log: bool = True) -> None:
        """Keep why it does not work, and ``log`` that once for each kind of fault."""
        self.problem, news = fault.message, str(fault.kind)
        if log and self._logged != news:
            self._logged = news
            extra = {"pool": alias, "fault_kind": news, "where": where}
            tell(logger.warning, "Redis pool %r: %s: %s", alias, self.failing, fault.message, extra=extra)

    def succeeded(self, alias: str) -> None:
        """Say so if the contrary was said."""
        if self._logged is not None:
            tell(logger.info, "Redis pool %r: %s.", alias, self.working, extra={"pool": alias})
        self.problem = self._logged = None


class Publication:
    """What one process publishes of one pool. All methods but ``recent`` are for the publisher's thread."""

    def __init__(self, manager: RedisConnectionManager, wake: Callable[[], None]) -> None:
        self.manager = manager
        self.next_at = monotonic() + _SETTLING
        self.published = False
        self.saying = Half("this worker cannot be published", "this worker is published again")
        self.hearing = Half("this worker hears of no orders", "this worker hears of orders again")
        self._wake = wake
        self._recent: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._seen: set[str] = set()
        self._orders: deque[tuple[orders.Order, float]] = deque()
        """What is to be obeyed, each with how far the server's clock is ahead of this process's monotonic one."""
        self._obeying: threading.Thread | None = None
        self._lock = threading.Lock()

    def recent(self) -> list[dict[str, Any]]:
        """Return this process's own snapshots of the last ten minutes, oldest first."""
        return list(self._recent)

    def publish_soon(self) -> None:
        """A connection was opened: if none has been there to be published on, say what there is to say now."""
        soon = monotonic() + _SETTLING
        if not self.published and self.next_at > soon:
            self.next_at = soon
            self._wake()

    def round(self) -> dict[str, Any] | None:
        """Take a snapshot, keep it, and publish it if that is possible now; return it. None: there is no pool now."""
        if self.manager.pool_set is None:
            return None  # to ask for its numbers would be to build it
        interval = snapshot.interval_of(self.manager)
        said = snapshot.tick(self.manager, (interval or 0.0) / 2)
        self._keep(said)
        if interval is not None and (pool_set := self._usable()) is not None:
            try:
                self._publish(pool_set, said, interval)
            except (redis_exceptions.RedisError, OSError) as error:
                self._failed(self.saying, error, pool_set.settings.where)
        return said

    def _keep(self, said: dict[str, Any]) -> None:
        recent, horizon = self._recent, said["at"] - _SECONDS_KEPT
        while recent and recent[0]["at"] < horizon:
            recent.popleft()
        recent.append(said)

    def _usable(self) -> PoolSet | None:
        """Return what to publish on; None while the pool is closed, or in trouble, which it ends by its own means."""
        pool_set = self.manager.pool_set
        if pool_set is None or self.manager.is_down or monotonic() < min(self.saying.again_at, self.hearing.again_at):
            return None
        return None if pool_set.health.state is HealthState.UNHEALTHY else pool_set

    # Publishing.

    def _publish(self, pool_set: PoolSet, said: dict[str, Any], interval: float) -> None:
        config, alias = self.manager.config, self.manager.alias
        prefix, worker_id = config.publish_prefix, said["id"]
        index, now = keys.index(prefix, alias), monotonic()
        write: list[Command] = [
            ("SET", keys.worker(prefix, alias, worker_id), snapshot.dump(said), "PX", keys.life_ms(interval)),
            ("SADD", index, worker_id),
            ("PEXPIRE", index, round(1000 * max(keys.INDEX_LIFE, keys.LIFE_IN_INTERVALS * interval))),
        ]
        read: list[Command] = [("LRANGE", keys.orders(prefix, alias), 0, orders.MOST - 1), ("TIME",)]
        # One half that is refused keeps the other from nothing: who may not write obeys all the same.
        if now < self.saying.again_at:
            write = []
        if now < self.hearing.again_at:
            read = []
        again_at = now + min(_REFUSED_LONGEST, _REFUSED_INTERVALS * interval)
        # Of a server that nobody has turned to yet nothing is known: whoever does connects as it needs to.
        connect = pool_set.health.state is HealthState.HEALTHY or pool_set.monitor.counters.opened > 0
        try:
            replies = carry(pool_set, [*write, *read], min(config.socket_timeout, _PATIENCE), connect=connect)
        except redis_exceptions.ResponseError:
            self.saying.again_at = self.hearing.again_at = again_at
            raise
        # A unit counts as one command.
        snapshot.rates_of(self.manager).own_commands += 1
        written, found = replies[: len(write)], replies[len(write) :]
        if written and self._works(self.saying, written, again_at, pool_set):
            self.published = True
        if found and self._works(self.hearing, found, again_at, pool_set):
            ordered, time = found
            self._read_orders(ordered, orders.read_time(time), interval)

    def _works(self, half: Half, replies: list[Any], again_at: float, pool_set: PoolSet) -> bool:
        """Whether no reply to this half of the round is an error; the first that is one is noted."""
        refusal = _refusal(replies)
        if refusal is None:
            half.succeeded(self.manager.alias)
            return True
        if isinstance(refusal, redis_exceptions.ResponseError):
            half.again_at = again_at  # who refuses will do so again, until somebody changes it
        self._failed(half, refusal, pool_set.settings.where)
        return False

    def _failed(self, half: Half, error: Exception, where: str) -> None:
        if isinstance(error, PoolClosed | PoolTimeout | NotConnectedError):
            return  # the pool's own doing: closed meanwhile, too busy for this, or not in use
        # Of an outage the pool itself has said enough, and of a user who may do neither the first half.
        log = not isinstance(error, RedisUnavailable) and (half is self.saying or self.saying.problem is None)
        half.failed(self.manager.alias, classify(error, where), where, log=log)

    # Obeying.

    def _read_orders(self, stored: list[Any], now: float, interval: float) -> None:
        life = max(orders.LIFE, keys.LIFE_IN_INTERVALS * interval)
        due = orders.due(stored, self._seen, now - process.age(), now, life)
        self._seen.update(order.id for order in due)
        if len(self._seen) > 1000:  # ids sort by time
            self._seen = set(sorted(self._seen)[-orders.MOST * 10 :])
        ahead = now - monotonic()
        with self._lock:
            self._orders.extend((order, ahead) for order in due)
            if self._orders and self._obeying is None:
                # Of its own, for a reset waits for what is in flight; in order, and one after another.
                name = f"redispool-orders-{self.manager.alias}"
                with contextlib.suppress(RuntimeError):  # no thread can be started now: the next round tries
                    self._obeying = threads.start(self._obey_all, name=name)

    def _obey_all(self) -> None:
        while True:
            with self._lock:
                if not self._orders:
                    self._obeying = None
                    return
                order, ahead = self._orders.popleft()
            alias, action = self.manager.alias, order.action
            extra = {"pool": alias, "order": action}
            tell(logger.info, "Redis pool %r: obeying the order to %s.", alias, action, extra=extra)
            try:
                self._obey(order, ahead + monotonic())
            except redis_exceptions.RedisError as error:
                # A reset is carried out even if Redis cannot be used afterwards; the pool has logged that.
                tell(logger.debug, "Redis pool %r: after the order to %s: %s", alias, action, error, extra=extra)
            except Exception as error:
                kind = type(error).__name__
                tell(logger.warning, "Redis pool %r: the order to %s failed: %s", alias, action, kind, extra=extra)
            snapshot.rates_of(self.manager).obeyed = order.id
            self.saying.again_at = 0.0  # the sender of the order could write: perhaps this worker can again
            self.next_at = monotonic()
            self._wake()

    def _obey(self, order: orders.Order, now: float) -> None:
        if order.action == "reset":
            self.manager.reset_sync()
        elif order.action == "resume":
            self.manager.resume()
        elif (left := orders.left_of(order, now)) > 0:
            self.manager.pause(left)


def _refusal(replies: list[Any]) -> Exception | None:
    """Return the first error among replies."""
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
