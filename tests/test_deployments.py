"""The app behind real servers: uvicorn, Daphne, gunicorn and uWSGI, each in a process of its own."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redispool_app.cache import RedisPoolCache

from .lab.sites import Site
from .support.servers import eventually


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


UWSGI = (
    "tests.sites.run_uwsgi",
    *("--module", "tests.sites.uwsgi_site:application", "--http-socket", "127.0.0.1:{port}"),
    *("--master", "--processes", "4", "--die-on-term", "--need-app", "--disable-logging"),
)


@pytest.fixture
def uwsgi_site(own_server, tmp_path):
    """A site whose users' sessions are in the cache."""
    pytest.importorskip("pyuwsgi")
    site = Site(tmp_path, {"CONNECTION_URL": own_server.url, "RETRY_BACKOFF_CAP": 0.1}, "tests.sites.uwsgi_settings")
    yield site
    site.kill()


def remember_sessions(site, users):
    """Put a session of each user into the cache, through the site."""
    with cache_of(site) as cache:
        for user in users:
            cache.set(f"session-{user}", f"the session of {user}", None)


@contextlib.contextmanager
def cache_of(site):
    """Yield a cache on the site's server, with the prefixes that the site uses."""
    cache = RedisPoolCache(site.pool["CONNECTION_URL"], {})
    try:
        yield cache
    finally:
        cache._setup.manager.close_sync()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="workers"),
        pytest.param(("--enable-threads", "--threads", "3"), id="workers with threads"),
        pytest.param(("--lazy-apps",), id="each worker loads", marks=pytest.mark.lab),
        pytest.param(("--lazy-apps", "--enable-threads"), id="each worker loads, with threads", marks=pytest.mark.lab),
    ],
)
def test_uwsgis_workers_give_each_user_the_own_session(uwsgi_site, own_server, options):
    """uWSGI forks in C: no hook of Python's runs. The site reads the cache while it loads, in uWSGI's master."""
    users = [f"user{number}" for number in range(8)]
    remember_sessions(uwsgi_site, users)
    uwsgi_site.start(*UWSGI, *options).serves()

    def visit(user):
        return [uwsgi_site.get(f"/session/{user}/") for _ in range(60)]

    with ThreadPoolExecutor(len(users)) as pool:
        visits = dict(zip(users, pool.map(visit, users), strict=True))
    wrong = Counter(body for user in users for _, body, _ in visits[user] if body != f"the session of {user}")
    assert not wrong
    seen = {process for each in visits.values() for _, _, process in each}
    seen |= assert_right_replies(uwsgi_site, "echo") | assert_right_replies(uwsgi_site, "echo-async")
    assert len(seen) > 1
    uwsgi_site.stop(signal.SIGTERM)
    eventually(lambda: own_server.connections() == 0)
    uwsgi_site.assert_clean()


def test_a_mule_and_a_spooler_of_uwsgi_use_the_cache_beside_the_workers(uwsgi_site, own_server, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    extras = ("--mule=tests/sites/uwsgi_mule.py", "--spooler", str(spool), "--spooler-frequency", "1")
    uwsgi_site.start(*UWSGI, *extras).serves()
    assert uwsgi_site.get("/spool/")[1] == "spooled"
    assert_right_replies(uwsgi_site, "echo")
    for name in ("mule", "spooler"):
        eventually(lambda name=name: uwsgi_site.get(f"/remembered/{name}/")[1] != "None", 30)
        assert uwsgi_site.get(f"/remembered/{name}/")[1] == "right"
    assert_right_replies(uwsgi_site, "echo-async")
    uwsgi_site.stop(signal.SIGTERM)
    eventually(lambda: own_server.connections() == 0)
    uwsgi_site.assert_clean()


def threads_of(process):
    """How many threads a process has, those of C included."""
    return len(list(Path(f"/proc/{process}/task").iterdir()))


@pytest.mark.parametrize("options", [(), ("--enable-threads",)], ids=["without threads", "threads"])
def test_uwsgis_master_has_no_thread_of_ours_and_its_workers_publish_and_recover(uwsgi_site, own_server, options):
    uwsgi_site.pool["PUBLISH_INTERVAL"] = 0.1
    uwsgi_site.start(*UWSGI, *options).serves()
    with own_server.client() as onlooker:

        def published():
            """The processes that are in the roster, after some requests."""
            assert_right_replies(uwsgi_site, "echo", 24)
            return {key.rpartition(b":")[2].decode() for key in onlooker.keys("*:worker:*")}

        seen = set()

        def all_seen():
            seen.update(uwsgi_site.get("/echo/a/")[2] for _ in range(20))
            return len(seen) == 4

        assert uwsgi_site.get("/threads-while-loading/")[1] == "MainThread"
        eventually(all_seen, 30)
        assert threads_of(uwsgi_site.process.pid) == 1
        # Without its threads a worker publishes only while it serves.
        eventually(lambda: published() >= seen if options else published() & seen, 30)
    assert "redispool-publisher" in uwsgi_site.get("/threads/")[1]
    own_server.kill()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda number: uwsgi_site.get(f"/echo/{number}/")[0], range(80)))
        assert set(statuses) <= {500, 503}
        asked = [pool.submit(uwsgi_site.get, f"/echo/{number}/") for number in range(200)]
        own_server.start()
        assert {request.result()[0] for request in asked} <= {200, 500, 503}
    recovered = set()

    def all_recovered():
        """Ask seldom: what needs threads would stand still between the requests."""
        status, _, process = uwsgi_site.get("/echo/a/")
        recovered.add(process if status == 200 else None)
        return recovered - {None} >= seen

    eventually(all_recovered, 30, 0.05)
    assert_right_replies(uwsgi_site, "echo")
    assert threads_of(uwsgi_site.process.pid) == 1
    uwsgi_site.stop(signal.SIGTERM)
    eventually(lambda: own_server.connections() == 0)
