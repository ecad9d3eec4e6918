"""A process without the memory that a reply takes: one caller is told so, all others are served."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.lab import report
from tests.lab.servers import LabServer
from tests.lab.sites import PROJECT

_BIG = 100 * 1024 * 1024


@pytest.mark.lab
@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("face", ["async", "sync"])
def test_a_reply_that_does_not_fit_is_one_callers_error(face, load):
    when = "busy" if load else "idle"
    with LabServer() as server:
        with server.client() as admin:
            admin.setrange("big", _BIG - 1, b".")
        command = [sys.executable, "-m", "tests.lab.memory_limit", server.url, face, when]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        with server.client() as admin:
            connections = admin.info("stats")["total_connections_received"]
    seen = json.loads(ended.stdout)
    complaints = []
    if "memory" not in seen["big"].lower():
        complaints.append(f"the caller is told {seen['big']!r}")
    if "not in the Redis protocol" in ended.stderr:
        complaints.append("the log blames the server's protocol")
    if seen["kind"] != "memory":
        complaints.append(f"the fault is called {seen['kind']}")
    if bool(seen["beside"]) != load or not all(reply is True for reply in seen["beside"]):
        complaints.append(f"others in flight: {seen['beside']}")
    if not all(reply is True for reply in seen["after"]):
        complaints.append(f"afterwards: {seen['after']}")
    numbers = {"connections_tried": connections, "worst_wait_ms": round(seen["took"] * 1000, 1)}
    report.record("memory limit of the process", f"{face} engine", when, numbers, complaints)
    assert not complaints, (complaints, numbers)
