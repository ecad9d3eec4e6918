"""What happens inside this process, where callers share a connection: forks in C, finalizers, hooks that raise."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

from redispool_app.engine.runtime import fork
from redispool_app.exceptions import OutcomeUnknown
from redispool_app.signals import health_changed
from tests.support.crowd import Caller
from tests.support.interrupts import raise_in
from tests.support.servers import eventually

from .faults import Fault, ServerKilled
from .process_faults import Forks, Harmless, Repeated
from .proxy import Proxy
from .servers import ADMIN_ADDRESS, LabServer
from .stage import SECOND_ADDRESS
from .subjects import SyncEngine


class UnheardForks(Forks):
    """Forks of which the package hears nothing, as of uWSGI's.

    A fork in C would do the same, but while other threads run, Python's own locks do not survive that in the child.
    """

    name = "fork that no hook tells of"

    def fork(self) -> int:
        with mock.patch.object(fork, "renew"):
            return os.fork()


class _Finalized:
    """A member of a reference cycle that uses Redis when the garbage collector finds it."""

    def __init__(self, finalize: Callable[[], None]) -> None:
        self.itself = self
        self.finalize = finalize

    def __del__(self) -> None:
        self.finalize()


class Finalizers(Repeated):
    name = "finalizers that use Redis"
    every = 0.002

    def strike(self) -> None:
        self._failed: list[BaseException] = []
        self._client = self.driver.subject.manager.get_sync_client()
        self._main = threading.get_ident()
        self.numbers.update(finalizers=0, finalizers_of_callers=0)
        # What the suite has left is not looked through, so that a collection takes microseconds.
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(50, 5, 5)
        gc.enable()
        super().strike()

    def happen(self) -> None:
        # Whose allocation reaches the threshold, finalizes: a caller, or this thread.
        for _ in range(5):
            _Finalized(self._finalize)

    def _finalize(self) -> None:
        self.numbers["finalizers"] += 1
        self.numbers["finalizers_of_callers"] += threading.current_thread() is not self._thread
        try:
            assert self._client.set("finalized", "yes") is True
        except BaseException as error:
            self._failed.append(error)

    def heal(self) -> None:
        super().heal()
        gc.disable()
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()
        gc.collect()
        assert not self._failed, f"{len(self._failed)} finalizers failed: {self._failed[0]!r}"
        assert self.numbers["finalizers_of_callers"], "no finalizer has interrupted a caller"


class SoftTimeLimitError(Exception):
    """What a task queue raises in a thread whose task has taken too long."""


class LimitedSync(SyncEngine):
    """Threads whose tasks have a time limit; what it ends may or may not have been done."""

    name = "sync engine, limited"

    def __init__(self, manager: Any) -> None:
        super().__init__(manager)
        self.at_work: set[int] = set()
        self.lock = threading.Lock()
        self.struck: set[int] = set()

    def set(self, client: Any, key: str, value: str) -> None:
        return self._limited(lambda: SyncEngine.set(self, client, key, value))

    def get(self, client: Any, key: str) -> str | None:
        return self._limited(lambda: SyncEngine.get(self, client, key))

    def incr(self, client: Any, key: str) -> int:
        return self._limited(lambda: SyncEngine.incr(self, client, key))

    def strike_one(self) -> bool:
        """Raise the limit in one of the threads that are at work; return whether there was one."""
        with self.lock:
            threads = list(self.at_work - self.struck)
            if not threads:
                return False
            thread = random.choice(threads)
            self.struck.add(thread)
            raise_in(thread, SoftTimeLimitError)
            return True

    def _limited(self, call: Callable[[], Any]) -> Any:
        me, result = threading.get_ident(), None
        try:
            self.at_work.add(me)
            result = call()
            self._leave(me)
        except SoftTimeLimitError as limit:
            self._left(me)
            raise OutcomeUnknown("The time limit has ended the call.") from limit
        except BaseException:
            self._absorb(me)
            raise
        return result

    def _leave(self, me: int) -> None:
        """Leave; raise the limit if it has been set and has not been raised yet."""
        with self.lock:
            self.at_work.discard(me)
            struck = me in self.struck
        while struck:  # it is raised here
            time.sleep(0)

    def _left(self, me: int) -> None:
        with self.lock:
            self.at_work.discard(me)
            self.struck.discard(me)

    def _absorb(self, me: int) -> None:
        try:
            self._leave(me)
        except SoftTimeLimitError:
            self._left(me)


class SoftTimeLimits(Repeated):
    name = "time limits raised in callers"
    every = 0.003
    # What they end is told as unknown, here and in no log.
    reads_survive = False
    writes_survive = False
    tolerated = frozenset({"outcome unknown"})

    def strike(self) -> None:
        self.numbers["limits"] = 0
        super().strike()

    def happen(self) -> None:
        self.numbers["limits"] += self.driver.subject.strike_one()

    def heal(self) -> None:
        super().heal()
        assert self.numbers["limits"] > 20, "hardly a caller was interrupted"


class _Broken(logging.Filter):
    raised = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.raised += 1
        raise RuntimeError("the filter's own fault")


class HooksThatRaise(ServerKilled):
    """An outage of which no hook can be told: each raises."""

    name = "SIGKILL, and hooks that raise"

    def strike(self) -> None:
        self._filter, self._receivers = _Broken(), 0
        self._handler = logging.StreamHandler()
        self._handler.addFilter(self._filter)
        logging.getLogger("redispool_app").addHandler(self._handler)
        health_changed.connect(self._receive)
        super().strike()

    def _receive(self, **arguments: Any) -> None:
        self._receivers += 1
        raise RuntimeError("the receiver's own fault")

    def heal(self) -> None:
        super().heal()
        eventually(lambda: self._receivers > 0)
        logging.getLogger("redispool_app").removeHandler(self._handler)
        health_changed.disconnect(self._receive)
        self.numbers["hooks_raised"] = self._filter.raised + self._receivers
        assert self._filter.raised, "the filter was not asked"


class BlockingConsumers(Harmless):
    """Consumers that wait for jobs longer than any other reply may take."""

    name = "consumers that wait for jobs"
    hold = 1.8
    keys: ClassVar[dict[str, Any]] = {"MAX_CONNECTIONS": 20}
    _WAIT = 1.3

    def strike(self) -> None:
        manager = self.driver.subject.manager
        self._changes = len(manager.health_history())

        async def consume() -> list[Any]:
            client = await manager.get_client()
            return await asyncio.gather(*(client.blpop("jobs", timeout=self._WAIT) for _ in range(3)))

        client = manager.get_sync_client()
        wait = int(self._WAIT * 1000)
        self._consumers = [
            Caller(lambda: asyncio.run(consume())),
            Caller(lambda: client.blpop("jobs", timeout=self._WAIT)),
            Caller(lambda: client.xread({"stream": "$"}, block=wait)),
        ]
        for consumer in self._consumers:
            consumer.start()

    def heal(self) -> None:
        found = [consumer.ended() for consumer in self._consumers]
        assert found == [[None] * 3, None, []] or found == [[None] * 3, None, {}], found
        changes = self.driver.subject.manager.health_history()[self._changes :]
        assert all(change["state"] == "healthy" for change in changes), changes


class NameMoves(Fault):
    """A planned failover: the primary hands over to its replica, and its name leads there from then on."""

    name = "primary demoted, its name moves"
    config: ClassVar[dict[str, object]] = {"repl-diskless-sync-delay": 0}
    outage = False
    reads_survive = True
    last_error = "readonly"
    # A page that is read while both servers answer may show either.
    shown = False
    tolerated = frozenset({"outcome unknown", "readonly", "timeout"})
    hold = 1.5

    def arrange(self) -> None:
        self._other = LabServer(repl_diskless_sync_delay=0).start()
        self.stage._stack.callback(self._other.stop)
        with self._other.client() as admin:
            admin.replicaof(ADMIN_ADDRESS, str(self.server.port))
            eventually(lambda: admin.info("replication")["master_link_status"] == "up")
        # The manager's port is the proxy's, also at the new address.
        self._way = Proxy(self._other.port, SECOND_ADDRESS, self.proxy.port).start()
        self.stage._stack.callback(self._way.stop)

    def strike(self) -> None:
        with self.stage.admin() as admin, self._other.client() as other:
            admin.execute_command("FAILOVER", "TO", ADMIN_ADDRESS, self._other.port, "TIMEOUT", 3000)
            eventually(lambda: other.info("replication")["role"] == "master")
        self.stage.resolver.address = SECOND_ADDRESS

    def heal(self) -> None:
        """The name stays where it is; what was written there is compared on the former primary, its replica now."""
        with self._other.client() as other:
            eventually(lambda: other.info("replication")["connected_slaves"] == 1)

    def settled(self) -> None:
        with self._other.client() as other:
            assert other.wait(1, 3000) == 1
