"""The suite's fixtures, and its table."""

from __future__ import annotations

import gc
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import comparison, report, stalled
from tests.lab.drivers import driver_of
from tests.lab.stage import QUICK, Stage, play, rules_of
from tests.lab.subjects import CACHES
from tests.lab.surfaces import PASSWORDS, Viewer
from tests.lab.verdicts import judge


class Lines(logging.Handler):
    """The lines of this app's log."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def log():
    """What the app says during the test: a list that grows."""
    handler, logger = Lines(), logging.getLogger("redispool_app")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def survives(pool_settings, settings, log, db):
    """Play a fault against a subject; fail with all that went wrong, and keep the numbers."""

    def survive(
        fault_class,
        subject_class,
        *,
        load,
        program="valkey",
        transport="tcp",
        callers=None,
        pace=0.005,
        rules=(),
        **keys,
    ):
        keys = {**QUICK, **fault_class.keys, **keys}
        settings.CACHES = CACHES
        proxied = fault_class.proxied
        with Stage(program=program, transport=transport, proxied=proxied, config=fault_class.config) as stage:
            fault = fault_class(stage)
            fault.arrange()
            manager = pool_settings(stage.url, **keys, **stage.keys)
            subject = subject_class(manager)
            viewer = Viewer(manager) if fault.shown and subject.managed else None
            fault.driver = driver_of(subject, callers, pace)
            # To look through all that the suite has left would hold up the callers for a quarter of a second or more.
            gc.disable()
            try:
                run = play(fault, stage, fault.driver, load=load, log=log, look=viewer and viewer.look)
            finally:
                gc.enable()
                manager.close_sync()
            findings = judge(run, replace(rules_of(fault, keys, managed=subject.managed), **dict(rules)))
            findings.numbers.update(fault.numbers)
        if viewer is not None:
            findings.complaints.extend(viewer.complaints(fault))
        if fault.outage and subject.managed and not any("is unhealthy" in line for line in log):
            findings.complain("the log does not mention the outage")
        if any(password in line for password in PASSWORDS for line in log):
            findings.complain("a password is in the log")
        where = [word for word in (program, transport) if word not in ("valkey", "tcp")]
        where += [f"RESP{keys['PROTOCOL']}"] if "PROTOCOL" in keys else []
        when = ("busy" if load else "idle") + (f", {callers} callers" if callers else "")
        name = f"{fault.name} ({', '.join(where)})" if where else fault.name
        report.record(name, subject.name, when, findings.numbers, findings.complaints)
        told = sorted(set(findings.complaints))
        assert not told, "\n".join([f"{len(findings.complaints)} complaints", *told[:10], str(findings.numbers)])
        return findings

    return survive


@pytest.fixture
def unrecorded():
    """Keep a scenario that is meant to fail out of the table."""
    with report.unrecorded():
        yield


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Hand this process's numbers to the one that prints the table, if that is another."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["faults"] = report.collected()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, "workeroutput", {})
    if "faults" in output:  # else it has crashed
        report.add(output["faults"])


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    tables = {
        "faults": list(report.table()),
        "comparison": list(comparison.table()),
        "beside a stalled connection": list(stalled.table()),
    }
    for title, lines in tables.items():
        if lines:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    if (path := os.environ.get("FAULTS_JSON")) and any(tables.values()):
        report.write(Path(path))
        terminalreporter.write_line(f"written to {path}")
