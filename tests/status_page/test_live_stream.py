"""How the documents reach the page: a stream under ASGI, polling under WSGI, against real servers."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client

from redispool_app.status_page import stream
from tests.support import admin_pages
from tests.support.admin_pages import PAGE, Page, client_of

LIVE = f"{PAGE}live/"
STREAM = f"{PAGE}stream/"

pytestmark = pytest.mark.django_db

no_receiver_that_waits = admin_pages.no_receiver_that_waits


@pytest.fixture
def viewer():
    return client_of("view_redispool")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(stream, "INTERVAL", 0.05)
    monkeypatch.setattr(stream, "STREAM_LIFE", 0.3)


async def events_of(response):
    text = ""
    async for chunk in response.streaming_content:
        text += chunk.decode()
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def stream_by_asgi(user):
    """Open the stream as an ASGI server would, and read it to its end."""

    async def run():
        client = AsyncClient()
        await sync_to_async(client.force_login)(user)
        response = await client.get(STREAM)
        return response, (await events_of(response) if response.streaming else [])

    return asyncio.run(run())


def person(*codenames):
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def test_polling_answers_with_all_documents(manager, viewer):
    answer = viewer.get(LIVE).json()
    assert answer["pools"]["default"]["pool"]["state"] == "healthy"
    assert "history" not in answer
    assert viewer.get(f"{LIVE}?history=1").json()["history"]["default"]


@pytest.mark.parametrize("url", [LIVE, STREAM])
def test_nobody_without_the_permission_to_view_gets_a_document(manager, url):
    assert client_of("reset_redispool").get(url).status_code == 403
    assert Client().get(url)["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("url", [LIVE, STREAM])
def test_documents_are_only_read(manager, viewer, url):
    assert viewer.post(url).status_code == 405


def test_under_wsgi_the_page_is_told_to_poll_and_no_stream_is_served(manager, viewer):
    (root,) = Page(viewer.get(PAGE)).find("div", id="content-main")
    assert (root["data-url"], root["data-stream"]) == (LIVE, "")
    assert viewer.get(STREAM).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_under_asgi_the_page_is_told_to_listen(manager):
    async def run():
        client = AsyncClient()
        await sync_to_async(client.force_login)(user)
        return await client.get(PAGE)

    user = person("view_redispool")
    (root,) = Page(asyncio.run(run())).find("div", id="content-main")
    assert root["data-stream"] == STREAM


@pytest.mark.django_db(transaction=True)
def test_a_stream_begins_with_the_history_sends_changes_and_says_goodbye(manager, quick, monkeypatch):
    monkeypatch.setattr("redispool_app.status_page.document._FRESH", 0.0)
    response, events = stream_by_asgi(person("view_redispool"))
    assert response["Content-Type"] == "text/event-stream"
    assert "no-store" in response["Cache-Control"]
    assert response["X-Accel-Buffering"] == "no"
    names = [name for name, _ in events]
    assert names[:2] == ["history", "live"]
    assert names[-1] == "bye"
    documents = [data["pools"]["default"] for name, data in events if name == "live"]
    assert len(documents) >= 2
    assert documents[0]["pool"]["state"] == "healthy"
    assert "at" in documents[1]
    assert "health_history" not in documents[1], "what has not changed is not sent again"


@pytest.mark.django_db(transaction=True)
def test_no_stream_without_the_permission(manager):
    response, _ = stream_by_asgi(person())
    assert response.status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_stream_survives_an_outage_and_tells_of_it(own_server, pool_settings, quick):
    manager = pool_settings(own_server.url)
    manager.get_sync_client().ping()
    own_server.kill()
    _, events = stream_by_asgi(person("view_redispool"))
    assert events[-1][0] == "bye"
    document = events[1][1]["pools"]["default"]
    assert document["pool"]["state"] == "unhealthy"
    assert "Nothing listens" in document["server_problem"]


@pytest.mark.django_db(transaction=True)
def test_a_server_that_is_about_to_stop_can_end_its_streams(manager, monkeypatch):
    monkeypatch.setattr(stream, "INTERVAL", 0.05)
    monkeypatch.setattr(stream, "_ending", False)
    timer = threading.Timer(0.5, stream.end_streams)
    timer.start()
    started = time.monotonic()
    _, events = stream_by_asgi(person("view_redispool"))
    timer.join()
    assert events[-1][0] == "bye"
    assert time.monotonic() - started < stream.STREAM_LIFE / 2


def test_settings_that_are_wrong_are_an_answer_too(pool_settings, settings, viewer):
    pool_settings("redis://unused")
    settings.REDIS_POOL = {"not an alias": {}}
    answer = viewer.get(LIVE).json()
    assert answer["pools"] == {}
    assert "'not an alias'" in answer["problem"]
