"""The live status page as a person sees it, in a real browser, under ASGI and WSGI, with a strict policy."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from contextlib import closing
from itertools import pairwise

import pytest

from tests.support.servers import eventually

from .sites import ROOT

KINDS = {"uvicorn": "live", "gunicorn": "polling"}
CARD = "section[data-alias=default]"
TWO_WORKERS = "document.querySelectorAll('[data-table=workers] tbody tr').length === 2"
GONE = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_EMPTY_RESPONSE")


class Traffic:
    """Visitors of the demo, so that Redis has something to do."""

    def __init__(self, site) -> None:
        self.site = site
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(15)

    def _run(self, number) -> None:
        pages = ["/", "/leaderboard/", "/cached/"]
        count = 0
        while not self._over.wait(0.02 + 0.02 * number):
            try:
                self.site.get(pages[count % 3])
            except OSError:
                self._over.wait(0.2)
            count += 1


def number_of(page, field):
    text = page.text_content(f"{CARD} [data-field='{field}']")
    return int(re.sub(r"\D", "", text))


def wait_for_number_above(page, field, least):
    wait_until(
        page,
        "([field, least]) => Number(document.querySelector(`[data-field='${field}']`).textContent.replace(/\\D/g, ''))"
        " > least",
        arg=[field, least],
        timeout=15_000,
    )


def wait_until(page, expression, arg=None, timeout=15_000):
    """As ``page.wait_for_function``, which evaluates text in the page, as the policy forbids."""
    for _ in range(timeout // 100):
        if page.evaluate(expression, arg):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within {timeout} ms: {expression}")


def has_no_sideways_scroll(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_change_an_outage_shows_and_recovery_too_without_a_reload(serve, visit, redis, kind):
    site = serve(kind)
    visitor = visit(site)
    page = visitor.open()
    page.wait_for_selector(f"[data-connection={KINDS[kind]}]")
    page.evaluate("window.notReloaded = true")
    visitor.state("Healthy")

    before = number_of(page, "pool.commands_total")
    for _ in range(5):
        site.get("/")
    wait_for_number_above(page, "pool.commands_total", before + 4)
    charts = page.locator(f"{CARD} [data-chart]").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert charts == ["ops", "latency", "flight", "trouble", "memory", "clients"]
    for chart in charts:
        page.wait_for_selector(f"{CARD} [data-chart={chart}] canvas")
    assert page.is_visible(f"{CARD} [data-server]")

    redis.kill()
    visitor.state("Unhealthy")
    assert "Nothing listens at" in page.text_content(f"{CARD} [data-fault]")
    assert page.is_visible(f"{CARD} [data-no-server]")
    assert "Unhealthy" in page.text_content("[data-announce]"), "a screen reader is told"
    page.wait_for_selector(f"{CARD} [data-table=timeline] [data-state=unhealthy]")

    redis.start()
    visitor.state("Healthy")
    page.wait_for_selector(f"{CARD} [data-server]")
    assert not page.is_visible(f"{CARD} [data-fault]")
    assert page.evaluate("window.notReloaded")


def test_the_page_can_be_opened_while_redis_is_down(serve, visit, redis):
    site = serve("uvicorn")
    visitor = visit(site)
    page = visitor.open()
    redis.kill()
    visitor.state("Unhealthy")
    page.reload()
    assert "Unhealthy" in page.text_content(f"{CARD} [data-state-label]"), "before any script has run"
    visitor.wait_until_live()
    assert page.is_visible(f"{CARD} [data-fault]")


def test_every_worker_is_in_the_table_and_its_charts_can_be_chosen(serve, visit):
    site = serve("uvicorn", workers=2)
    visitor = visit(site)
    with Traffic(site):
        page = visitor.open()
        wait_until(page, TWO_WORKERS, timeout=20_000)
        wait_until(page, "document.querySelector('[data-worker]').options.length === 3")
        worker = page.evaluate("document.querySelector('[data-worker]').options[1].value")
        page.select_option("[data-worker]", worker)
        wait_until(page, "/[1-9]/.test(document.querySelector('[data-line=ops] b').textContent)", timeout=20_000)
    roles = page.locator("[data-table=workers] tbody th small").all_text_contents()
    assert set(roles) == {"server: uvicorn"}


LISTEN = """
window.told = [];
const place = document.querySelector("[data-announce]");
new MutationObserver(() => window.told.push(place.textContent)).observe(place, {childList: true});
window.counted = new Set();
const shown = document.querySelector("[data-connection-text]");
new MutationObserver(() => window.counted.add(shown.textContent)).observe(shown, {childList: true});
"""


def test_a_site_that_stops_is_told_once_and_so_is_that_it_is_back(serve, visit):
    # In Chinese the seconds stand near the beginning of the sentence.
    site = serve("uvicorn", LANGUAGE_CODE="zh-hans")
    visitor = visit(site)
    visitor.expected = (
        "net::ERR_CONNECTION_REFUSED",
        "net::ERR_INCOMPLETE_CHUNKED_ENCODING",
        "net::ERR_EMPTY_RESPONSE",
    )
    page = visitor.open()
    strings = json.loads(page.get_attribute(".redispool", "data-strings"))
    lost = re.escape(strings["reconnecting"]).replace(r"%\(n\)s", r"\d+")
    page.evaluate(LISTEN)
    site.stop()
    page.wait_for_selector("[data-connection=reconnecting]", timeout=15_000)
    assert re.fullmatch(lost, page.text_content("[data-connection-text]"))
    wait_until(page, "window.counted.size > 1", timeout=20_000)
    assert [bool(re.fullmatch(lost, text)) for text in page.evaluate("window.told")] == [True]
    site.start()
    page.wait_for_selector("[data-connection=live]", timeout=40_000)
    assert page.evaluate("window.told")[1] == strings["back"]


def test_a_session_that_ended_is_told(serve, visit):
    site = serve("gunicorn")
    visitor = visit(site)
    page = visitor.open()
    visitor.context.clear_cookies()
    page.wait_for_selector("[data-connection=signed_out]", timeout=15_000)
    assert "log in again" in page.text_content("[data-connection-text]")


def test_a_permission_that_was_withdrawn_is_told_as_such(serve, visit, tmp_path):
    site = serve("gunicorn")
    visitor = visit(site)
    visitor.expected = ("403 (Forbidden)",)
    page = visitor.open("viewer")
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute("DELETE FROM auth_user_user_permissions")
    page.wait_for_selector("[data-connection=forbidden]", timeout=15_000)
    assert "permission was withdrawn" in page.text_content("[data-connection-text]")
    assert "permission was withdrawn" in page.text_content("[data-announce]")


def test_a_hidden_tab_asks_for_nothing(site, visit):
    visitor = visit(site)
    page = visitor.open()
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_selector("[data-connection=hidden]")
    before = len(visitor.requested)
    page.wait_for_timeout(2500)
    assert len(visitor.requested) == before
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_selector("[data-connection=live]")
    assert len(visitor.requested) > before


def test_without_permissions_there_is_no_button_and_the_server_refuses_the_form(site, visit):
    visitor = visit(site)
    visitor.expected = ("403 (Forbidden)",)
    page = visitor.open("viewer")
    assert page.locator(".redispool-actions").count() == 0
    status = page.evaluate(
        """async () => {
            const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
            const body = new URLSearchParams({csrfmiddlewaretoken: token});
            return (await fetch("default/reset/", {method: "POST", body: body})).status;
        }"""
    )
    assert status == 403


def test_a_reset_by_keyboard_alone(site, visit):
    page = visit(site).open("operator")
    before = number_of(page, "pool.connections_closed_total")
    page.focus("summary:has-text('Reset')")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Reset this worker"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus can be seen"
    page.keyboard.press("Enter")
    page.wait_for_selector(".messagelist .success")
    assert "was reset, and Redis answers" in page.text_content(".messagelist")
    wait_for_number_above(page, "pool.connections_closed_total", before)
    assert page.locator("button[formaction]").count() == 0, "orders to all workers take a permission of their own"


def test_a_pause_shows_counts_down_and_ends_with_resume(serve, visit, redis):
    # Sessions in the database: those in Redis would wait as everybody does.
    site = serve("uvicorn", SESSIONS="db")
    visitor = visit(site)
    page = visitor.open()
    page.click("summary:has-text('Pause')")
    page.fill("[name=seconds]", "60")
    page.click("text=Pause this worker")
    visitor.state("Paused")
    eventually(lambda: re.search(r"at most [3-6]\d s more", page.text_content("[data-paused]")))
    page.click("summary:has-text('Pause')")
    page.click("text=Resume this worker")
    visitor.state("Healthy")


def test_both_colour_schemes_and_the_admin_s_own_switch(site, visit):
    visitor = visit(site, color_scheme="light")
    page = visitor.open()
    assert background(page) == "rgb(255, 255, 255)"
    light = line_colour(page)
    page.emulate_media(color_scheme="dark")
    wait_until(page, "getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)'")
    assert line_colour(page) != light
    page.click(".theme-toggle")  # from "auto" to the other than the system's
    wait_until(page, "document.documentElement.dataset.theme === 'light'")
    assert line_colour(page) == light


def test_a_narrow_window_scrolls_only_downwards(site, visit):
    visitor = visit(site, has_touch=True)
    page = visitor.open()
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        for details in page.locator("details").all():
            details.evaluate("each => { each.open = !each.classList.contains('redispool-menu') }")
        page.wait_for_timeout(300)
        assert has_no_sideways_scroll(page), f"{width} pixels"
    page.click("summary:has-text('Pause')")
    assert has_no_sideways_scroll(page)
    box = page.locator(".redispool-menu-body").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320


@pytest.mark.parametrize(("language", "word"), [("de", "In Ordnung"), ("zh-hans", "正常")])
def test_the_page_and_its_script_speak_the_site_s_language(serve, visit, language, word):
    site = serve("uvicorn", LANGUAGE_CODE=language)
    visitor = visit(site)
    page = visitor.open()
    visitor.state(word)
    strings = json.loads(page.get_attribute(".redispool", "data-strings"))
    assert page.text_content("[data-connection-text]") == strings["live"]


def test_lists_are_tables_with_captions_and_headings_descend_in_order(site, visit):
    page = visit(site).open()
    assert page.evaluate(
        "Array.from(document.querySelectorAll('.redispool table')).every("
        "each => each.caption || each.closest('details'))"
    )
    levels = page.evaluate(
        "Array.from(document.querySelectorAll('#content :is(h1, h2, h3)'), each => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.locator("[aria-live=polite]").count() == 1


def line_colour(page):
    return page.evaluate(
        "getComputedStyle(document.querySelector('.redispool-line-1 .redispool-swatch')).backgroundColor"
    )


def pictures_of_the_documentation(serve, visit, redis):
    with redis.client() as client:
        client.config_set("slowlog-log-slower-than", 2000)
    site = serve("uvicorn", workers=2)
    visitor = visit(site, color_scheme="light")
    pictures = ROOT / "docs"
    with Traffic(site):
        page = visitor.open()
        wait_until(page, TWO_WORKERS, timeout=20_000)
        page.wait_for_timeout(60_000)
        page.set_viewport_size({"width": 1280, "height": 1080})
        page.screenshot(path=pictures / "status-page.png")
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(500)
        page.screenshot(path=pictures / "status-page-dark.png")
        page.emulate_media(color_scheme="light")
        redis.kill()
        visitor.state("Unhealthy")
        page.wait_for_timeout(4000)
        page.screenshot(path=pictures / "status-page-outage.png", clip={"x": 0, "y": 0, "width": 1280, "height": 560})
        redis.start()
        visitor.state("Healthy")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        page.screenshot(path=pictures / "status-page-narrow.png")


if os.environ.get("SCREENSHOTS"):
    # No test, and not one that is skipped: ``make screenshots`` asks for it.
    test_the_pictures_of_the_documentation = pictures_of_the_documentation
