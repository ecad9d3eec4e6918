"""A real browser, a real site, a real Redis: whatever the page asks elsewhere, or complains about, fails the test."""

from __future__ import annotations

import shutil

import pytest

from tests.support.servers import RedisServer

from .policy import POLICY
from .sites import PASSWORD, Site, prepare

STATUS = "/admin/redispool_app/redispool/"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium():
    # Not for longer than a module: until it stops, playwright's event loop counts as running in this thread.
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements-dev.txt")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def redis():
    """A server of the test's own, to be stopped and started again."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A database with people in it, made once and copied for each test."""
    directory = tmp_path_factory.mktemp("site")
    prepare(directory)
    return directory / "db.sqlite3"


@pytest.fixture
def serve(tmp_path, redis, chromium, database):
    """Start a site: ``serve("uvicorn")``."""
    started = []
    shutil.copy(database, tmp_path)

    def start(kind, **options):
        site = Site(kind, tmp_path, redis.url, **options)
        started.append(site)
        return site.start()

    yield start
    for site in started:
        site.stop()


@pytest.fixture(scope="module")
def site(chromium, database, tmp_path_factory):
    """A site under uvicorn for all tests that leave it, and its Redis, as they are."""
    directory = tmp_path_factory.mktemp("shared-site")
    shutil.copy(database, directory)
    server = RedisServer().start()
    found = Site("uvicorn", directory, server.url)
    try:
        yield found.start()
    finally:
        found.stop()
        server.stop()


class Visitor:
    """Somebody with a browser. Every request and complaint of it is kept."""

    def __init__(self, browser, site, **options) -> None:
        self.site = site
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.policies: set[str | None] = set()
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("response", self._answered)
        self.expected: tuple[str, ...] = ()

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _answered(self, response) -> None:
        if response.headers.get("content-type", "").startswith("text/html"):
            self.policies.add(response.headers.get("content-security-policy"))

    def open(self, name: str = "admin"):
        """Log in as ``name`` and open the status page; return it once it is live."""
        self.page.goto(f"{self.site.url}/admin/login/?next={STATUS}")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", PASSWORD)
        self.page.click("[type=submit]")
        self.page.wait_for_url(f"**{STATUS}")
        self.wait_until_live()
        return self.page

    def wait_until_live(self) -> None:
        self.page.wait_for_selector("[data-connection=live], [data-connection=polling]", timeout=15_000)

    def state(self, wanted: str, timeout: float = 15_000) -> None:
        """Wait until the pool's card says so."""
        self.page.wait_for_selector(f"[data-state-label]:text-is('{wanted}')", timeout=timeout)

    def leave(self) -> None:
        self.context.close()
        assert [text for text in self.complaints if not text.endswith(self.expected or ("\0",))] == []
        assert [url for url in self.requested if not url.startswith((self.site.url + "/", "data:"))] == []
        assert self.policies == {POLICY}


@pytest.fixture
def visit(chromium):
    """Open a browser window on a site: ``visit(site)``. Judges what it asked for and complained about at the end."""
    visitors = []

    def come(site, **options):
        visitors.append(Visitor(chromium, site, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()
