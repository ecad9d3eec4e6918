"""Liveness apart from readiness, and verdicts as ``application/health+json``."""

from __future__ import annotations

import datetime
import inspect
import json

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from redispool_app import __version__
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.views import probes
from tests.support.asgi_client import AsgiClient
from tests.support.servers import eventually, free_port

HEALTH, HEALTH_JSON, LIVE, READY = "/redis/health/", "/redis/health.json", "/redis/live/", "/redis/ready/"
TOKEN = "token-of-the-test"
MEDIA_TYPE = "application/health+json"
JSON = {"Accept": MEDIA_TYPE}


@pytest.fixture(params=[Client, AsgiClient], ids=["wsgi", "asgi"])
def visitor(request):
    """Somebody without a login, by either protocol."""
    return request.param()


@pytest.fixture
def details(monkeypatch):
    """The headers of somebody who may see what is behind a verdict."""
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    return {**JSON, "Authorization": f"Bearer {TOKEN}"}


# Liveness.


def test_a_process_that_answers_lives_whatever_redis_does(visitor, own_server, pool_settings):
    manager = pool_settings(own_server.url)
    own_server.kill()
    assert visitor.get(HEALTH).status_code == 503
    response = visitor.get(LIVE)
    assert (response.status_code, response.content) == (200, b"ok")
    assert "no-store" in response["Cache-Control"]
    manager.close_sync()
    assert visitor.get(LIVE).status_code == 200


def test_liveness_touches_no_pool(visitor, pool_settings):
    pool_settings("redis://unused")
    assert visitor.get(LIVE).status_code == 200
    assert RedisConnectionManager()._pool_set is None


def test_liveness_does_not_even_need_right_settings(visitor, pool_settings, settings):
    pool_settings("redis://unused")
    settings.REDIS_POOL = 5
    assert visitor.get(LIVE).status_code == 200
    assert visitor.get(READY).status_code == 503


# Readiness.


def test_a_process_is_ready_when_redis_answers_and_not_when_it_is_gone(visitor, own_server, pool_settings):
    pool_settings(own_server.url)
    assert visitor.get(READY).status_code == 200
    own_server.kill()
    assert visitor.get(HEALTH).status_code == 503
    response = visitor.get(READY)
    assert (response.status_code, response.content) == (503, b"unavailable")
    assert int(response["Retry-After"]) >= 1
    own_server.start()
    eventually(lambda: visitor.get(READY).status_code == 200)


def test_readiness_costs_a_busy_process_no_ping(visitor, server, manager):
    manager.get_sync_client().get("k")
    before = server.calls("ping")
    for _ in range(3):
        assert visitor.get(READY).status_code == 200
    assert server.calls("ping") == before


def test_readiness_of_an_idle_process_is_checked(visitor, own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_INTERVAL=0.05, RETRY_BACKOFF_CAP=30.0)
    manager.get_sync_client().get("k")
    own_server.kill()
    eventually(lambda: visitor.get(READY).status_code == 503)


def test_a_closed_pool_is_not_ready(visitor, manager):
    manager.get_sync_client().ping()
    manager.close_sync()
    assert visitor.get(READY).status_code == 503


def test_one_pool_may_be_ready_without_the_others(visitor, server, pools):
    pools(default={"CONNECTION_URL": server.url}, gone={"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}/0"})
    assert visitor.get(READY).status_code == 503
    assert visitor.get(f"{READY}default/").status_code == 200
    assert visitor.get(f"{READY}gone/").status_code == 503
    assert visitor.get(f"{READY}elsewhere/").status_code == 404


# Formats.


@pytest.mark.parametrize("path", [HEALTH, READY, LIVE])
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/plain; charset=utf-8"),
        ("image/png", "text/plain; charset=utf-8"),
        (MEDIA_TYPE, MEDIA_TYPE),
        (f"{MEDIA_TYPE}, */*;q=0.5", MEDIA_TYPE),
        ("application/json", "application/json"),
    ],
)
def test_the_client_chooses_the_format(visitor, manager, path, accept, expected):
    response = visitor.get(path, headers={"Accept": accept})
    assert (response.status_code, response["Content-Type"]) == (200, expected)
    assert "Accept" in response["Vary"]


def test_the_json_document_has_a_path_of_its_own(visitor, manager):
    response = visitor.get(HEALTH_JSON)
    assert (response.status_code, response["Content-Type"]) == (200, MEDIA_TYPE)
    assert response.json() == {"status": "pass"}


def test_to_anybody_the_document_tells_its_verdict_only(visitor, own_server, pool_settings, monkeypatch):
    monkeypatch.delenv("REDISPOOL_METRICS_TOKEN", raising=False)
    pool_settings(own_server.url)
    assert visitor.get(HEALTH, headers=JSON).json() == {"status": "pass"}
    own_server.kill()
    response = visitor.get(HEALTH, headers=JSON)
    assert (response.status_code, response.json()) == (503, {"status": "fail"})
    assert int(response["Retry-After"]) >= 1
    assert visitor.get(f"{HEALTH}elsewhere/", headers=JSON).status_code == 404


def test_with_the_token_the_document_has_a_check_for_every_pool(visitor, server, pools, details):
    gone = free_port()
    pools(default={"CONNECTION_URL": server.url}, gone={"CONNECTION_URL": f"redis://127.0.0.1:{gone}/0"})
    response = visitor.get(HEALTH, headers=details)
    document = response.json()
    assert (response.status_code, document["status"]) == (503, "fail")
    assert document["releaseId"] == __version__
    (good,), (bad,) = document["checks"]["default:responseTime"], document["checks"]["gone:responseTime"]
    assert (good["status"], good["componentType"], good["observedUnit"]) == ("pass", "datastore", "ms")
    assert 0 < good["observedValue"] < 1000
    assert "output" not in good
    assert datetime.datetime.fromisoformat(good["time"]).tzinfo is not None
    assert bad["status"] == "fail"
    assert str(gone) in bad["output"]
    assert "\n" not in bad["output"]
    (connections,) = document["checks"]["default:connections"]
    assert connections["observedValue"] >= 0


def test_a_check_that_failed_shows_no_measurement_of_an_earlier_one(visitor, own_server, pool_settings, details):
    manager = pool_settings(own_server.url)
    (check,) = visitor.get(HEALTH_JSON, headers=details).json()["checks"]["default:responseTime"]
    assert check["observedUnit"] == "ms"
    own_server.kill()
    (check,) = visitor.get(HEALTH_JSON, headers=details).json()["checks"]["default:responseTime"]
    assert manager.get_pool_info()["latency_ms"] is not None
    assert check.keys() == {"componentType", "status", "time", "output"}


def test_a_paused_pool_warns_and_is_available(visitor, manager, details):
    manager.get_sync_client().ping()
    manager.pause(60)
    try:
        answers = {path: visitor.get(path, headers=details) for path in (HEALTH, READY, HEALTH_JSON)}
    finally:
        manager.resume()
    for response in answers.values():
        assert (response.status_code, response.json()["status"]) == (200, "warn")
        (check,) = response.json()["checks"]["default:responseTime"]
        assert (check["status"], check["output"]) == ("warn", "The pool is paused: callers wait.")
    assert visitor.get(HEALTH, headers=details).json()["status"] == "pass"


def test_wrong_settings_are_named_to_those_who_may_see_them(visitor, pool_settings, settings, details):
    pool_settings("redis://unused")
    settings.REDIS_POOL = {"MAX_CONECTIONS": 3}
    response = visitor.get(HEALTH_JSON, headers=details)
    assert (response.status_code, response.json()["status"]) == (503, "fail")
    assert "MAX_CONECTIONS" in response.json()["output"]
    assert visitor.get(HEALTH_JSON).json() == {"status": "fail"}


@pytest.mark.django_db
@pytest.mark.parametrize(("codenames", "tells"), [(["view_redispool"], True), ([], False)])
def test_staff_who_may_see_the_status_see_the_checks(visitor, manager, codenames, tells):
    user = User.objects.create_user("ada", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    visitor.force_login(user)
    assert ("checks" in visitor.get(HEALTH_JSON).json()) == tells


def test_a_password_never_reaches_the_document(visitor, own_server, pool_settings, details):
    with own_server.client() as client:
        client.config_set("requirepass", "s3cr3t")
    own_server.password = "s3cr3t"
    for password in ("s3cr3t", "s3cr3t-not"):
        pool_settings(f"redis://:{password}@127.0.0.1:{own_server.port}/0")
        assert "s3cr3t" not in json.dumps(visitor.get(HEALTH_JSON, headers=details).json())


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
@pytest.mark.parametrize("path", [LIVE, READY, HEALTH_JSON, "/redis/metrics/"])
def test_other_methods_are_not_allowed(method, path, manager):
    response = getattr(Client(), method)(path)
    assert response.status_code == 405
    assert response["Allow"] == "GET, HEAD"


def test_a_login_required_everywhere_else_is_not_required_here(visitor, manager, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert [visitor.get(path).status_code for path in (LIVE, READY, HEALTH_JSON)] == [200] * 3


def test_all_views_are_coroutines_and_have_names():
    for name in ("probe", "live", "ready", "health_json"):
        assert inspect.iscoroutinefunction(getattr(probes, name))
    assert [reverse(f"redispool_app:{name}") for name in ("live", "ready", "health_json")] == [LIVE, READY, HEALTH_JSON]
    assert reverse("redispool_app:ready", args=["default"]) == f"{READY}default/"
