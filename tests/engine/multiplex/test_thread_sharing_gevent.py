"""Greenlets in place of threads: with gevent's monkey patching the same client serves them all."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.sites import Site

pytest.importorskip("gevent")

PROJECT = Path(__file__).parents[3]

BEGIN = """
from gevent import monkey

monkey.patch_all()

import sys

import gevent

from redispool_app.engine import SyncRedis

client = SyncRedis(port=int(sys.argv[1]), socket_timeout=20, client_name="greenlets")


def connections():
    return len([each for each in client.client_list() if each["name"] == "greenlets"])


def run(functions):
    greenlets = [gevent.spawn(function) for function in functions]
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert all(each.successful() for each in greenlets), "a greenlet hangs"
    return [each.value for each in greenlets]
"""


def under_gevent(server, program):
    """Run a program in a process of its own, all of whose warnings are errors."""
    source = BEGIN + textwrap.dedent(program) + "\nclient.close()\nprint('done')\n"
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning:gevent", "-c", source, str(server.port)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=90)
    assert (ended.returncode, ended.stdout.strip()) == (0, "done"), ended.stderr[-4000:]


def test_fifty_greenlets_share_one_connection_and_each_gets_its_own_replies(server):
    under_gevent(
        server,
        """
        def work(number):
            for turn in range(50):
                text = b"%d-%d" % (number, turn)
                assert client.echo(text) == text
                assert client.pipeline().incr("n:%d" % number).echo(text).execute() == [turn + 1, text]
            return number

        assert run([lambda number=number: work(number) for number in range(50)]) == list(range(50))
        assert client.sharing.in_flight == 0
        # The shared one, and the one that CLIENT LIST travels on.
        assert connections() == 2
        """,
    )


def test_a_greenlet_that_blocks_delays_no_other(server):
    under_gevent(
        server,
        """
        popped = gevent.spawn(client.blpop, "q", 20)
        gevent.sleep(0.05)
        assert run([lambda: client.echo("x")] * 50) == [b"x"] * 50
        assert not popped.ready()
        client.rpush("q", "y")
        assert popped.get(timeout=20) == (b"q", b"y")
        """,
    )


def test_a_greenlet_that_is_killed_or_timed_out_strands_no_other(own_server):
    under_gevent(
        own_server,
        f"""
        import os, signal

        client.ping()
        for leaves in ("kill", "timeout", "stays"):
            os.kill({own_server.pid}, signal.SIGSTOP)

            def leader():
                with gevent.Timeout(0.1 if leaves == "timeout" else None, False):
                    client.echo("leader")

            first = gevent.spawn(leader)
            gevent.sleep(0.02)
            others = [gevent.spawn(client.echo, str(number)) for number in range(20)]
            gevent.sleep(0.02)
            if leaves == "kill":
                first.kill(timeout=5)
                assert first.ready()
            elif leaves == "timeout":
                first.get(timeout=5)
            os.kill({own_server.pid}, signal.SIGCONT)
            assert [each.get(timeout=20) for each in others] == [b"%d" % number for number in range(20)]
            first.join(20)
            assert client.echo("after") == b"after"
            assert client.sharing.in_flight == 0
        """,
    )


def test_a_server_that_stops_lets_the_greenlets_go_at_their_deadline(own_server):
    under_gevent(
        own_server,
        f"""
        import os, signal, time
        from redis.exceptions import ConnectionError, TimeoutError

        hasty = SyncRedis(port=int(sys.argv[1]), socket_timeout=0.3)
        hasty.ping()
        os.kill({own_server.pid}, signal.SIGSTOP)

        def work():
            try:
                hasty.get("k")
            except (ConnectionError, TimeoutError):
                return "let go"

        assert run([work] * 20) == ["let go"] * 20
        os.kill({own_server.pid}, signal.SIGCONT)
        hasty.close()
        """,
    )


def test_the_manager_serves_greenlets(server):
    under_gevent(
        server,
        """
        import django
        from django.conf import settings

        url = "redis://127.0.0.1:" + sys.argv[1]
        settings.configure(INSTALLED_APPS=["redispool_app"], REDIS_POOL={"CONNECTION_URL": url})
        django.setup()

        from redispool_app.redis_pool import redis_connection_manager as manager

        def work():
            with manager.get_sync_connection() as shared:
                return [shared.incr("n") for _ in range(20)]

        counted = run([work] * 20)
        assert sorted(sum(counted, [])) == list(range(1, 401))
        assert manager.get_pool_info()["connections_opened_total"] == 1
        manager.close_sync()
        """,
    )


def test_a_name_server_that_does_not_answer_holds_a_greenlet_no_longer_than_its_deadline(server):
    under_gevent(
        server,
        """
        import socket
        from time import monotonic

        from redispool_app.engine.errors import UnansweredNameError
        from redispool_app.engine.connection.dns import resolve_sync

        client.ping()
        asked = []

        def getaddrinfo(host, *args, **kwargs):
            asked.append(host)
            gevent.sleep(5)

        socket.getaddrinfo = getaddrinfo

        def resolve():
            try:
                resolve_sync("redis.lab", 6379, 0.2)
            except UnansweredNameError:
                return client.echo("served beside it")

        began = monotonic()
        assert run([resolve] * 20) == [b"served beside it"] * 20
        assert monotonic() - began < 2
        assert asked == ["redis.lab"]
        """,
    )


def test_patching_too_late_is_refused_in_one_line_that_names_the_cure(server):
    late = """
import sys

import gevent
from gevent import monkey

from redispool_app.engine import SyncRedis

monkey.patch_all()
client = SyncRedis(port=int(sys.argv[1]), socket_timeout=20)
greenlets = [gevent.spawn(client.get, "k") for _ in range(20)]
gevent.joinall(greenlets, timeout=20)
assert {str(each.exception) for each in greenlets} == {sys.argv[2]}, [each.exception for each in greenlets]
"""
    ended = subprocess.run(
        [sys.executable, "-c", late, str(server.port), TOO_LATE],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


TOO_LATE = (
    "The standard library was patched (gevent) after redispool_app was imported: call monkey.patch_all() first, "
    "with gunicorn's --preload at the top of its configuration file."
)


@pytest.fixture
def site(own_server, tmp_path):
    site = Site(tmp_path, {"CONNECTION_URL": own_server.url})
    yield site
    site.kill()


GUNICORN = ("gunicorn", "tests.sites.wsgi_site:application", "-b", "127.0.0.1:{port}", "-w", "1", "-k", "gevent")


def test_a_preloaded_gunicorn_that_patches_late_hangs_nobody(site):
    site.start(*GUNICORN, "--preload").serves()
    with ThreadPoolExecutor(8) as visitors:
        assert {answer[0] for answer in visitors.map(lambda n: site.get(f"/echo/{n}/"), range(16))} == {500}


@pytest.mark.parametrize("is_preloaded", [False, True])
def test_a_gunicorn_that_patches_first_serves(site, tmp_path, is_preloaded):
    # A worker's own patching comes before the site is loaded, but for --preload.
    patching = "from gevent import monkey\n\nmonkey.patch_all()\n" if is_preloaded else ""
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(patching)
    site.start(*GUNICORN, "-c", str(configuration), *(["--preload"] if is_preloaded else [])).serves()
    with ThreadPoolExecutor(8) as visitors:
        assert {answer[0] for answer in visitors.map(lambda n: site.get(f"/echo/{n}/"), range(16))} == {200}
