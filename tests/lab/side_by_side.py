"""A fault that strikes everybody at the same moment: each subject has a server, a path to it and callers of its own.

All of them play in this process, as what takes long is waiting. They share its interpreter, so the rate of the callers
is low, and the machine's lag is taken off where a promise is judged.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from redispool_app.conf import RedisPoolConfig
from tests.support.crowd import Caller, joined

from .bookkeeping import all_back, first_back, longest_wait, opened, settle
from .drivers import driver_of
from .stage import Stage, play, rules_of
from .verdicts import Findings, Run, judge

COROUTINES, THREADS = 30, 8
_APART = 0.003
"""Seconds between two operations of a subject on average, however many its callers."""
WATCHED = 12.0
"""Seconds after the end of a fault in which every caller has to have got some answer; then its connection is cut."""
_PATIENCE = 60.0

DEFAULTS = {
    name: getattr(RedisPoolConfig(), name.lower())
    for name in ("SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT", "HEALTH_CHECK_TIMEOUT", "RETRY_BACKOFF_CAP")
}


@dataclass(frozen=True)
class Ordeal:
    """A fault, how long it lasts (seconds), and for how many."""

    fault: Any
    hold: float
    coroutines: int = COROUTINES
    threads: int = THREADS
    twice_in_a_row: bool = False
    """Whether it lasts long enough to strike one read again while it is being repeated; that read may fail."""

    @property
    def name(self) -> str:
        if (self.coroutines, self.threads) == (COROUTINES, THREADS):
            return self.fault.name
        return f"{self.fault.name}, {self.coroutines} coroutines or {self.threads} threads"


class SideBySide:
    """One fault on a stage for each subject, from ``with`` on; then ``play()``."""

    def __init__(self, ordeal: Ordeal, subjects: tuple[Any, ...]) -> None:
        self.ordeal = ordeal
        self.subjects = subjects
        self.stages: dict[Any, Stage] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SideBySide:
        kind = self.ordeal.fault
        for subject in self.subjects:
            self.stages[subject] = self._stack.enter_context(Stage(proxied=kind.proxied, config=kind.config))
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> dict[Any, str]:
        return {subject: stage.plain_url for subject, stage in self.stages.items()}

    def play(self) -> dict[Any, Findings]:
        """Return what is found about each subject."""
        self._ready = threading.Barrier(len(self.subjects))
        players = {kind: Caller(lambda kind=kind: self._play(kind), name=kind.name) for kind in self.subjects}
        for player in players.values():
            player.start()
        joined(players.values(), self.ordeal.hold + _PATIENCE, self.ordeal.name)
        for player in players.values():
            if isinstance(player.outcome, BaseException):
                raise player.outcome
        return {kind: player.outcome for kind, player in players.items()}

    def _play(self, kind: Any) -> Findings:
        ordeal, stage = self.ordeal, self.stages[kind]
        fault, subject = ordeal.fault(stage), kind(stage.plain_url)
        fault.hold = ordeal.hold
        fault.arrange()
        callers = ordeal.coroutines if subject.is_async else ordeal.threads
        driver = driver_of(subject, callers, callers * _APART)
        fault.driver = driver
        with Watchdog(stage, ordeal.hold + WATCHED) as watchdog:
            run = play(fault, stage, driver, load=True, log=[], ready=lambda: self._ready.wait(_PATIENCE))
        findings = self._judge(fault, run, subject)
        findings.numbers.update(_compared(run, stage, callers))
        if watchdog.has_cut:
            findings.numbers["cut_after_s"] = ordeal.hold + WATCHED
        return findings

    def _judge(self, fault: Any, run: Run, subject: Any) -> Findings:
        rules = rules_of(fault, DEFAULTS, managed=subject.managed)
        rules = replace(
            rules,
            reads_survive=rules.reads_survive and not self.ordeal.twice_in_a_row,
            # Before it is one subject's turn, a thread of each other one may keep the interpreter for so long.
            fast=rules.fast + len(self.subjects) * sys.getswitchinterval(),
        )
        if fault.known_after > DEFAULTS["SOCKET_CONNECT_TIMEOUT"] / 4:
            # Whoever has to connect anew learns of it that much later.
            rules = replace(rules, known_after=DEFAULTS["SOCKET_CONNECT_TIMEOUT"] + 0.1)
        return judge(run, rules)


class Watchdog:
    """Ends what nobody would end: after so many seconds every connection to a stage's server is cut."""

    def __init__(self, stage: Stage, seconds: float) -> None:
        self.has_cut = False
        self._stage = stage
        self._timer = threading.Timer(seconds, self._cut)

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _cut(self) -> None:
        self.has_cut = True
        self._stage.cut_all()
        if self._stage.proxy is not None:
            self._stage.proxy.cut()


def _compared(run: Run, stage: Stage, callers: int) -> dict[str, Any]:
    before, since = opened(stage.connects, run.struck)
    back = {
        "first_back_ms": first_back(run.operations, run.healed),
        "all_back_ms": all_back(run.operations, run.healed, callers),
    }
    return {
        **asdict(settle(run.operations, run.final)),
        **{name: None if seconds is None else round(seconds * 1000, 1) for name, seconds in back.items()},
        "worst_wait_ms": round(longest_wait(run.operations, run.struck) * 1000, 1),
        "callers": callers,
        "connections_before": before,
        "connections_since": since,
    }
