"""The metrics for Prometheus: in any registry, as a view, each number that of the pool at the moment of the scrape."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from django.urls import include, path, reverse
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from redispool_app.metrics import multiprocess
from redispool_app.metrics.collect import PoolReading
from redispool_app.metrics.definitions import METRICS
from redispool_app.metrics.prometheus import PoolCollector, register, scrape
from redispool_app.metrics.views import metrics
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.asgi_client import AsgiClient
from tests.support.scrapes import families, samples, value

METRICS_URL = "/redis/metrics/"
TOKEN = "token-of-the-test"


def scraped():
    return scrape()[0].decode()


def test_a_scrape_shows_what_the_pool_has_counted(manager):
    client = manager.get_sync_client()
    for _ in range(5):
        client.set("k", "v")
    text = scraped()
    info = manager.get_pool_info()
    assert value(text, "redispool_commands_total") == info["commands_total"] >= 5
    assert value(text, "redispool_sent_bytes_total") == info["bytes_sent_total"]
    assert value(text, "db_client_connection_count", db_client_connection_state="used") == 1
    assert value(text, "db_client_connection_count", db_client_connection_state="idle") == 0
    assert value(text, "db_client_connection_max") == info["connections_max"]
    assert value(text, "redispool_state", redispool_state="healthy") == 1
    assert value(text, "redispool_state", redispool_state="unhealthy") == 0
    assert value(text, "redispool_paused") == 0


def test_collecting_twice_counts_nothing_twice(manager):
    manager.get_sync_client().set("k", "v")
    first = scraped()
    for name in ("redispool_commands_total", "db_client_connection_create_time_seconds_count"):
        assert value(first, name) == value(scraped(), name) >= 1


def test_a_borrowed_connection_is_used_until_it_is_given_back(manager):
    client = manager.get_sync_client()
    client.ping()
    pool = client.connection_pool
    connection = pool.get_connection()
    assert value(scraped(), "db_client_connection_count", db_client_connection_state="used") == 2
    pool.release(connection)
    text = scraped()
    assert value(text, "db_client_connection_count", db_client_connection_state="used") == 1
    assert value(text, "db_client_connection_count", db_client_connection_state="idle") == 1
    assert value(text, "db_client_connection_use_time_seconds_count") == 1


def test_operations_are_counted_in_ranges_that_grow_and_end_with_all_of_them(manager):
    client = manager.get_sync_client()
    for _ in range(50):
        client.get("k")
    text = scraped()
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in families(text)["db_client_operation_duration_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert [bound for bound, _ in buckets] == sorted(bound for bound, _ in buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[-1][0] == math.inf
    assert 15 <= len(buckets) <= 25
    assert buckets[-1][1] == value(text, "db_client_operation_duration_seconds_count")
    assert buckets[-1][1] == manager.get_pool_info()["commands_total"] >= 50
    assert value(text, "db_client_operation_duration_seconds_count", db_system_name="redis") >= 50
    assert 0 < value(text, "db_client_operation_duration_seconds_sum") < 50


def counts(manager):
    """What is said to be one number under three names."""
    text = scraped()
    return {
        manager.get_pool_info()["commands_total"],
        value(text, "redispool_commands_total"),
        value(text, "db_client_operation_duration_seconds_count"),
    }


@pytest.mark.parametrize("transaction", [False, True], ids=["plain", "multi"])
@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_pipeline_is_one_operation(manager, face, transaction):
    async def by_loop():
        client = await manager.get_client()
        await client.ping()
        (before,) = counts(manager)
        pipeline = client.pipeline(transaction=transaction)
        for _ in range(10):
            pipeline.get("k")
        assert await pipeline.execute() == [None] * 10
        return before

    def by_thread():
        client = manager.get_sync_client()
        client.ping()
        (before,) = counts(manager)
        pipeline = client.pipeline(transaction=transaction)
        for _ in range(10):
            pipeline.get("k")
        assert pipeline.execute() == [None] * 10
        return before

    before = asyncio.run(by_loop()) if face == "async" else by_thread()
    assert counts(manager) == {before + 1}


def test_where_nothing_is_shared_nothing_is_counted(server, pool_settings):
    manager = pool_settings(server.url, MAX_CONNECTIONS=1)
    client = manager.get_sync_client()
    for _ in range(5):
        client.get("k")
    assert counts(manager) == {0}
    assert value(scraped(), "db_client_connection_use_time_seconds_count") >= 5


def test_operations_are_told_apart_by_the_number_of_the_database(server, pools):
    pools(default={"CONNECTION_URL": f"redis://{server.where}/3"}, sessions={"CONNECTION_URL": server.url})
    text = scraped()
    name = "db_client_operation_duration_seconds_count"
    assert list(samples(text, name, redispool_alias="default", db_namespace="3")) != []
    assert list(samples(text, name, redispool_alias="sessions", db_namespace="0")) != []


def test_every_pool_is_there_under_its_own_name_and_its_alias(server, pools):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    text = scraped()
    assert len(samples(text, "redispool_commands_total")) == 2
    (name,) = samples(text, "redispool_commands_total", redispool_alias="sessions")
    assert name.endswith(f"{socket.gethostname()}:{os.getpid()}:sessions")


def test_the_name_of_a_pool_is_that_of_its_connections_at_the_server(server, manager):
    manager.get_sync_client().ping()
    (name,) = samples(scraped(), "redispool_commands_total")
    with server.client() as client:
        assert name in [each["name"] for each in client.client_list()]


def test_an_outage_is_a_state_and_the_scrape_does_not_wait_for_it(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    own_server.kill()
    manager._health_check_sync()
    text = scraped()
    assert value(text, "redispool_state", redispool_state="unhealthy") == 1
    assert value(text, "redispool_errors_total") >= 1


def test_a_scrape_asks_redis_nothing(server, manager):
    before = server.connections(), server.calls("ping")
    scraped()
    assert (server.connections(), server.calls("ping")) == before


@pytest.mark.parametrize("wrong", [{"MAX_CONECTIONS": 3}, {"not an alias": {}}, 5])
def test_wrong_settings_are_a_state_not_an_error(pool_settings, settings, wrong):
    pool_settings("redis://unused")
    settings.REDIS_POOL = wrong
    text = scraped()
    assert value(text, "redispool_state", redispool_state="misconfigured") == 1
    assert samples(text, "redispool_commands_total") == {}


def test_a_closed_pool_is_closed_in_the_scrape(manager):
    manager.get_sync_client().ping()
    manager.close_sync()
    assert value(scraped(), "redispool_state", redispool_state="closed") == 1


# Registries.


def test_the_default_registry_has_the_metrics_since_django_started(manager):
    text = generate_latest(REGISTRY).decode()
    assert value(text, "redispool_state", redispool_state="unknown") == 1
    assert "python_info" in text


def test_a_registry_of_one_s_own_takes_the_collector(manager):
    registry = CollectorRegistry()
    registry.register(PoolCollector())
    assert "redispool_commands_total" in generate_latest(registry).decode()


def test_registering_builds_no_pool(pool_settings):
    pool_settings("redis://unused")
    register(CollectorRegistry(auto_describe=True))
    assert RedisConnectionManager()._pool_set is None


def test_both_text_formats_can_be_asked_for(manager):
    body, content_type = scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert scrape()[1].startswith("text/plain")


# The view.


@pytest.fixture(params=[Client, AsgiClient], ids=["wsgi", "asgi"])
def visitor(request):
    return request.param()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_and_without_a_login_nothing_is_told(visitor, manager, monkeypatch):
    monkeypatch.delenv("REDISPOOL_METRICS_TOKEN", raising=False)
    for headers in ({}, bearer(""), bearer("None"), bearer("x")):
        response = visitor.get(METRICS_URL, headers=headers)
        assert response.status_code == 403
        assert b"redispool_commands" not in response.content
    assert b"REDISPOOL_METRICS_TOKEN" in response.content, "the cure is named"


def test_the_token_opens_the_metrics(visitor, manager, monkeypatch):
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    response = visitor.get(METRICS_URL, headers=bearer(TOKEN))
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    assert "no-store" in response["Cache-Control"]
    assert value(response.content.decode(), "redispool_state", redispool_state="unknown") == 1


@pytest.mark.parametrize("shown", ["wrong", TOKEN + "x", TOKEN[:-1], "", "ü"])
def test_any_other_token_is_told_that_one_is_required(visitor, manager, monkeypatch, shown):
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    response = visitor.get(METRICS_URL, headers=bearer(shown))
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert TOKEN.encode() not in response.content


def test_the_token_goes_by_no_other_scheme(visitor, manager, monkeypatch):
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    for header in (TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}"):
        assert visitor.get(METRICS_URL, headers={"Authorization": header}).status_code == 401


def test_the_project_may_name_the_token_in_its_urls(manager, monkeypatch):
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", "another")
    with override_settings(ROOT_URLCONF=UrlsWithToken):
        assert Client().get("/scrape/", headers=bearer(TOKEN)).status_code == 200
        assert Client().get("/scrape/", headers=bearer("another")).status_code == 401


class UrlsWithToken:
    urlpatterns = [path("scrape/", metrics, {"token": TOKEN}), path("redis/", include("redispool_app.urls"))]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("codenames", "flags", "status"),
    [
        ([], {"is_staff": True}, 403),
        (["view_redispool"], {}, 403),
        (["view_redispool"], {"is_staff": True}, 200),
    ],
)
def test_staff_with_the_permission_may_look_without_a_token(visitor, manager, monkeypatch, codenames, flags, status):
    monkeypatch.delenv("REDISPOOL_METRICS_TOKEN", raising=False)
    user = User.objects.create_user("ada", **flags)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    visitor.force_login(user)
    assert visitor.get(METRICS_URL).status_code == status


def test_without_the_extra_the_answer_names_the_cure(visitor, manager, monkeypatch):
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", TOKEN)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "redispool_app.metrics.prometheus")
    response = visitor.get(METRICS_URL, headers=bearer(TOKEN))
    assert response.status_code == 404
    assert b'pip install "django-redispool-app[prometheus]"' in response.content


def test_django_starts_without_the_extra():
    source = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
import django
django.setup()
from django.urls import reverse
assert reverse("redispool_app:metrics")
assert "redispool_app.metrics.prometheus" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_scrape_names_no_secret(server, pool_settings, monkeypatch):
    pool_settings(server.url, PASSWORD="s3cr3t-of-the-test", CLIENT_NAME="shop")
    assert "s3cr3t" not in scraped()


def test_a_label_cannot_break_the_format(monkeypatch):
    name = 'a"b\\c\nd'
    monkeypatch.setattr(
        multiprocess, "take", lambda: [PoolReading(name=name, alias="x", numbers={"commands_total": 3})]
    )
    text = scraped()
    assert len(families(text)) == len(METRICS)
    assert samples(text, "redispool_commands_total") == {name: 3}


def test_the_view_has_a_name():
    assert reverse("redispool_app:metrics") == METRICS_URL
