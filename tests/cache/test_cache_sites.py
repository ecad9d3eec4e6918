"""Sessions, cached pages, per-site caching and cached fragments on the cache backend, in sync and in async views."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from tests.support.servers import eventually
from tests.test_demo import Demo, running
from tests.test_deployments import Site

BACKEND = "redispool_app.cache.RedisPoolCache"
ENGINES = ["django.contrib.sessions.backends.cache", "django.contrib.sessions.backends.cached_db"]
TWO_WEEKS = 14 * 24 * 3600
UVICORN = ("uvicorn", "tests.sites.cache_site:application", "--port", "{port}", "--log-level", "warning")

pytestmark = pytest.mark.django_db

both_views = pytest.mark.parametrize("suffix", ["", "-async"], ids=["sync view", "async view"])
both_engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.rsplit(".", 1)[1])


class Visitor:
    """Somebody with cookies, over WSGI or ASGI; the database stays in this thread, with the test's transaction."""

    def __init__(self, protocol):
        self.is_async = protocol == "asgi"
        self.client = AsyncClient() if self.is_async else Client()

    def get(self, path, status=200):
        response = async_to_sync(self.client.get)(path) if self.is_async else self.client.get(path)
        assert response.status_code == status
        return response.content.decode()


@pytest.fixture(params=["wsgi", "asgi"])
def visitor(request, manager, settings):
    settings.CACHES = {"default": {"BACKEND": BACKEND, "KEY_PREFIX": "site"}}
    settings.ROOT_URLCONF = "tests.sites.cache_urls"
    settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
    settings.SESSION_ENGINE = ENGINES[0]
    return Visitor(request.param)


def keys(server):
    with server.client() as client:
        return sorted(client.keys())


@both_engines
@both_views
def test_a_session_lasts_from_request_to_request(visitor, server, settings, engine, suffix):
    settings.SESSION_ENGINE = engine
    assert [visitor.get(f"/visits{suffix}/") for _ in range(3)] == ["1", "2", "3"]
    [key] = keys(server)
    assert key.startswith(f"site:1:{import_module(engine).KEY_PREFIX}".encode())
    with server.client() as client:
        assert TWO_WEEKS - 60 < client.ttl(key) <= TWO_WEEKS


@both_engines
def test_sync_and_async_views_share_one_session(visitor, settings, engine):
    settings.SESSION_ENGINE = engine
    views = ["visits", "visits-async", "visits", "visits-async"]
    assert [visitor.get(f"/{view}/") for view in views] == ["1", "2", "3", "4"]


@both_engines
@both_views
def test_leaving_removes_the_session(visitor, server, settings, engine, suffix):
    settings.SESSION_ENGINE = engine
    visitor.get(f"/visits{suffix}/")
    visitor.get(f"/leave{suffix}/")
    assert keys(server) == []
    assert visitor.get(f"/visits{suffix}/") == "1"


def test_a_session_lost_from_the_cache_comes_back_from_the_database(visitor, server, settings):
    settings.SESSION_ENGINE = ENGINES[1]
    assert visitor.get("/visits-async/") == "1"
    with server.client() as client:
        client.flushall()
    assert visitor.get("/visits-async/") == "2"


@both_engines
@pytest.mark.usefixtures("visitor")
def test_the_whole_async_session_api_works(server, settings, engine):
    settings.SESSION_ENGINE = engine
    new = import_module(engine).SessionStore

    async def program():
        session = new()
        await session.aset("name", "Ada")
        await session.aupdate({"basket": ["apples"], "step": 2})
        assert await session.asetdefault("step", 9) == 2
        assert await session.asetdefault("colour", "red") == "red"
        assert await session.apop("colour") == "red"
        await session.aset_test_cookie()
        await session.aset_expiry(600)
        await session.asave()
        assert 590 < ttl(session) <= 600

        again = new(session.session_key)
        assert await again.aexists(session.session_key)
        assert await again.aget("name") == "Ada"
        assert await again.aget("missing", "nothing") == "nothing"
        assert await again.ahas_key("basket")
        assert await again.atest_cookie_worked()
        await again.adelete_test_cookie()
        assert set(await again.akeys()) == {"name", "basket", "step", "_session_expiry"}
        assert len(await again.avalues()) == len(await again.aitems()) == 4
        assert await again.aget_expiry_age() == 600
        assert (await again.aget_expiry_date()).tzinfo is not None
        assert not await again.aget_expire_at_browser_close()
        assert (await new(session.session_key).aload())["basket"] == ["apples"]

        await again.acycle_key()
        await again.asave()
        assert again.session_key != session.session_key
        assert not await again.aexists(session.session_key)
        assert await new(again.session_key).aget("name") == "Ada"

        await again.aflush()
        assert again.session_key is None
        other = new()
        await other.acreate()
        await other.adelete()
        assert not await other.aexists(other.session_key)

    def ttl(session):
        with server.client() as client:
            return client.ttl(f"site:1:{session.cache_key}")

    async_to_sync(program)()
    assert keys(server) == []


@both_views
def test_a_cached_page_is_computed_once(visitor, server, suffix):
    first = visitor.get(f"/page{suffix}/")
    assert [visitor.get(f"/page{suffix}/") for _ in range(3)] == [first] * 3
    assert len(keys(server)) == 2, "the page and the headers it varies on"
    with server.client() as client:
        assert all(0 < client.ttl(key) <= 60 for key in keys(server))
        client.flushall()
    assert visitor.get(f"/page{suffix}/") != first


@both_views
def test_a_whole_site_is_cached_by_its_middleware(visitor, settings, suffix):
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    settings.CACHE_MIDDLEWARE_SECONDS = 60
    # The handler of the client loads the middleware at its first request.
    first = visitor.get(f"/number{suffix}/")
    assert [visitor.get(f"/number{suffix}/") for _ in range(3)] == [first] * 3
    assert visitor.get(f"/number{suffix}/?other") != first
    assert [visitor.get(f"/visits{suffix}/") for _ in range(3)] == ["1", "2", "3"], "a page that sets a cookie is not"


@both_views
def test_a_fragment_is_cached_for_each_of_its_arguments(visitor, server, suffix):
    ada, again, bob = [visitor.get(f"/fragment{suffix}/{reader}/") for reader in ("ada", "ada", "bob")]
    assert ada != again, "what is around the fragment is new each time"
    assert ada.split(",")[0] == again.split(",")[0]
    assert bob.split(",")[0] != ada.split(",")[0]
    assert len(keys(server)) == 2


@both_views
def test_a_view_sees_what_it_wrote(visitor, suffix):
    assert visitor.get(f"/calls{suffix}/pear/") == "value of pear"


class CacheSite(Site):
    """The site that lives on the cache, in a process of its own."""

    def get(self, path, cookie=""):
        """Return the status, the body and the session cookie of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": cookie})
            response = connection.getresponse()
            set_cookie = response.headers["Set-Cookie"] or cookie
            return response.status, response.read().decode(), set_cookie.split(";")[0]
        finally:
            connection.close()


@pytest.fixture
def site(own_server, tmp_path):
    # A busy machine may seem a stalled connection, beside which another one is made.
    site = CacheSite(tmp_path, {"CONNECTION_URL": own_server.url, "MAX_SHARED_CONNECTIONS": 1})
    yield site
    site.kill()


def stay(site, number):
    """Visit every page of the site as one person with a session; each page must be right."""
    cookie, pages = "", set()
    for round_ in range(1, 4):
        for view in ("visits", "visits-async"):
            status, body, cookie = site.get(f"/{view}/", cookie)
            assert (status, body) == (200, str(2 * round_ - (view == "visits")))
        for view in ("calls", "calls-async"):
            assert site.get(f"/{view}/{number}-{round_}/")[:2] == (200, f"value of {number}-{round_}")
        for view in ("fragment", "fragment-async"):
            status, body, _ = site.get(f"/{view}/{number}/")
            assert status == 200
            assert body.split(",")[0].endswith(f" for {number}")
        for view in ("page", "page-async"):
            pages.add((view, site.get(f"/{view}/")[:2]))
    assert {status for _, (status, _) in pages} == {200}
    return number


class Watch(threading.Thread):
    """Counts the connections of others at the server, with CLIENT LIST, until stopped."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.most = 0
        self.counted = 0
        self.done = threading.Event()

    def run(self):
        with self.server.client() as client:
            mine = client.client_id()
            while not self.done.wait(0.02):
                self.most = max(self.most, len([each for each in client.client_list() if int(each["id"]) != mine]))
                self.counted += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.done.set()
        self.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_served_site_lives_on_two_connections_however_many_come(site, own_server, loop):
    site.start(*UVICORN, "--loop", loop).serves()
    with Watch(own_server) as watch, ThreadPoolExecutor(16) as people:
        assert sorted(people.map(lambda number: stay(site, number), range(20))) == list(range(20))
    assert watch.counted > 10
    assert 1 <= watch.most <= 2, "one for the event loop, one for all threads"
    site.stop(signal.SIGINT)
    eventually(lambda: own_server.connections() == 0)
    site.assert_clean()


# The demo project: the pages that it adds on the cache, with the embedded server that it brings.


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One demo for all visitors, as each test leaves it in service; it ends without a word of complaint."""
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        demo.wait_until_it_serves()
        yield demo
        _, errors = demo.stop()
        assert "Traceback" not in errors
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.communicate()


class DemoVisitor:
    """Somebody with cookies at the demo."""

    def __init__(self, demo):
        self.demo = demo
        self.cookie = ""

    def get(self, path, status=200):
        found, headers, body, _ = self.demo.get(path, Cookie=self.cookie)
        assert found == status, body
        if headers["Set-Cookie"]:
            self.cookie = headers["Set-Cookie"].split(";")[0]
        return body

    def figures(self, path):
        return re.findall(r"figure\">([^<]+)<", self.get(path))


def test_the_demo_counts_in_a_session_that_sync_and_async_views_share(demo):
    ada, bob = DemoVisitor(demo), DemoVisitor(demo)
    assert [ada.figures(path) for path in ("/session/", "/session/async/", "/session/")] == [["1"], ["2"], ["3"]]
    assert bob.figures("/session/async/") == ["1"]
    assert "sync view" in ada.get("/session/")
    assert "async view" in ada.get("/session/async/")


def test_the_demo_keeps_a_page_and_a_fragment(demo):
    visitor = DemoVisitor(demo)
    assert_kept(lambda: tuple(visitor.figures("/cached/")))
    assert_kept(lambda: visitor.figures("/cached/fragment/")[1])
    assert len({visitor.figures("/cached/fragment/")[0] for _ in range(3)}) == 3, "the page around it is built anew"


def test_the_demo_can_be_cached_as_a_whole_but_for_its_probes_and_sessions(tmp_path):
    with running(Demo(tmp_path, DJANGO_SETTINGS_MODULE="tests.sites.demo_settings")) as demo:
        # An async view counts each of its calls.
        assert [DemoVisitor(demo).figures("/") for _ in range(3)] == [["1"]] * 3
        assert DemoVisitor(demo).figures("/?other") == ["2"]
        visitor = DemoVisitor(demo)
        assert [visitor.figures(path) for path in ("/session/", "/session/async/")] == [["1"], ["2"]]
        assert demo.get("/redis/health/")[0] == demo.get("/redis/ready/")[0] == 200
        os.kill(demo.server_pid, signal.SIGSTOP)
        try:
            assert demo.get("/redis/health/")[0] == demo.get("/redis/ready/")[0] == 503
        finally:
            os.kill(demo.server_pid, signal.SIGCONT)


def assert_kept(ask):
    """Ask three times: the ten seconds may end once on the way."""
    answers = [ask() for _ in range(3)]
    assert len(set(answers)) <= 2, answers


def test_in_an_outage_the_demo_builds_its_pages_anew_and_reads_sessions_from_the_database(demo):
    visitor = DemoVisitor(demo)
    assert visitor.figures("/session/") == ["1"]
    assert visitor.figures("/cached/")
    os.kill(demo.server_pid, signal.SIGSTOP)
    try:
        assert demo.get("/redis/health/")[0] == 503  # known from here on
        page, kept = visitor.figures("/cached/fragment/")
        assert page == kept
        assert visitor.figures("/cached/") != visitor.figures("/cached/")
        assert visitor.figures("/session/") == ["2"]
        assert visitor.figures("/session/async/") == ["3"]
    finally:
        os.kill(demo.server_pid, signal.SIGCONT)
    eventually(lambda: demo.get("/redis/health/")[0] == 200, 5, 0.05)
    # The copy in the cache, which nobody could renew, may be the older one.
    assert visitor.figures("/session/async/") in (["2"], ["4"])
