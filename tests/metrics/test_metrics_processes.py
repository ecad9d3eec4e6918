"""One scrape shows every process that shares a directory: gunicorn's workers, forks, and no dead ones."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redispool_app.metrics import multiprocess
from redispool_app.metrics.prometheus import scrape
from tests.engine.runtime.test_forks import in_child
from tests.lab.sites import Site
from tests.support.scrapes import samples
from tests.support.servers import eventually

TOKEN = "token-of-the-test"
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A directory that the processes share; afterwards this one answers no more."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    yield tmp_path
    multiprocess._responder.stop()


def pools():
    return samples(scrape()[0].decode(), "redispool_commands_total")


def worker(body, url, **environment):
    """Start a process that uses the pool, runs ``body`` and waits; return it once it answers scrapes."""
    source = f"""
import os, sys, time
import django
from django.conf import settings
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
settings.REDIS_POOL = {{"CONNECTION_URL": {url!r}}}
django.setup()
from redispool_app.redis_pool import redis_connection_manager as manager
{body}
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def started(server):
    """Start workers; whoever is left is ended."""
    running = []

    def start(body="manager.get_sync_client().ping()", **environment):
        running.append(worker(body, server.url, **environment))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_process_that_has_used_its_pool_is_in_the_scrape_of_another(shared, manager, started):
    manager.get_sync_client().ping()
    other = started("for _ in range(7): manager.get_sync_client().get('k')")
    found = pools()
    assert len(found) == 2
    (theirs,) = [number for name, number in found.items() if f":{other.pid}:" in name]
    assert theirs >= 7


def test_no_process_is_in_a_scrape_twice(shared, manager, started):
    manager.get_sync_client().ping()
    started()
    lines = [line.rpartition(" ")[0] for line in scrape()[0].decode().splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)


def test_asyncio_code_puts_its_process_into_the_scrape_too(shared, manager, started):
    other = started("import asyncio; asyncio.run(manager.initialize())")
    assert [name for name in pools() if f":{other.pid}:" in name]


def test_a_process_that_ends_takes_its_socket_away(shared, manager, started):
    other = started()
    assert len(pools()) == 2
    other.communicate("")
    assert other.returncode == 0
    assert len(list(shared.glob("redispool-*"))) == 1, "our own"
    assert len(pools()) == 1


def test_a_killed_process_vanishes_with_the_next_scrape(shared, manager, started):
    other = started()
    assert len(pools()) == 2
    other.kill()
    other.wait()
    assert len(list(shared.glob("redispool-*"))) == 2
    assert len(pools()) == 1
    assert len(list(shared.glob("redispool-*"))) == 1


def test_a_process_that_hangs_delays_the_scrape_no_longer_than_stated(shared, manager, started):
    other = started()
    other.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)  # its threads stop one after the other
    began = time.monotonic()
    assert len(multiprocess.gather(0.3)) == 1
    assert 0.3 <= time.monotonic() - began < 3
    other.send_signal(signal.SIGCONT)
    eventually(lambda: len(multiprocess.gather()) == 2)


def test_without_a_shared_directory_nothing_is_opened(monkeypatch, manager):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    manager.get_sync_client().ping()
    assert len(pools()) == 1
    assert not multiprocess._responder.is_started


def test_a_directory_that_is_not_there_leaves_this_process_alone_in_its_scrape(tmp_path, monkeypatch, manager, caplog):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    try:
        assert len(pools()) == len(pools()) == 1
    finally:
        multiprocess._responder.stop()
    (warning,) = [record for record in caplog.records if record.name == "redispool_app.metrics"]
    assert "missing" in warning.getMessage()
    assert "\n" not in warning.getMessage()


def test_a_path_longer_than_an_address_holds_works(tmp_path, monkeypatch, manager, started):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(deep))
    try:
        started()
        assert len(pools()) == 2
    finally:
        multiprocess._responder.stop()


def test_only_the_user_of_the_process_may_ask(shared, manager):
    pools()
    (path,) = shared.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"nonsense",
        b"{}",
        b"[1]",
        b'[{"name": 1}]',
        b'[{"name":"a","alias":"b","since":0,"numbers":[],"times":{"x":1}}]',
        b"[" * 100_000,
    ],
    ids=lambda nonsense: nonsense[:20].decode() or "nothing",
)
def test_nonsense_in_the_directory_spoils_no_scrape(shared, manager, nonsense):
    (shared / "redispool-1-file.sock").write_text("not a socket")
    (shared / "counter_1.db").write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(shared / "redispool-2-liar.sock"))
        listening.listen()

        def lie():
            peer, _ = listening.accept()
            with peer:
                peer.sendall(nonsense)

        liar = threading.Thread(target=lie)
        liar.start()
        assert len(pools()) == 1
        liar.join()


@forks
def test_a_forked_child_has_a_socket_of_its_own_and_leaves_its_parent_s_alone(shared, manager):
    manager.get_sync_client().ping()
    multiprocess.serve()
    (ours,) = shared.glob("*.sock")

    def child():
        assert not multiprocess._responder.is_started
        manager.get_sync_client().ping()
        (path,) = [path for path in shared.glob("*.sock") if path != ours]
        assert f"-{os.getpid()}-" in path.name
        assert len(pools()) == 2
        multiprocess._responder.stop()
        return ours.exists()

    assert in_child(child) == "True"
    assert len(pools()) == 1


def test_a_child_that_outlives_its_parent_does_not_pose_as_it(shared, manager, started, tmp_path):
    note = tmp_path / "child"
    parent = started(
        f"""
manager.get_sync_client().ping()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
open({str(note)!r}, "w").write(str(child))
""",
        PYTHONWARNINGS="ignore",
    )
    child = int(note.read_text())
    try:
        assert len(pools()) == 2
        parent.kill()
        parent.wait()
        assert len(pools()) == 1
        assert len(list(shared.glob("redispool-*"))) == 1, "the parent's socket is refused, not left unanswered"
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_answer_that_fails_is_logged_and_the_next_one_is_given(shared, manager, monkeypatch, caplog):
    pools()
    (path,) = shared.iterdir()

    def ask():
        with multiprocess._ask(path) as peer:
            return multiprocess._answer_of(peer, time.monotonic() + 5)

    monkeypatch.setattr(multiprocess, "take", lambda: 1 / 0)
    assert ask() == []
    eventually(lambda: "could not answer" in caplog.text)
    monkeypatch.undo()
    assert len(ask()) == 1


# gunicorn.


def answering(site, workers):
    """Add to ``workers`` who answers several requests at once: which worker takes one is the kernel's choice."""
    with ThreadPoolExecutor(8) as pool:
        workers.update(process for _, _, process in pool.map(site.get, ["/echo/a/"] * 16) if process)
    return workers


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--preload",),
        pytest.param(("-k", "gthread", "--threads", "4"), marks=pytest.mark.lab),
        pytest.param(("-k", "gevent"), marks=pytest.mark.lab),
    ],
    ids=["each worker loads", "preload", "threads", "gevent"],
)
def test_gunicorns_workers_are_all_in_one_scrape_and_dead_ones_vanish(own_server, tmp_path, monkeypatch, options):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(shared))
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    site = Site(tmp_path, {"CONNECTION_URL": own_server.url})
    try:
        site.start("gunicorn", "tests.sites.wsgi_site:application", "-b", "127.0.0.1:{port}", "-w", "2", *options)
        site.serves()
        workers = set()
        eventually(lambda: len(answering(site, workers)) == 2, 30)

        def scraped():
            status, text, _ = site.get("/redis/metrics/", {"Authorization": f"Bearer {TOKEN}"})
            assert status == 200
            return {name.split(":")[-2]: number for name, number in samples(text, "redispool_commands_total").items()}

        assert workers <= scraped().keys()
        before = sum(scraped()[pid] for pid in workers)
        for number in range(20):
            assert site.get(f"/echo/{number}/")[0] == 200
        # Each request is a SET and a GET, whoever served it; a health check may come between.
        after = scraped()
        assert sum(after[pid] for pid in workers) >= before + 40
        victim = workers.pop()
        os.kill(int(victim), signal.SIGKILL)
        eventually(lambda: victim not in scraped(), 15)
        assert workers <= scraped().keys()
        # The master waits long for a worker that is told to stop while it starts.
        eventually(lambda: len(answering(site, workers)) == 2, 30)
        site.stop(signal.SIGTERM)
        site.assert_clean()
        assert [path.name for path in shared.iterdir() if not re.search(victim, path.name)] == []
    finally:
        site.kill()
