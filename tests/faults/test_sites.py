"""A running site, in several processes, under the same faults: 503, never a wrong page, and then it is back."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from time import monotonic

import pytest

from tests.lab import report
from tests.lab.attempts import most_per_second, written_down
from tests.lab.drivers import Threads
from tests.lab.faults import ConnectionsKilled, Fault, ServerFrozen, ServerKilled
from tests.lab.network_faults import BlackHole, Refused, Truncated
from tests.lab.operations import OK
from tests.lab.site_subjects import FAST, SITES
from tests.lab.sites import Site
from tests.lab.stage import QUICK, Stage, play, rules_of
from tests.lab.verdicts import LOG_LINES, RECOVERY, judge
from tests.support.servers import eventually


class WorkerKilled(Fault):
    """Visitors whose request it was carrying out are told nothing; nobody else notices."""

    name = "a worker killed by SIGKILL"
    outage = False

    def strike(self):
        self.subject = self.driver.subject
        self.victim = max(self.subject.processes)
        self.known = set(self.subject.processes)
        os.kill(self.victim, signal.SIGKILL)
        self.killed = monotonic()

    def heal(self):
        started = monotonic()
        eventually(lambda: self.subject.processes - self.known, 20)
        self.numbers["replaced_ms"] = round((monotonic() - started + self.hold) * 1000)

    def complaints(self, operations):
        """Yield whoever failed without having been under way when the worker died."""
        for each in operations:
            if each.outcome != OK and each.asked > self.killed:
                yield f"{each.kind.upper()} was asked after the worker's end and failed: {each.error}"


_FAULTS = [
    ServerKilled, ServerFrozen, ConnectionsKilled, Refused, BlackHole,
    Truncated, WorkerKilled,
]  # fmt: skip


@pytest.fixture
def a_site_survives(tmp_path):
    def survive(fault_class, subject_class, *, load):
        with Stage(proxied=fault_class.proxied) as stage:
            pool, attempts = {"CONNECTION_URL": stage.plain_url, **QUICK}, tmp_path / "attempts"
            site = Site(tmp_path, pool, "tests.lab.site_settings", LAB_ATTEMPTS=str(attempts))
            subject = subject_class(site)
            fault = fault_class(stage)
            fault.hold = max(fault.hold, 1.5)  # a page takes longer to fail than a call
            fault.driver = Threads(subject, 8, pace=0.02)
            probed = []
            try:
                subject.start()
                eventually(lambda: subject.get(None, "warm") is None and len(subject.processes) == subject.workers, 20)
                run = play(
                    fault,
                    stage,
                    fault.driver,
                    load=load,
                    log=[],
                    look=lambda: probed.append(subject.status("/redis/health/")),
                )
                site.stop(signal.SIGTERM)
            finally:
                site.kill()
            keys = QUICK | {"SOCKET_TIMEOUT": QUICK["SOCKET_TIMEOUT"] + QUICK["HEALTH_CHECK_TIMEOUT"]}
            rules = rules_of(fault, keys)
        # Over HTTP an exception has no name, and a page takes longer than a call.
        rules = replace(
            rules,
            kinds=frozenset({"unknown"}),
            fast=FAST,
            known_after=max(rules.known_after, 0.6),
            reads_survive=False,
            # Each worker finds the server's return by itself.
            straggling=RECOVERY + rules.backoff_cap,
        )
        tried = [[time for time in times if time >= run.struck] for times in written_down(attempts).values()]
        assert len(tried) >= subject.workers, "a worker did not count how often it connects"
        # What is promised is promised of each process.
        run = replace(run, attempts=max(tried, key=most_per_second))
        findings = judge(run, rules)
        findings.numbers.update(fault.numbers)
        if fault.outage and probed != [503]:
            findings.complain(f"the probe answers {probed} during an outage")
        said = [line for line in site.output.splitlines() if "Redis pool" in line]
        findings.numbers["log_lines"] = len(said)
        if len(said) > subject.workers * LOG_LINES:
            findings.complain(f"{subject.workers} workers say {len(said)} lines about Redis")
        if (times := sum("is unhealthy" in line for line in said)) > subject.workers * 2:
            findings.complain(f"{subject.workers} workers say {times} times that Redis is unhealthy")
        if isinstance(fault, WorkerKilled):
            findings.complaints.extend(fault.complaints(run.operations))
        report.record(fault.name, subject.name, "busy" if load else "idle", findings.numbers, findings.complaints)
        assert not findings.complaints, "\n".join([*sorted(set(findings.complaints))[:10], site.output[-3000:]])
        site.assert_clean()

    return survive


@pytest.mark.lab
@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("subject", SITES, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_a_site_survives(fault, subject, load, a_site_survives):
    a_site_survives(fault, subject, load=load)
