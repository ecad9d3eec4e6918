"""The app behind real servers: uvicorn, Daphne and gunicorn, each in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .servers import eventually, free_port

PROJECT = Path(__file__).resolve().parent.parent
STRICT = ("-X", "dev", "-W", "error::ResourceWarning")
TRACES = ("Traceback", "ResourceWarning", "Exception ignored", "never retrieved", "was destroyed")


class Site:
    """A server process on a free port."""

    def __init__(self, directory, pool):
        self.port = free_port()
        self.pool = pool
        self.log = directory / "server.log"
        self.process = None

    def start(self, *arguments):
        arguments = [argument.format(port=self.port) for argument in arguments]
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.sites.settings",
            "REDIS_POOL": json.dumps(self.pool),
            "HOME": str(self.log.parent),  # gunicorn keeps its control socket there
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *STRICT, "-m", *arguments], cwd=PROJECT, env=env, stdout=log, stderr=log
            )
        return self

    def serves(self):
        eventually(self._accepts_or_ended, 30)
        assert self.process.poll() is None, self.output
        return self

    def _accepts_or_ended(self):
        if self.process.poll() is not None:
            return True
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path):
        """Return the status, the body and the process that answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers["X-Process"]
        finally:
            connection.close()

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    @property
    def output(self):
        return self.log.read_text()

    def assert_clean(self):
        """No traceback and no warning, but those about the server's own listening socket."""
        listening = f"laddr=('127.0.0.1', {self.port})>"
        lines = [line for line in self.output.splitlines() if not line.endswith(listening)]
        assert not [line for line in lines if any(trace in line for trace in TRACES)], self.output


@pytest.fixture
def site(own_server, tmp_path):
    site = Site(tmp_path, {"CONNECTION_URL": own_server.url, "RETRY_BACKOFF_CAP": 0.1})
    yield site
    site.kill()


def assert_right_replies(site, view, requests=120, threads=8):
    """Ask from several threads at once, each time for another key; return the processes that answered."""

    def ask(number):
        status, body, process = site.get(f"/{view}/{number}/")
        assert (status, body) == (200, f"value of {number}")
        return process

    with ThreadPoolExecutor(threads) as pool:
        return set(pool.map(ask, range(requests)))


UVICORN = ("uvicorn", "tests.sites.asgi_site:application", "--port", "{port}", "--log-level", "warning")
DAPHNE = ("daphne", "-b", "127.0.0.1", "-p", "{port}", "tests.sites.asgi_site:application")
GUNICORN = ("gunicorn", "tests.sites.wsgi_site:application", "-b", "127.0.0.1:{port}", "-w", "2")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn_opens_redis_before_the_first_request_and_leaves_nothing_behind(site, own_server, loop):
    site.start(*UVICORN, "--loop", loop).serves()
    assert own_server.connections() == 1
    assert_right_replies(site, "echo-async")
    assert_right_replies(site, "echo")
    assert own_server.connections() > 0
    site.stop(signal.SIGINT)
    eventually(lambda: own_server.connections() == 0)
    site.assert_clean()


def test_uvicorn_starts_while_redis_is_down_and_recovers_with_it(site, own_server):
    own_server.kill()
    site.start(*UVICORN).serves()
    assert site.get("/quiet/")[:2] == (200, "quiet")
    assert site.get("/echo/a/")[0] == 503
    assert site.get("/echo-async/a/")[0] == 503
    assert len([line for line in site.output.splitlines() if own_server.where in line]) == 1
    own_server.start()
    eventually(lambda: site.get("/echo-async/a/")[:2] == (200, "value of a"), 15)
    assert site.get("/echo/b/")[:2] == (200, "value of b")
    site.stop(signal.SIGINT)
    eventually(lambda: own_server.connections() == 0)
    site.assert_clean()


def test_uvicorn_does_not_start_with_wrong_settings_and_says_why(site):
    site.pool["SOCKET_TIMOUT"] = 1
    site.start(*UVICORN)
    assert site.process.wait(30) != 0
    assert "'SOCKET_TIMOUT': did you mean 'SOCKET_TIMEOUT'?" in site.output
    site.assert_clean()


def test_daphne_serves_async_views_without_a_lifespan(site, own_server):
    site.start(*DAPHNE).serves()
    assert_right_replies(site, "echo-async")
    assert_right_replies(site, "echo")
    site.stop(signal.SIGINT)
    eventually(lambda: own_server.connections() == 0)
    site.assert_clean()


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["each worker loads", "preload"])
def test_gunicorns_workers_each_talk_to_redis_on_their_own_connections(site, own_server, preload):
    site.start(*GUNICORN, *preload).serves()
    eventually(lambda: site.get("/echo/a/")[0] == 200, 15)
    seen = assert_right_replies(site, "echo") | assert_right_replies(site, "echo-async")
    # Which worker takes a request is the kernel's choice.
    eventually(lambda: len(seen.add(site.get("/echo/a/")[2]) or seen) == 2, 30)
    site.stop(signal.SIGTERM)
    eventually(lambda: own_server.connections() == 0)
    site.assert_clean()
