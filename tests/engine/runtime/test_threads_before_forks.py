"""In uWSGI's master, which forks in C, no thread of ours may run; without threads everything works all the same.

The module ``uwsgi`` stands in here for uWSGI's own; test_deployments.py asks the real one.
"""

from __future__ import annotations

import ast
import asyncio
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import exceptions as redis_exceptions
from redis.credentials import CredentialProvider

from redispool_app import signals
from redispool_app.engine.connection.dns import resolve, resolve_sync
from redispool_app.engine.runtime import threads
from redispool_app.exceptions import RedisUnavailable
from tests.lab.resolver import HOST, Resolver
from tests.support.servers import eventually

PACKAGE = Path(threads.__file__).parents[2]


class Uwsgi(SimpleNamespace):
    """The process that it describes is the master until it is told otherwise."""

    def __init__(self, worker=0, mule=0, spooler=None, master=1, processes=4, **options):
        super().__init__(
            worker_id=lambda: self.worker,
            mule_id=lambda: self.mule,
            i_am_the_spooler=lambda: self.spooler,
            masterpid=lambda: self.master,
            numproc=processes,
            opt={name.replace("_", "-"): value for name, value in options.items()},
        )
        self.worker, self.mule, self.spooler, self.master = worker, mule, spooler, master


@pytest.fixture
def uwsgi(monkeypatch):
    uwsgi = Uwsgi(enable_threads=True)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    return uwsgi


@pytest.fixture
def started(monkeypatch):
    """The names of our threads that are started."""
    names, start = [], threading.Thread.start

    def note(thread):
        if thread.name.startswith("redispool-"):
            names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    return names


@pytest.mark.parametrize(
    ("process", "may_start"),
    [
        (Uwsgi(), False),
        (Uwsgi(worker=1), True),
        (Uwsgi(mule=1), True),
        (Uwsgi(spooler=True), True),
        (Uwsgi(master=0), False),
        (Uwsgi(master=0, processes=1), True),
        (Uwsgi(processes=1), False),
        (SimpleNamespace(), True),
        (None, True),
    ],
    ids=[
        "master",
        "worker",
        "mule",
        "spooler",
        "first of four without a master",
        "one process without a master",
        "master of one worker",
        "a module of the project's own with that name",
        "not uWSGI",
    ],
)
def test_threads_start_where_uwsgi_does_not_fork(monkeypatch, process, may_start):
    monkeypatch.setitem(sys.modules, "uwsgi", process)
    assert threads.may_start() is may_start
    ran = threading.Event()
    if may_start:
        threads.start(ran.set, name="redispool-test").join(5)
    else:
        with pytest.raises(threads.NoThreadHereError, match="uWSGI's master"):
            threads.start(ran.set, name="redispool-test")
    assert ran.is_set() is may_start


@pytest.mark.parametrize(
    ("options", "freely"),
    [
        ({}, False),
        ({"enable_threads": True}, True),
        ({"enable_threads": b"true"}, True),
        ({"enable_threads": b"false"}, False),
        ({"threads": b"3"}, True),
        ({"threads": b"1"}, False),
    ],
)
def test_threads_of_uwsgis_workers_run_freely_where_that_is_switched_on(monkeypatch, options, freely):
    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi(worker=1, **options))
    assert threads.run_freely() is freely
    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi(**options))
    assert threads.run_freely() is False


def test_all_threads_are_started_in_one_place():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name in ("Thread", "Timer", "start_new_thread", "ThreadPoolExecutor"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"engine/runtime/threads.py"}


def test_a_master_uses_redis_without_a_thread_and_its_first_worker_starts_them(
    uwsgi, started, own_server, pool_settings
):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=0.1)
    client = manager.get_sync_client()
    assert client.set("key", "value")
    with client.client() as dedicated:  # leaves an idle connection
        assert dedicated.get("key") == b"value"

    async def use():
        return await (await manager.get_client()).get("key")

    assert asyncio.run(use()) == b"value"
    assert started == []
    uwsgi.worker = 1  # without a master the process that has loaded the application is the first worker
    client.connection_pool.disconnect()
    with client.client() as dedicated:
        assert dedicated.get("key") == b"value"
    assert "redispool-publisher" in started
    with own_server.client() as onlooker:
        eventually(lambda: onlooker.keys("*:worker:*"))


@pytest.mark.parametrize("process", [Uwsgi(enable_threads=True), Uwsgi(worker=1)], ids=["master", "without threads"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_callers_probe_where_no_thread_can(monkeypatch, started, own_server, pool_settings, process, is_async):
    monkeypatch.setitem(sys.modules, "uwsgi", process)
    manager = pool_settings(own_server.url, RETRY_BACKOFF_CAP=0.1, SOCKET_TIMEOUT=30)

    def get():
        if not is_async:
            return manager.get_sync_client().get("key")

        async def get_async():
            return await (await manager.get_client()).get("key")

        return asyncio.run(get_async())

    assert get() is None
    own_server.kill()
    for _ in range(3):
        with pytest.raises(redis_exceptions.ConnectionError):
            get()
    own_server.start()

    def is_back():
        try:
            return get() is None
        except RedisUnavailable:
            return False

    eventually(is_back, 5)
    assert not [name for name in started if name.startswith("redispool-recovery")]


def test_a_master_looks_names_up_by_itself(uwsgi, started):
    with Resolver("127.0.0.1"):
        assert resolve_sync(HOST, 6379, 1) == ["127.0.0.1"]
        assert asyncio.run(resolve(HOST, 6379, 1)) == ["127.0.0.1"]
    assert started == []


class Blocking(CredentialProvider):
    def get_credentials(self):
        return ("default", "secret")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_master_asks_a_credential_provider_by_itself(uwsgi, started, own_server, pool_settings, is_async):
    with own_server.client() as admin:
        admin.config_set("requirepass", "secret")
    manager = pool_settings(own_server.url, CREDENTIAL_PROVIDER=Blocking())

    async def ping():
        return await (await manager.get_client()).ping()

    assert asyncio.run(ping()) if is_async else manager.get_sync_client().ping()
    assert started == []


def test_a_master_keeps_its_signals_until_a_thread_may_send_them(uwsgi, started, caplog):
    heard = []

    def hear(sender, number, **arguments):
        heard.append(number)

    dispatcher = signals.Dispatcher()
    signals.pool_created.connect(hear)
    try:
        dispatcher.announce(signals.pool_created, None, alias="a", number=1)
        assert (started, heard, dispatcher.dropped, caplog.records) == ([], [], 0, [])
        uwsgi.worker = 1
        dispatcher.announce(signals.pool_created, None, alias="a", number=2)
        eventually(lambda: heard == [1, 2])
    finally:
        signals.pool_created.disconnect(hear)
