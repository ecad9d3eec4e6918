"""The probe for load balancers and the status as JSON, under WSGI and under ASGI, against real servers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.test import Client
from django.urls import reverse

from redispool_app.engine.runtime import process
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.views import probes
from redispool_app.views.status import status
from tests.support.asgi_client import AsgiClient
from tests.support.servers import eventually, free_port
from tests.support.worker_process import WorkerProcess

PASSWORD = "s3cr3t-of-the-test"
HEALTH = "/redis/health/"
STATUS = "/redis/status/"
SLACK = 3.0  # the machine is shared


@pytest.fixture(params=[Client, AsgiClient], ids=["wsgi", "asgi"])
def visitor(request):
    """Somebody without a login, by either protocol."""
    return request.param()


@pytest.fixture
def protected_server(own_server):
    """A server that asks for ``PASSWORD``."""
    with own_server.client() as client:
        client.config_set("requirepass", PASSWORD)
    own_server.password = PASSWORD
    return own_server


def warnings_and_errors(caplog, name):
    return [record for record in caplog.records if record.name == name and record.levelno >= logging.WARNING]


# The probe.


def test_a_server_that_answers_is_ok(visitor, manager):
    response = visitor.get(HEALTH)
    assert (response.status_code, response.content) == (200, b"ok")
    assert response["Content-Type"].startswith("text/plain")
    assert "no-store" in response["Cache-Control"]


def test_a_server_that_is_gone_is_unavailable_until_it_is_back(visitor, own_server, pool_settings):
    pool_settings(own_server.url)
    own_server.kill()
    response = visitor.get(HEALTH)
    assert (response.status_code, response.content) == (503, b"unavailable")
    assert response["Content-Type"].startswith("text/plain")
    assert "no-store" in response["Cache-Control"]
    assert int(response["Retry-After"]) >= 1
    own_server.start()
    eventually(lambda: visitor.get(HEALTH).status_code == 200)


def test_a_server_that_hangs_is_noticed_in_time_although_it_has_just_answered(visitor, own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=0.5, SOCKET_TIMEOUT=60, SOCKET_CONNECT_TIMEOUT=60)
    manager.get_sync_client().set("key", 1)
    assert visitor.get(HEALTH).status_code == 200
    own_server.pause()
    started = time.monotonic()
    assert visitor.get(HEALTH).status_code == 503
    assert time.monotonic() - started < 0.5 + SLACK
    own_server.resume()
    eventually(lambda: visitor.get(HEALTH).status_code == 200)


def test_every_probe_is_a_real_check(visitor, server, manager):
    before = server.calls("ping")
    for _ in range(3):
        visitor.get(HEALTH)
    assert server.calls("ping") - before == 3


def test_a_confirmed_outage_is_not_checked_again(visitor, own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url)
    own_server.kill()
    visitor.get(HEALTH)
    assert manager.is_down
    monkeypatch.setattr(manager, "_health_check", None)
    assert visitor.get(HEALTH).status_code == 503


def test_the_probe_waits_no_longer_than_its_timeout_for_a_check_that_does_not_end(
    visitor, server, pool_settings, monkeypatch
):
    manager = pool_settings(server.url, HEALTH_CHECK_TIMEOUT=0.2)
    monkeypatch.setattr(manager, "_health_check", lambda: asyncio.sleep(60))
    started = time.monotonic()
    assert visitor.get(HEALTH).status_code == 503
    assert time.monotonic() - started < 0.2 + SLACK


def test_a_closed_manager_is_unavailable_and_stays_closed(visitor, server, manager):
    visitor.get(HEALTH)
    manager.close_sync()
    before = server.calls("ping")
    assert visitor.get(HEALTH).status_code == 503
    assert server.calls("ping") == before
    assert manager.get_pool_info()["state"] == "closed"


def test_a_manager_closed_during_its_check_is_unavailable(visitor, manager, monkeypatch):
    check = manager._health_check

    async def check_and_close():
        healthy = await check()
        await manager.close()
        return healthy

    monkeypatch.setattr(manager, "_health_check", check_and_close)
    assert visitor.get(HEALTH).status_code == 503


def test_without_an_alias_every_pool_must_answer(visitor, server, pools):
    pools(default={"CONNECTION_URL": server.url}, gone={"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}/0"})
    assert visitor.get(HEALTH).status_code == 503
    assert visitor.get(f"{HEALTH}default/").status_code == 200
    assert visitor.get(f"{HEALTH}gone/").status_code == 503


def test_pools_are_checked_side_by_side(own_server, pools):
    slow = {"CONNECTION_URL": own_server.url, "HEALTH_CHECK_TIMEOUT": 1.5}
    pools(default=slow, second=slow, third=slow, fourth=slow)
    own_server.pause()
    started = time.monotonic()
    assert Client().get(HEALTH).status_code == 503
    assert time.monotonic() - started < 1.5 + SLACK < 4 * 1.5


def test_an_alias_that_is_not_configured_is_not_found(visitor, manager, settings):
    settings.DEBUG = True
    response = visitor.get(f"{HEALTH}elsewhere/")
    assert (response.status_code, response.content) == (404, b"not found")


@pytest.mark.parametrize("alias", ["default", "sessions"])
def test_the_path_of_an_alias_has_a_name(alias):
    assert reverse("redispool_app:probe", args=[alias]) == f"{HEALTH}{alias}/"
    assert reverse("redispool_app:probe") == HEALTH


def test_a_head_request_gets_the_status_without_a_body(manager):
    response = Client().head(HEALTH)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
@pytest.mark.parametrize("path", [HEALTH, f"{HEALTH}default/", STATUS])
def test_other_methods_are_not_allowed(method, path, manager):
    response = getattr(Client(), method)(path)
    assert response.status_code == 405
    assert response["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("user_info", [f":{PASSWORD}@", ":wrong-word@", ""])
def test_the_probe_tells_nothing_but_its_verdict(visitor, protected_server, pool_settings, user_info):
    pool_settings(f"redis://{user_info}127.0.0.1:{protected_server.port}/0")
    response = visitor.get(HEALTH)
    expected = b"ok" if PASSWORD in user_info else b"unavailable"
    assert response.content == expected
    told = str(response.headers)
    assert not [word for word in ("127.0.0.1", str(protected_server.port), "word", "default") if word in told]


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        {"MAX_CONECTIONS": 3},
        {"not an alias": {}},
        {"CONNECTION_URL": f"redis://:{PASSWORD}@host:99999"},
        {"default": {}, "other": {"TIMEOUT": "soon"}},
    ],
)
def test_wrong_settings_are_unavailable_with_one_line_in_the_log(visitor, pool_settings, settings, caplog, wrong):
    pool_settings("redis://unused")
    settings.REDIS_POOL = wrong
    response = visitor.get(HEALTH)
    assert (response.status_code, response.content) == (503, b"unavailable")
    assert int(response["Retry-After"]) >= 1
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.name == "redispool_app.probe"
    assert "REDIS_POOL" in line.getMessage()
    assert "\n" not in line.getMessage()
    assert line.exc_info is None
    assert PASSWORD not in caplog.text


def test_an_outage_is_logged_once_not_for_every_probe(own_server, pool_settings, caplog):
    pool_settings(own_server.url)
    own_server.kill()
    for _ in range(3):
        Client().get(HEALTH)
    assert len(warnings_and_errors(caplog, "redispool_app.health")) == 1
    assert not warnings_and_errors(caplog, "django.request")
    assert not warnings_and_errors(caplog, "redispool_app.probe")


def test_a_login_required_everywhere_else_is_not_required_here(visitor, manager, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert visitor.get(HEALTH).status_code == 200
    assert visitor.get(STATUS).status_code == 403


def test_both_views_are_coroutines_to_the_outside():
    assert inspect.iscoroutinefunction(probes.probe)
    assert inspect.iscoroutinefunction(status)


def test_probes_leave_no_connection_behind_under_wsgi(server, manager):
    for _ in range(20):
        assert Client().get(HEALTH).status_code == 200
    assert manager.get_pool_info()["connections_open"] == 0
    eventually(lambda: server.connections() == 0)


# The status.


@pytest.fixture
def reader(visitor, db):
    """A visitor who may see the status."""
    visitor.force_login(make_user("view_redispool", is_staff=True))
    return visitor


def make_user(*codenames, **flags):
    user = User.objects.create_user("ada", **flags)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def test_the_status_is_what_every_pool_knows_about_itself(reader, server, pools):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url, "DB": 0})
    RedisConnectionManager().get_sync_client().ping()
    response = reader.get(STATUS)
    answer = response.json()
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    assert "no-store" in response["Cache-Control"]
    assert answer.keys() == {"pid", "pools"}
    assert answer["pid"] == os.getpid()
    assert list(answer["pools"]) == ["default", "sessions"]
    assert answer["pools"]["default"]["state"] == "healthy"
    assert answer["pools"]["default"]["connections_open"] == 1
    assert answer["pools"]["sessions"]["state"] == "unknown"
    roster = {"workers", "workers_problem", "differences"}
    assert answer["pools"]["default"].keys() == RedisConnectionManager().get_pool_info().keys() | roster


def test_the_status_shows_every_worker(reader, server, pool_settings):
    pool_settings(server.url, PUBLISH_INTERVAL=0.1).get_sync_client().ping()
    other = WorkerProcess({"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": 0.1}, host="web2")
    try:
        wanted = {process.worker_id(), other.id}

        def pool():
            return reader.get(STATUS).json()["pools"]["default"]

        eventually(lambda: {worker["id"] for worker in pool()["workers"]} == wanted, 15, 0.1)
        eventually(lambda: pool()["differences"] == [], 5, 0.1)
        assert pool()["workers_problem"] is None
    finally:
        other.kill()


def test_the_local_status_asks_redis_nothing(reader, server, pool_settings):
    pool_settings(server.url, PUBLISH_INTERVAL=300)
    before = server.connections(), server.calls("ping")
    pool = reader.get(f"{STATUS}?local=1").json()["pools"]["default"]
    assert (server.connections(), server.calls("ping")) == before
    assert [worker["id"] for worker in pool["workers"]] == [process.worker_id()]
    assert (pool["workers_problem"], pool["differences"]) == (None, [])


def test_the_status_asks_redis_nothing_where_publishing_is_off(reader, server, manager):
    before = server.connections(), server.calls("ping")
    pool = reader.get(STATUS).json()["pools"]["default"]
    assert (server.connections(), server.calls("ping")) == before
    assert "PUBLISH_INTERVAL" in pool["workers_problem"]


def test_the_status_answers_at_once_during_an_outage_and_says_so(reader, own_server, pool_settings):
    pool_settings(own_server.url, PUBLISH_INTERVAL=0.1)
    own_server.kill()
    reader.get(HEALTH)
    started = time.monotonic()
    pool = reader.get(STATUS).json()["pools"]["default"]
    assert time.monotonic() - started < SLACK
    assert [worker["id"] for worker in pool["workers"]] == [process.worker_id()]
    assert pool["workers_problem"].startswith("Nothing listens at")
    assert pool["workers_problem"].endswith("Only this process is shown.")


def test_the_status_does_not_add_up_the_waits_for_servers_that_hang(reader, own_server, pools):
    slow = {"CONNECTION_URL": own_server.url, "HEALTH_CHECK_TIMEOUT": 1.0, "PUBLISH_INTERVAL": 5}
    pools(default=slow, second=slow, third=slow, fourth=slow, fifth=slow)
    own_server.pause()
    started = time.monotonic()
    assert len(reader.get(STATUS).json()["pools"]) == 5
    assert time.monotonic() - started < 1 + SLACK


def test_the_status_works_while_redis_is_down(reader, own_server, pool_settings):
    pool_settings(own_server.url)
    own_server.kill()
    reader.get(HEALTH)
    pool = reader.get(STATUS).json()["pools"]["default"]
    assert (pool["state"], pool["fault_kind"]) == ("unhealthy", "refused")


@pytest.mark.parametrize("place", ["url", "key", "wrong"])
def test_a_password_never_reaches_the_status(reader, protected_server, pool_settings, place):
    where = f"127.0.0.1:{protected_server.port}/0"
    if place == "url":
        pool_settings(f"redis://:{PASSWORD}@{where}")
    elif place == "key":
        pool_settings(f"redis://{where}", PASSWORD=PASSWORD)
    else:
        pool_settings(f"redis://:{PASSWORD}-not@{where}")
    assert reader.get(HEALTH).status_code == (503 if place == "wrong" else 200)
    response = reader.get(STATUS)
    assert response.status_code == 200
    assert PASSWORD not in response.content.decode()


def test_a_misconfigured_pool_is_named_beside_the_others(reader, server, pools):
    pools(default={"CONNECTION_URL": server.url}, broken={"TIMEOUT": "soon"})
    answer = reader.get(STATUS).json()
    assert answer["pools"]["default"]["state"] == "unknown"
    assert answer["pools"]["broken"]["state"] == "misconfigured"
    assert "TIMEOUT" in answer["pools"]["broken"]["fault"]


def test_settings_that_name_no_pool_at_all_are_an_error_in_the_answer(reader, pool_settings, settings):
    pool_settings("redis://unused")
    settings.REDIS_POOL = {"not an alias": {}}
    answer = reader.get(STATUS).json()
    assert answer["pools"] == {}
    assert "REDIS_POOL" in answer["error"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("codenames", "flags", "status"),
    [
        ([], {}, 403),
        ([], {"is_staff": True}, 403),
        (["reset_redispool"], {"is_staff": True}, 403),
        (["view_redispool"], {}, 403),
        (["view_redispool"], {"is_staff": True, "is_active": False}, 403),
        (["view_redispool"], {"is_staff": True}, 200),
        ([], {"is_staff": True, "is_superuser": True}, 200),
        ([], {"is_superuser": True}, 403),
    ],
)
def test_the_status_is_for_active_staff_with_the_permission(visitor, manager, codenames, flags, status):
    visitor.force_login(make_user(*codenames, **flags))
    assert visitor.get(STATUS).status_code == status


def test_whoever_may_not_see_the_status_learns_nothing(visitor, manager):
    response = visitor.get(STATUS)
    assert (response.status_code, response.json()) == (403, {"detail": "Permission denied."})
    assert "no-store" in response["Cache-Control"]


def test_a_project_s_own_has_perm_is_obeyed(reader, manager, monkeypatch):
    monkeypatch.setattr(User, "has_perm", lambda self, perm, obj=None: False)
    assert reader.get(STATUS).status_code == 403


def test_an_inactive_user_is_refused_even_if_a_backend_lets_them_in(reader, manager, settings, monkeypatch):
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    reader.force_login(User.objects.get())
    assert reader.get(STATUS).status_code == 200
    User.objects.update(is_active=False)
    monkeypatch.setattr(User, "has_perm", lambda self, perm, obj=None: True)
    assert reader.get(STATUS).status_code == 403


def test_without_authentication_nobody_may_see_the_status(visitor, manager, settings):
    settings.MIDDLEWARE = []
    assert visitor.get(STATUS).status_code == 403


def test_an_anonymous_user_is_refused_even_if_a_backend_grants_everything(visitor, manager, monkeypatch):
    monkeypatch.setattr(AnonymousUser, "has_perm", lambda self, perm, obj=None: True)
    assert visitor.get(STATUS).status_code == 403
