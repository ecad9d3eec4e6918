"""``make demo`` as a visitor sees it: every page, an outage, the recovery, and nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from .support.servers import eventually, free_port

ROOT = Path(__file__).resolve().parent.parent
SLACK = 1.0  # for a machine that does other things meanwhile
SOCKET_TIMEOUT = 2.0
HEALTH_CHECK_TIMEOUT = 1.0


class Demo:
    """The demo as a process of its own, with an embedded server of its own."""

    def __init__(self, directory, **environment):
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PORT": str(self.port),
            "DEMO_DIR": str(directory),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "REDIS_URL": f"embedded://demo-{uuid.uuid4().hex[:8]}",
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "project.demo"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def wait_until_it_serves(self):
        while "From another terminal" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self.said += line
        eventually(self.accepts, 20)

    def accepts(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def server_pid(self):
        return int(re.search(r"\(process (\d+)\)", self.said)[1])

    @property
    def password(self):
        return re.search(r"one-time password (\S+)", self.said)[1]

    def get(self, path, **headers):
        """Return the status, headers, body and seconds of one request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.headers, response.read().decode(), time.monotonic() - started
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode(), time.monotonic() - started

    def redis_health(self):
        return subprocess.run(
            [sys.executable, "manage.py", "redis_health", "--json"],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def stop(self):
        """Ctrl-C; return the exit code and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=20)
        self.said += out
        return self.process.returncode, errors


@contextmanager
def running(demo):
    """Wait for the demo, and leave none behind."""
    try:
        demo.wait_until_it_serves()
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.communicate()


@pytest.fixture
def demo(tmp_path):
    with running(Demo(tmp_path)) as demo:
        yield demo


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_page_answers_and_ctrl_c_leaves_nothing_running(demo):
    visits = [re.search(r"figure\">(\d+)<", demo.get("/")[2])[1] for _ in range(3)]
    assert visits == ["1", "2", "3"]
    statuses = [demo.get("/limited/")[0] for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    assert demo.get("/leaderboard/")[0] == 200
    assert demo.get("/redis/health/")[0] == 200
    assert demo.get("/admin/login/")[0] == 200
    assert demo.get("/static/admin/css/base.css")[0] == 200
    health = demo.redis_health()
    assert health.returncode == 0, health.stderr
    assert json.loads(health.stdout)
    pid = demo.server_pid
    assert is_alive(pid)
    code, errors = demo.stop()
    assert code == 0
    assert errors == "Too Many Requests: /limited/\n", "Django's own word for the 429, and nothing else"
    eventually(lambda: not is_alive(pid))


def test_an_outage_is_answered_in_time_and_recovery_comes_by_itself(demo):
    for path in ("/", "/leaderboard/", "/redis/health/"):
        assert demo.get(path)[0] == 200
    os.kill(demo.server_pid, signal.SIGSTOP)
    try:
        status, headers, _, seconds = demo.get("/redis/health/")
        assert (status, headers["Retry-After"].isdigit()) == (503, True)
        assert seconds < HEALTH_CHECK_TIMEOUT + 0.2 + SLACK
        # The first failure is known now, so every view answers at once.
        for path in ("/", "/limited/", "/leaderboard/", "/redis/health/"):
            status, headers, body, seconds = demo.get(path, Accept="text/html")
            assert (status, headers["Retry-After"].isdigit()) == (503, True)
            assert seconds < SLACK
            assert "embedded" not in body
        assert json.loads(demo.get("/", Accept="application/json")[2])["retry_after"] >= 1
        health = demo.redis_health()
        assert health.returncode == 1
        assert "Traceback" not in health.stdout + health.stderr
    finally:
        os.kill(demo.server_pid, signal.SIGCONT)
    eventually(lambda: demo.get("/redis/health/")[0] == 200, 2 + SLACK, 0.05)
    assert demo.get("/")[0] == demo.get("/leaderboard/")[0] == 200
    _, errors = demo.stop()
    assert "Traceback" not in errors
    assert len(re.findall("is unhealthy", errors)) == 1
    assert len(re.findall("is healthy again", errors)) == 1


@pytest.mark.parametrize("path", ["/", "/leaderboard/"])
def test_the_first_view_to_meet_an_outage_answers_within_the_socket_timeout(demo, path):
    assert demo.get(path)[0] == 200
    os.kill(demo.server_pid, signal.SIGSTOP)
    try:
        status, _, _, seconds = demo.get(path)
    finally:
        os.kill(demo.server_pid, signal.SIGCONT)
    assert status == 503
    assert seconds < SOCKET_TIMEOUT + 0.2 + SLACK


def test_bad_settings_stop_it_with_one_line(tmp_path):
    demo = Demo(tmp_path, REDIS_URL="reddis://:hush@localhost")
    out, errors = demo.process.communicate(timeout=30)
    assert demo.process.returncode == 2
    assert errors.count("\n") == 1
    assert "did you mean" in errors
    assert "hush" not in out + errors


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        demo = Demo(tmp_path, PORT=str(port))
        _, errors = demo.process.communicate(timeout=30)
    assert demo.process.returncode == 1
    assert errors == f"Port {port} is in use: choose another, as in 'PORT=8001 make demo'.\n"
