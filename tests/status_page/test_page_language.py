"""Whoever reads the status page reads one language: what the app says is translated, at first and while it is live."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient
from django.utils import translation

from redispool_app.introspection import client_list
from redispool_app.status_page import stream
from tests.support import admin_pages
from tests.support.admin_pages import PAGE, Page, client_of
from tests.support.servers import eventually
from tests.support.workers import ids

GERMAN_ALONE = "Das Veröffentlichen ist abgeschaltet (PUBLISH_INTERVAL). Nur dieser Prozess wird gezeigt."

pytestmark = pytest.mark.django_db

no_receiver_that_waits = admin_pages.no_receiver_that_waits


@pytest.fixture
def by_header(settings):
    """The site follows ``Accept-Language``."""
    middleware = list(settings.MIDDLEWARE)
    middleware.insert(1, "django.middleware.locale.LocaleMiddleware")
    settings.MIDDLEWARE = middleware
    yield
    translation.deactivate()  # the middleware leaves that to the next request


@pytest.mark.parametrize(("header", "word"), [("de", "✓ In Ordnung"), ("zh-hans", "✓ 正常"), ("en", "✓ Healthy")])
def test_the_page_is_served_in_the_reader_s_language(manager, by_header, header, word):
    page = Page(client_of("view_redispool").get(PAGE, headers={"Accept-Language": header}))
    assert word in page.text
    assert page.find("html", lang="zh-hans" if header.startswith("zh") else header)


def test_readers_of_two_languages_share_one_question_to_the_server(manager, by_header, monkeypatch):
    monkeypatch.setattr("redispool_app.status_page.document._FRESH", 60.0)
    client = client_of("view_redispool")

    def problem(language):
        answer = client.get(f"{PAGE}live/", headers={"Accept-Language": language}).json()
        return answer["pools"]["default"]["workers_problem"]

    english = "Publishing is switched off (PUBLISH_INTERVAL). Only this process is shown."
    assert [problem(language) for language in ("de", "en", "de")] == [GERMAN_ALONE, english, GERMAN_ALONE]


@pytest.mark.django_db(transaction=True)
def test_a_stream_speaks_the_language_of_the_request_that_opened_it(manager, by_header, monkeypatch):
    monkeypatch.setattr(stream, "STREAM_LIFE", 0.2)
    monkeypatch.setattr(stream, "INTERVAL", 0.05)
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_redispool"))

    async def read():
        client = AsyncClient()
        await sync_to_async(client.force_login)(user)
        response = await client.get(f"{PAGE}stream/", headers={"Accept-Language": "de"})
        return "".join([chunk.decode() async for chunk in response.streaming_content])

    assert json.dumps(GERMAN_ALONE) in asyncio.run(read())


# Nothing is forgotten.

_VOID = {"br", "img", "input", "link", "meta"}


class Texts(HTMLParser):
    """The texts of the page's own part, without code and without what INFO says."""

    def __init__(self, response) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag, attrs):
        if tag not in _VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not any(attrs.get("id") == "content-main" for _, attrs in self._open):
            return
        if any(tag == "code" or "data-info" in attrs for tag, attrs in self._open):
            return
        self.found.append(" ".join(data.split()))


def unmarked(response):
    """What reads like words of ours although no translation has been asked for."""
    found = []
    for text in Texts(response).found:
        rest = text
        while rest != (rest := re.sub("⟦[^⟦⟧]*⟧", "", rest)):
            pass
        if re.search("[A-Za-z]{2,} [A-Za-z]{2,}", rest):
            found.append(text)
    return found


@pytest.fixture
def marked(monkeypatch):
    """Whatever goes through gettext stands in brackets."""
    trans = translation._trans
    monkeypatch.setattr(trans, "gettext", lambda message: f"⟦{message}⟧")
    monkeypatch.setattr(trans, "pgettext", lambda context, message: f"⟦{message}⟧")
    monkeypatch.setattr(trans, "ngettext", lambda one, many, number: f"⟦{one if number == 1 else many}⟧")


@pytest.fixture
def viewer():
    return client_of(is_superuser=True)


def test_a_sentence_that_nobody_marked_would_be_found(manager, viewer, marked, monkeypatch):
    assert unmarked(viewer.get(PAGE)) == []
    monkeypatch.setattr("redispool_app.workers.roster._alone", lambda reason: "Only this process is shown.")
    assert unmarked(viewer.get(PAGE)) == ["Only this process is shown."]


def test_every_sentence_is_marked_with_foreign_clients_and_a_server_that_has_too_many(
    server, pool_settings, viewer, marked, monkeypatch
):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=0.1)
    manager.get_sync_client().ping()
    eventually(lambda: ids(manager))
    with server.client() as client:
        client.client_setname("sidekiq")
        response = viewer.get(PAGE)
        assert "sidekiq" in " ".join(Texts(response).found)
        assert unmarked(response) == []
    monkeypatch.setattr(client_list, "LISTED_AT_MOST", 0)
    pool_settings(server.url, PUBLISH_INTERVAL=0.2)
    response = viewer.get(PAGE)
    assert "too many to ask" in " ".join(Texts(response).found)
    assert unmarked(response) == []


def test_every_sentence_is_marked_while_the_pool_is_paused_or_closed(manager, viewer, marked):
    manager.get_sync_client().ping()
    manager.pause(20)
    assert unmarked(viewer.get(PAGE)) == []
    manager.resume()
    manager.close_sync()
    assert unmarked(viewer.get(PAGE)) == []


def test_in_an_outage_only_what_the_engine_says_of_the_fault_is_not_marked(own_server, pool_settings, viewer, marked):
    manager = pool_settings(own_server.url)
    manager.get_sync_client().ping()
    own_server.kill()
    manager._health_check_sync()
    assert set(unmarked(viewer.get(PAGE))) == {manager.get_pool_info()["fault"]}


def test_every_sentence_is_marked_for_a_user_who_may_ask_little(own_server, pool_settings, viewer, marked):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+ping", "+info", "+client|setinfo")
    manager = pool_settings(own_server.url, USERNAME="bob", PASSWORD="secret")
    manager.get_sync_client().ping()
    response = viewer.get(PAGE)
    assert "Lacking: +slowlog" in " ".join(Texts(response).found)
    said = set(unmarked(response)) - {manager.get_pool_info()["last_error"]}
    assert [text for text in said if "denies this user" not in text] == []
