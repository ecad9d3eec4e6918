"""What happens to this process or what it does to itself: its clock jumps, it stops, forks, asks for too much."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import threading
import time
import traceback
from typing import Any, ClassVar
from unittest import mock

from tests.support.crowd import Caller
from tests.support.servers import eventually

from .faults import Fault, ServerFrozen

_BIG = 100 * 1024 * 1024


class Harmless(Fault):
    """Something after which every caller is served as if nothing had been."""

    proxied = False
    outage = False
    reads_survive = True
    writes_survive = True


class ClockJumps(Fault):
    name = "clock jumps"
    outage = False
    reads_survive = True
    writes_survive = True
    hold = 1.0

    def strike(self) -> None:
        real, jumps = time.time, itertools.cycle([3600.0, -3600.0, 86400.0 * 365, -86400.0 * 365])
        self._patch = mock.patch("time.time", side_effect=lambda: real() + next(jumps))
        self._patch.start()

    def heal(self) -> None:
        self._patch.stop()


class NoDescriptors(Fault):
    name = "descriptors used up (EMFILE)"
    shown = False
    proxied = False
    kinds = frozenset({"descriptors"})

    def strike(self) -> None:
        with self.stage.admin() as admin:
            admin.ping()
            self._soft, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            # No descriptor at or above the limit can be had, and all below are taken.
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._hard))
            admin.client_kill_filter(laddr=f"127.0.0.3:{self.server.port}")

    def heal(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, self._hard))


class InterpreterBusy(Harmless):
    name = "user code blocks for 2 s"
    hold = 2.5

    def strike(self) -> None:
        # So there are commands in flight, whose replies come while nobody can take them.
        with self.stage.admin() as admin:
            admin.client_pause(300, all=True)
        time.sleep(0.05)
        self.driver.block(2.0)

    def heal(self) -> None:
        """It has passed."""


class Repeated(Harmless):
    """A fault that happens again and again, in a thread of its own."""

    every: ClassVar[float] = 0.05

    def strike(self) -> None:
        self._ended = threading.Event()
        self._thread = Caller(self._repeat)
        self._thread.start()

    def _repeat(self) -> int:
        times = 0
        while not self._ended.is_set():
            self.happen()
            times += 1
            self._ended.wait(self.every)
        return times

    def happen(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        self._ended.set()
        outcome = self._thread.ended()
        if isinstance(outcome, BaseException):
            raise outcome
        self.numbers["times"] = outcome
        assert outcome > 0, "it never happened"


class ScriptsFlushed(Repeated):
    name = "SCRIPT FLUSH, again and again"

    def happen(self) -> None:
        with self.stage.admin() as admin:
            admin.script_flush()

    def heal(self) -> None:
        super().heal()
        with self.stage.admin() as admin:
            self.numbers["forgotten"] = admin.info("errorstats").get("errorstat_NOSCRIPT", {}).get("count", 0)
        assert self.numbers["forgotten"] > 0, "no script was missed"


class LoopsEnded(Repeated):
    name = "event loops end under load"
    every = 0.01
    # Each of these event loops makes a connection of its own.
    attempts_per_second = 100

    def happen(self) -> None:
        manager = self.driver.subject.manager

        async def leave_work_undone() -> None:
            client = await manager.get_client()
            left = [asyncio.ensure_future(client.set(f"left:{number}", "x")) for number in range(50)]
            await client.get("left:0")
            assert left

        asyncio.run(leave_work_undone())

    def heal(self) -> None:
        super().heal()
        # The one that the callers share, and those that looked at the pages meanwhile.
        eventually(lambda: self._connections() <= 3)
        self.numbers["connections_left"] = self._connections()

    def _connections(self) -> int:
        with self.stage.admin() as admin:
            return sum(each["laddr"].startswith("127.0.0.3:") for each in admin.client_list(_type="normal"))


class Forks(Repeated):
    name = "fork under load"
    every = 0.2

    def strike(self) -> None:
        self._children: list[int] = []
        super().strike()

    def fork(self) -> int:
        return os.fork()

    def happen(self) -> None:
        child = self.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(10)
                self._work(self.driver.subject.manager)
                code = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        self._children.append(child)

    def _work(self, manager: Any) -> None:
        client = manager.get_sync_client()

        async def work() -> None:
            asynchronous = await manager.get_client()
            values = [f"{os.getpid()}:{number}" for number in range(50)]
            assert await asyncio.gather(*map(asynchronous.echo, values)) == [value.encode() for value in values]

        for number in range(20):
            value = f"{os.getpid()}:{number}".encode()
            assert client.echo(value) == value
        asyncio.run(work())

    def heal(self) -> None:
        super().heal()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in self._children]
        assert codes, "nothing was forked"
        assert not any(codes), f"children ended with {codes}"


class BigReply(Harmless):
    name = "a reply of 100 MB"
    keys: ClassVar[dict[str, Any]] = {"SOCKET_TIMEOUT": 10.0, "HEALTH_CHECK_TIMEOUT": 10.0}
    hold = 3.0

    def arrange(self) -> None:
        with self.stage.admin() as admin:
            admin.setrange("big", _BIG - 3, b"end")

    def strike(self) -> None:
        started = time.monotonic()
        reply = self.driver.get("big")
        self.numbers["big_reply_ms"] = round((time.monotonic() - started) * 1000)
        assert len(reply) == _BIG
        assert reply.endswith(b"\0end")

    def heal(self) -> None:
        """The reply has come."""


class Flood(ServerFrozen):
    """A frozen server, and more callers than the pool lets wait."""

    name = "SIGSTOP and more callers than may wait"
    known_after = 0.5
    hold = 1.5
    kinds = frozenset({"timeout"})
    tolerated = frozenset({"exhausted"})
    keys: ClassVar[dict[str, Any]] = {"MAX_IN_FLIGHT": 60, "MAX_WAITING": 30}

    def strike(self) -> None:
        super().strike()
        names = {"in_flight": "commands_in_flight", "waiting": "waiting", "refused": "refused_total"}
        # The most of several looks: on a busy machine a single one may come when all have been told already.
        for _ in range(8):
            time.sleep(0.04)
            info = self.driver.subject.manager.get_pool_info()
            self.numbers.update({name: max(self.numbers.get(name, 0), info[key]) for name, key in names.items()})


PROCESS_FAULTS = [ClockJumps, NoDescriptors]
