"""The reset button of the admin's status page, against real servers."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.test import Client

from redispool_app.models import RedisPool
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.admin_pages import PAGE, RESET, Page, client_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator():
    return client_of("view_redispool", "reset_redispool")


@pytest.fixture
def sessions_manager():
    """The manager of a second alias, left closed and forgotten."""
    manager = RedisConnectionManager("sessions")
    yield manager
    manager.close_sync()
    manager.reload_settings()


def test_a_reset_drops_the_connections_and_builds_them_anew(server, manager, operator):
    old = manager.get_sync_client()
    old.ping()
    response = operator.post(RESET, follow=True)
    assert response.redirect_chain == [(PAGE, 302)]
    page = Page(response)
    assert "The pool “default” was reset, and Redis answers." in page.text
    assert page.find("li", **{"class": "success"})
    assert manager.get_sync_client() is not old
    info = manager.get_pool_info()
    assert (info["connections_closed_total"], info["connections_open"]) == (1, 1)


def test_a_reset_is_written_to_the_admin_s_log(manager, operator):
    operator.post(RESET)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.object_repr, entry.action_flag) == ("default", "default", CHANGE)
    assert entry.user.username == "ada"
    assert entry.content_type == ContentType.objects.get_for_model(RedisPool)
    assert entry.get_change_message() == "Reset."
    assert "default" in Page(operator.get("/admin/")).text


def test_a_reset_while_redis_is_down_happens_and_names_the_cure(own_server, pool_settings, operator):
    manager = pool_settings(own_server.url)
    manager.get_sync_client().ping()
    own_server.kill()
    page = Page(operator.post(RESET, follow=True))
    assert "was reset, but Redis cannot be used: Nothing listens" in page.text
    assert "start Redis or correct CONNECTION_URL." in page.text
    assert page.find("li", **{"class": "error"})
    assert manager.get_pool_info()["connections_open"] == 0
    assert LogEntry.objects.count() == 1


def test_a_reset_that_a_closed_pool_refuses_is_an_error_and_not_logged(manager, operator):
    manager.close_sync()
    page = Page(operator.post(RESET, follow=True))
    assert page.find("li", **{"class": "error"})
    assert "call initialize() to open it again" in page.text
    assert manager.get_pool_info()["state"] == "closed"
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("wrong", [5, {"default": {"TIMEOUT": "soon"}}])
def test_a_reset_that_wrong_settings_prevent_is_an_error_and_not_logged(pool_settings, settings, operator, wrong):
    pool_settings("redis://unused")
    settings.REDIS_POOL = wrong
    page = Page(operator.post(RESET, follow=True))
    assert page.find("li", **{"class": "error"})
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("codenames", [(), ("view_redispool",)])
def test_without_the_permission_nothing_is_reset(manager, codenames):
    client = manager.get_sync_client()
    assert client_of(*codenames).post(RESET).status_code == 403
    assert manager.get_sync_client() is client
    assert not LogEntry.objects.exists()


def test_a_visitor_can_reset_nothing(manager):
    client = manager.get_sync_client()
    assert Client().post(RESET)["Location"].startswith("/admin/login/")
    assert manager.get_sync_client() is client


def test_whoever_may_reset_but_not_view_is_led_to_the_index(manager):
    response = client_of("reset_redispool").post(RESET)
    assert response["Location"] == "/admin/"
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize("method", ["get", "head", "put", "delete"])
def test_only_a_post_resets(manager, operator, method):
    client = manager.get_sync_client()
    assert getattr(operator, method)(RESET).status_code == 405
    assert manager.get_sync_client() is client


def test_an_alias_that_is_not_configured_cannot_be_reset(manager, operator):
    assert operator.post(f"{PAGE}elsewhere/reset/").status_code == 404
    assert not LogEntry.objects.exists()


def test_a_post_without_the_page_s_token_is_refused(manager):
    client = client_of("view_redispool", "reset_redispool", enforce_csrf_checks=True)
    page = Page(client.get(PAGE))
    before = manager.get_sync_client()
    assert client.post(RESET).status_code == 403
    assert manager.get_sync_client() is before
    # One in the form to log out, one in the form to reset.
    _, token = (field["value"] for field in page.find("input", name="csrfmiddlewaretoken"))
    assert client.post(RESET, {"csrfmiddlewaretoken": token}).status_code == 302
    assert manager.get_sync_client() is not before


def test_only_the_pool_that_was_named_is_reset(server, manager, settings, operator, sessions_manager):
    settings.REDIS_POOL = {"default": {"CONNECTION_URL": server.url}, "sessions": {"CONNECTION_URL": server.url}}
    default, sessions = manager.get_sync_client(), sessions_manager.get_sync_client()
    operator.post(f"{PAGE}sessions/reset/")
    assert manager.get_sync_client() is default
    assert sessions_manager.get_sync_client() is not sessions
    assert LogEntry.objects.get().object_id == "sessions"
