"""Django async views under uvicorn: five awaited GETs against the same view without Redis, and six cache calls."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from .cache_backends import BACKENDS, DJANGO, OURS_CACHE, configure_django
from .contest import Contest, Effort
from .peers import OURS, REDIS_PY
from .samples import Sample, Series, Situation, Work
from .server import HOST, Server
from .view_values import CACHED, STORED

WITHOUT = "no Redis at all"
VIEW = Work("django_view", "async view with five GETs, uvicorn", "client", "requests", OURS, WITHOUT)
CACHE_VIEW = Work("cache_view", "async view with six cache calls, uvicorn", "client", "requests", OURS_CACHE, DJANGO)
CLIENTS = 64
"""Keep-alive connections, each of which sends the next request when the answer is in."""

Report = Callable[[Situation], None]


def measure_gets(server: Server, effort: Effort, report: Report) -> list[Situation]:
    """Put the view with five GETs under load, through each client and without one."""
    server.control.mset(STORED)
    contenders = [(WITHOUT, "/without/", ""), (OURS, "/ours/", ""), (REDIS_PY, "/redis-py/", "")]
    return _measure(VIEW, contenders, server, effort, report)


def measure_cache(server: Server, effort: Effort, report: Report) -> list[Situation]:
    """Put the view with six cache calls under load, with each backend."""
    configure_django(server.port)
    for backend in BACKENDS:
        if not backend.absent:
            backend.fill(CACHED)
    contenders = [(backend.name, f"/cache/{backend.alias}/", backend.absent) for backend in BACKENDS]
    return _measure(CACHE_VIEW, contenders, server, effort, report)


def _measure(
    work: Work, contenders: list[tuple[str, str, str]], server: Server, effort: Effort, report: Report
) -> list[Situation]:
    situation = Situation(work, CLIENTS, asyncio.run(_compare(contenders, server, effort)))
    report(situation)
    return [situation]


async def _compare(contenders: list[tuple[str, str, str]], server: Server, effort: Effort) -> list[Series]:
    async with Contest(server, effort) as contest:
        for name, path, absent in contenders:
            if absent:
                contest.leave_out(name, absent)
            else:
                await contest.enter(name, _site(server), _load(path))
        return await contest.run()


def _load(path: str) -> Callable[[int, int], Awaitable[Sample]]:
    """Return what times ``each`` requests from each client, on average, of ``path``."""

    async def timed(port: int, each: int) -> Sample:
        requests = CLIENTS * each
        command = [sys.executable, "-m", "benchmarks.load_generator", str(port), path, str(CLIENTS), str(requests)]
        cpu_started = _cpu_seconds(port)
        seconds = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout)
        return Sample(requests, seconds, _cpu_seconds(port) - cpu_started)

    return timed


@asynccontextmanager
async def _site(server: Server) -> AsyncIterator[int]:
    """Run the site in a process of its own, so that no contender has another's leavings; yield its port."""
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
