"""A Django async view with five awaited GETs, served by uvicorn, against the same view without Redis."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .peers import OURS, REDIS_PY
from .samples import Sample, Series, in_turn
from .server import HOST, Server

WITHOUT = "no Redis at all"
PATHS = {WITHOUT: "/without/", OURS: "/ours/", REDIS_PY: "/redis-py/"}
CLIENTS = 64
REQUESTS_PER_SECOND = 700
"""A guess, to turn seconds into a number of requests."""


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    requests: int

    @classmethod
    def lasting(cls, rounds: int, round_seconds: float) -> Effort:
        return cls(rounds, round(REQUESTS_PER_SECOND * round_seconds))


def measure(server: Server, effort: Effort, report: Callable[[list[Series]], None]) -> list[Series]:
    """Put the three views under load in turn."""
    server.control.mset({f"bench:view:{number}": b"v" * 100 for number in range(5)})
    series = {name: Series(name) for name in PATHS}
    newest = server.newest_client()
    with _site(server) as port:
        # Warm up; AsyncRedis comes first, because the lifespan wrapper has connected it before the first request.
        for name in (OURS, REDIS_PY, WITHOUT):
            _load(port, PATHS[name], max(CLIENTS * 4, effort.requests // 4))
            series[name].connections = server.opened_since(newest)
            newest = server.newest_client()
        for turn in range(effort.rounds):
            for name in in_turn(list(PATHS), turn):
                cpu_started = _cpu_seconds(port)
                seconds = _load(port, PATHS[name], effort.requests)
                series[name].samples.append(Sample(effort.requests, seconds, _cpu_seconds(port) - cpu_started))
    result = list(series.values())
    report(result)
    return result


@contextmanager
def _site(server: Server) -> Iterator[int]:
    """Run the site in a process of its own; yield its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "benchmarks.view_project:application", "--port", str(port)]
    options = ["--host", HOST, "--loop", "asyncio", "--http", "h11", "--no-access-log", "--log-level", "warning"]
    site = subprocess.Popen([*command, *options], env={**os.environ, "BENCH_PORT": str(server.port)})
    try:
        _wait_for(site, port)
        yield port
    finally:
        site.terminate()
        try:
            site.wait(10)
        except subprocess.TimeoutExpired:
            site.kill()
            site.wait()


def _wait_for(site: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and site.poll() is None:
        try:
            _cpu_seconds(port)
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the site did not start")


def _cpu_seconds(port: int) -> float:
    with urllib.request.urlopen(f"http://{HOST}:{port}/cpu-seconds/", timeout=10) as answer:
        return float(answer.read())


def _load(port: int, path: str, requests: int) -> float:
    command = [sys.executable, "-m", "benchmarks.load_generator", str(port), path, str(CLIENTS), str(requests)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout)
