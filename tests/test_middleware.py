"""request.redis, request.aredis(), an outage as 503, and the Server-Timing header."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client
from django.urls import path
from redis import exceptions as redis_exceptions

from redispool_app import middleware
from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.health.faults import Fault, FaultKind
from redispool_app.engine.stats.request_timing import current_timing
from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable
from redispool_app.middleware import RedisPoolMiddleware

from .support.servers import free_port

pytestmark = pytest.mark.urls(__name__)

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
raised: list[Exception] = []


def quiet(request):
    return HttpResponse("quiet")


def write_and_read(request, key):
    request.redis.set(key, f"value of {key}")
    return HttpResponse(request.redis.get(key))


async def write_and_read_async(request, key):
    client = await request.aredis()
    await client.set(key, f"value of {key}")
    return HttpResponse(await client.get(key))


def many(request, count):
    for _ in range(count):
        request.redis.get("key")
    return JsonResponse({"count": count})


async def many_async(request, count):
    client = await request.aredis()
    for _ in range(count):
        await client.get("key")
    return JsonResponse({"count": count})


def batch(request):
    pipeline = request.redis.pipeline()
    pipeline.set("a", 1).set("b", 2).get("a").execute()
    response = HttpResponse()
    response.headers["Server-Timing"] = "db;dur=5"
    return response


def fail(request):
    raise raised[0]


async def fail_async(request):
    raise raised[0]


def fail_while_rendering(request):
    return TemplateResponse(request, "page.html", {"read": lambda: request.redis.get("key")})


async def identify(request):
    first, second = await request.aredis(), await request.aredis()
    return JsonResponse({"async": isinstance(first, AsyncRedis), "same": first is second, "id": id(first)})


urlpatterns = [
    path("quiet/", quiet),
    path("sync/<key>/", write_and_read),
    path("async/<key>/", write_and_read_async),
    path("many/<int:count>/", many),
    path("many-async/<int:count>/", many_async),
    path("batch/", batch),
    path("fail/", fail),
    path("fail-async/", fail_async),
    path("render/", fail_while_rendering),
    path("identify/", identify),
]


def set_templates(settings, pages, context_processors=()):
    loaders = [("django.template.loaders.locmem.Loader", pages)]
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": loaders, "context_processors": list(context_processors)},
        }
    ]


def needs_redis(request):
    return {"visits": request.redis.get("visits")}


@pytest.fixture
def outage(pool_settings):
    """REDIS_POOL names a port where nothing listens."""
    port = free_port()
    manager = pool_settings(f"redis://:secret-word@127.0.0.1:{port}/0")
    manager.port = port
    yield manager
    del manager.port


# The clients.


def test_a_sync_view_talks_to_redis_through_request_redis(manager, server):
    assert Client().get("/sync/apple/").content == b"value of apple"
    with server.client() as client:
        assert client.get("apple") == b"value of apple"


async def test_an_async_view_talks_to_redis_through_request_aredis(manager):
    assert (await AsyncClient().get("/async/pear/")).content == b"value of pear"


async def test_a_sync_view_under_asgi_talks_to_redis_through_request_redis(manager):
    assert (await AsyncClient().get("/sync/plum/")).content == b"value of plum"


def test_an_async_view_under_wsgi_talks_to_redis_through_request_aredis(manager):
    assert Client().get("/async/fig/").content == b"value of fig"


async def test_aredis_is_the_managers_client_of_the_running_loop(manager):
    answer = (await AsyncClient().get("/identify/")).json()
    assert answer == {"async": True, "same": True, "id": id(manager._pool)}


def test_request_redis_passes_for_the_managers_sync_client(manager, rf):
    request = rf.get("/")
    RedisPoolMiddleware(quiet)(request)
    request.redis["key"] = "value"
    assert isinstance(request.redis, SyncRedis)
    assert request.redis["key"] == b"value"
    assert "key" in request.redis
    assert request.redis.connection_pool is manager.get_sync_client().connection_pool


def test_the_middleware_is_async_only_where_the_chain_is():
    async def get_response(request):
        return HttpResponse()

    assert iscoroutinefunction(RedisPoolMiddleware(get_response))
    assert not iscoroutinefunction(RedisPoolMiddleware(quiet))


# Requests that do not use Redis.


def test_a_request_that_does_not_touch_redis_never_waits_for_it(own_server, pool_settings):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=20, SOCKET_CONNECT_TIMEOUT=20, HEALTH_CHECK_TIMEOUT=20)
    own_server.pause()
    started = time.monotonic()
    assert Client().get("/quiet/").content == b"quiet"
    assert time.monotonic() - started < 10
    assert "unused" in repr(manager)


async def test_an_async_request_that_does_not_touch_redis_builds_nothing(outage):
    assert (await AsyncClient().get("/quiet/")).content == b"quiet"
    assert "unused" in repr(outage)


@pytest.mark.parametrize("broken", [{"CONECTION_URL": "x"}, "redis://localhost", {"other": {}}, 7])
def test_settings_that_are_wrong_do_not_break_requests_that_do_not_use_redis(settings, broken):
    settings.REDIS_POOL = broken
    assert Client().get("/quiet/").status_code == 200


def test_settings_that_are_wrong_are_no_outage(settings):
    settings.REDIS_POOL = {"CONECTION_URL": "redis://localhost"}
    with pytest.raises(ImproperlyConfigured, match="CONNECTION_URL"):
        Client().get("/sync/key/")


def test_the_settings_are_parsed_once_for_many_requests_and_again_when_they_change(manager, settings, monkeypatch):
    parsed = []
    original = middleware.get_config
    monkeypatch.setattr(middleware, "get_config", lambda alias: parsed.append(alias) or original(alias))
    client = Client()
    for _ in range(5):
        client.get("/quiet/")
    assert parsed == ["default"]
    settings.REDIS_POOL = dict(settings.REDIS_POOL)
    for _ in range(5):
        client.get("/quiet/")
    assert parsed == ["default", "default"]


# An outage.


@pytest.mark.parametrize("view", ["/sync/key/", "/async/key/", "/many/2/", "/render/"])
@pytest.mark.parametrize("protocol", ["wsgi", "asgi"])
def test_an_outage_is_answered_with_503(outage, settings, view, protocol):
    set_templates(settings, {"page.html": "{{ read }}"})
    response = Client().get(view) if protocol == "wsgi" else asyncio.run(AsyncClient().get(view))
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert set(body) == {"detail", "retry_after"}
    assert body["retry_after"] == int(response.headers["Retry-After"])


@pytest.mark.parametrize("accept", ["*/*", BROWSER, "image/png"])
def test_the_answer_says_nothing_about_the_cause(outage, accept):
    response = Client().get("/sync/key/", headers={"accept": accept})
    text = f"{response.content.decode()} {response.headers}".lower()
    for word in ("redis", "127.0.0.1", str(outage.port), "refused", "listens", "secret-word"):
        assert word not in text


def test_a_view_that_holds_a_client_when_redis_stops_answering_gets_503_too(own_server, pool_settings, caplog):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=0.2)
    client = Client()
    assert client.get("/sync/key/").status_code == 200
    own_server.pause()
    # Fresh enough not to be checked: the first to notice is the view's own command.
    assert client.get("/sync/key/").status_code == 503
    assert manager.get_pool_info()["last_error_kind"] == "timeout"
    # The health check has told of it, so nobody else does.
    assert [r.name for r in caplog.records if r.levelno >= logging.WARNING] == ["redispool_app.health"]


def test_a_pool_without_a_free_connection_is_503(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1, TIMEOUT=0.05)
    pool = manager.get_sync_client().connection_pool
    connection = pool.get_connection()
    try:
        assert Client().get("/sync/key/").status_code == 503
    finally:
        pool.release(connection)
    assert Client().get("/sync/key/").status_code == 200


OUTAGES = [
    RedisUnavailable("down"),
    PoolTimeout("none free"),
    PoolQueueFull("queue full"),
    PoolClosed("closed"),
    redis_exceptions.ConnectionError("refused"),
    redis_exceptions.TimeoutError("too slow"),
    redis_exceptions.AuthenticationError("wrong password"),
    redis_exceptions.BusyLoadingError("loading"),
]
NO_OUTAGES = [
    redis_exceptions.ResponseError("WRONGTYPE"),
    redis_exceptions.LockError("not owned"),
    redis_exceptions.WatchError("changed"),
    redis_exceptions.DataError("no bytes"),
    ImproperlyConfigured("unknown key"),
    ValueError("the view's own"),
    ConnectionError("another service's"),
    TimeoutError("the view's own"),
]


def _name(error):
    return type(error).__module__ + "." + type(error).__name__


@pytest.mark.parametrize("view", ["/fail/", "/fail-async/"])
@pytest.mark.parametrize("error", OUTAGES, ids=_name)
def test_every_exception_that_means_an_outage_is_503(manager, view, error):
    raised[:] = [error]
    assert Client().get(view).status_code == 503


@pytest.mark.parametrize("view", ["/fail/", "/fail-async/"])
@pytest.mark.parametrize("error", NO_OUTAGES, ids=_name)
def test_every_other_exception_stays_what_it_is(manager, view, error):
    raised[:] = [error]
    with pytest.raises(type(error)) as caught:
        Client().get(view)
    assert caught.value is error


@pytest.mark.parametrize(("seconds", "header"), [(7.2, "8"), (0.0, "1"), (0.004, "1"), (3, "3")])
def test_retry_after_is_what_the_exception_says_in_whole_seconds(manager, seconds, header):
    raised[:] = [RedisUnavailable("down", retry_after=seconds)]
    assert Client().get("/fail/").headers["Retry-After"] == header


def test_retry_after_is_the_managers_when_the_exception_has_none(manager):
    raised[:] = [redis_exceptions.TimeoutError("too slow")]
    manager.get_sync_client()
    assert Client().get("/fail/").headers["Retry-After"] == "1"
    manager._health.failed(Fault(FaultKind.TIMEOUT, "too slow"))
    manager._health.advance(lambda now: replace(now, next_probe=time.monotonic() + 300))
    assert 200 < int(Client().get("/fail/").headers["Retry-After"]) <= 300


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json;q=0.5, text/html", "text/html; charset=utf-8"),
        (BROWSER, "text/html; charset=utf-8"),
        ("image/png", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
    ],
)
def test_the_client_gets_the_kind_of_body_it_asks_for(outage, settings, accept, content_type):
    set_templates(settings, {})
    response = Client().get("/sync/key/", headers={"accept": accept})
    assert response.headers["Content-Type"] == content_type
    if "json" in content_type:
        assert json.loads(response.content)["detail"]
    else:
        assert b"temporarily unavailable" in response.content


def test_the_page_needs_nothing_that_a_content_security_policy_forbids(outage, settings):
    set_templates(settings, {})
    page = Client().get("/sync/key/", headers={"accept": BROWSER}).content.decode()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"<script|<style|style=|\son\w+=|src=|href=", page)


def test_a_project_brings_its_own_page_as_503_html(outage, settings):
    set_templates(settings, {"503.html": "<p>Back in {{ retry_after }} s"}, [f"{__name__}.needs_redis"])
    response = Client().get("/sync/key/", headers={"accept": BROWSER})
    # A context processor that needs Redis, as one that reads the session may, does not spoil it.
    assert response.status_code == 503
    assert response.content.decode() == f"<p>Back in {response.headers['Retry-After']} s"


def test_an_outage_is_logged_once_however_many_requests_it_fails(outage, caplog):
    caplog.set_level(logging.DEBUG)
    client = Client()
    for _ in range(20):
        assert client.get("/sync/key/").status_code == 503
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in loud] == ["redispool_app.health"]
    quiet_lines = [record for record in caplog.records if record.name == "redispool_app.request"]
    assert len(quiet_lines) == 20
    assert "secret-word" not in caplog.text


def test_trouble_the_health_check_does_not_see_is_logged_once_a_minute(manager, caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(middleware, "monotonic", lambda: now)
    client = Client()
    raised[:] = [PoolTimeout("No Redis connection became free")]

    def warnings():
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    for _ in range(5):
        client.get("/fail/")
    assert warnings() == ["Answered /fail/ with 503: PoolTimeout: No Redis connection became free"]
    raised[:] = [PoolQueueFull("too many wait")]
    client.get("/fail/")
    assert len(warnings()) == 2
    now += 61
    client.get("/fail/")
    client.get("/fail/")
    assert len(warnings()) == 3


def test_a_manager_that_was_closed_is_logged_once_too(manager, caplog):
    manager.close_sync()
    client = Client()
    for _ in range(5):
        assert client.get("/sync/key/").status_code == 503
    loud = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(loud) == 1
    assert "PoolClosed" in loud[0]


# Server-Timing.


@pytest.fixture
def timed(server, pool_settings):
    return pool_settings(server.url, SERVER_TIMING=True)


def commands(response):
    """Return how many commands the header tells of."""
    found = re.fullmatch(r'redis;dur=(\d+\.\d);desc="(\d+) commands?"', response.headers["Server-Timing"])
    assert found, response.headers["Server-Timing"]
    # A single command can take less than what one decimal of a millisecond shows.
    assert float(found[1]) > 0 or found[2] == "1"
    return int(found[2])


@pytest.mark.parametrize("view", ["/many/4/", "/many-async/4/"])
@pytest.mark.parametrize("protocol", ["wsgi", "asgi"])
def test_server_timing_says_what_redis_cost(timed, view, protocol):
    response = Client().get(view) if protocol == "wsgi" else asyncio.run(AsyncClient().get(view))
    assert commands(response) == 4


def test_server_timing_is_added_to_a_header_that_is_there(timed):
    first, second = Client().get("/batch/").headers["Server-Timing"].split(", ")
    assert first == "db;dur=5"
    assert re.fullmatch(r'redis;dur=\d+\.\d;desc="3 commands"', second)


def test_one_command_is_called_so(timed):
    assert 'desc="1 command"' in Client().get("/many/1/").headers["Server-Timing"]


def test_a_request_without_a_command_has_no_server_timing(timed):
    assert "Server-Timing" not in Client().get("/quiet/").headers


def test_server_timing_is_off_unless_the_settings_say_so(manager, settings):
    client = Client()
    assert "Server-Timing" not in client.get("/many/1/").headers
    url = settings.REDIS_POOL["CONNECTION_URL"]
    settings.REDIS_POOL = {"CONNECTION_URL": url, "SERVER_TIMING": True}
    assert "Server-Timing" in client.get("/many/1/").headers
    settings.REDIS_POOL = {"CONNECTION_URL": url, "SERVER_TIMING": False}
    assert "Server-Timing" not in client.get("/many/1/").headers


async def test_concurrent_async_requests_do_not_count_each_others_commands(timed):
    client = AsyncClient()
    counts = list(range(1, 21))
    responses = await asyncio.gather(*(client.get(f"/many-async/{count}/") for count in counts))
    assert [commands(response) for response in responses] == counts
    assert current_timing.get() is None


def test_concurrent_threads_do_not_count_each_others_commands(timed):
    counts = list(range(1, 21))
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda count: Client().get(f"/many/{count}/"), counts))
        assert [commands(response) for response in responses] == counts
        assert list(threads.map(lambda _: current_timing.get(), range(8))) == [None] * 8


def test_a_request_that_fails_leaves_no_tally_behind(timed):
    raised[:] = [ValueError("the view's own")]
    with pytest.raises(ValueError, match="own"):
        Client().get("/fail/")
    assert current_timing.get() is None
