"""The status page's buttons besides reset: check, pause and resume, and orders to all workers, on real servers."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry

from redispool_app.status_page.actions import ACTIONS, PAUSE_SECONDS_MAX
from tests.support.admin_pages import PAGE, Page, client_of
from tests.support.servers import RedisServer, eventually

pytestmark = pytest.mark.django_db

PERMISSIONS = {
    "check": ["check_redispool"],
    "reset": ["reset_redispool"],
    "reset-all": ["reset_redispool", "order_redispool"],
    "pause": ["pause_redispool"],
    "pause-all": ["pause_redispool", "order_redispool"],
    "resume": ["pause_redispool"],
    "resume-all": ["pause_redispool", "order_redispool"],
}

ORDERS = [name for name, codenames in PERMISSIONS.items() if "order_redispool" in codenames]


def url_of(name, alias="default"):
    return f"{PAGE}{alias}/{name}/"


def press(client, name, **data):
    return Page(client.post(url_of(name), data, follow=True))


@pytest.fixture
def everybody(manager):
    """A client of somebody who may do everything; the manager is left unpaused."""
    yield client_of("view_redispool", "order_redispool", *(f"{verb}_redispool" for verb in ("check", "reset", "pause")))
    manager.resume()


@pytest.fixture
def published(server, pool_settings):
    """The global manager, publishing every 0.2 s, once the server has heard of it."""
    manager = pool_settings(server.url, PUBLISH_INTERVAL=0.2)
    manager.get_sync_client().ping()
    yield manager
    manager.resume()


def test_every_action_is_tried_here():
    assert list(PERMISSIONS) == list(ACTIONS)


def shows(page, name):
    return bool(page.find("form", action=url_of(name)) + page.find("button", formaction=url_of(name)))


@pytest.mark.parametrize("name", PERMISSIONS)
def test_a_button_is_there_with_its_permissions_and_not_without_any_of_them(published, name):
    def shown(*codenames):
        return shows(Page(client_of("view_redispool", *codenames, username=f"u{len(codenames)}").get(PAGE)), name)

    wanted = PERMISSIONS[name]
    assert shown(*wanted)
    assert not shown(*wanted[:-1])


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_nobody_would_hear_of_is_neither_offered_nor_sent(server, manager, everybody, name):
    manager.pause(20)
    assert not shows(Page(everybody.get(PAGE)), name)
    page = press(everybody, name)
    assert "Publishing is switched off (PUBLISH_INTERVAL), so no worker would hear of this." in page.text
    assert page.find("li", **{"class": "error"})
    assert manager.get_pool_info()["paused"], "nothing was done"
    assert not LogEntry.objects.exists()
    assert server.calls("lpush") == 0


@pytest.mark.parametrize("name", PERMISSIONS)
def test_the_server_refuses_what_the_page_does_not_offer(manager, name):
    for number, lacking in enumerate(PERMISSIONS[name]):
        rest = [codename for each in PERMISSIONS.values() for codename in each if codename != lacking]
        client = client_of("view_redispool", *rest, username=f"u{number}")
        assert client.post(url_of(name)).status_code == 403
    assert not LogEntry.objects.exists()
    assert not manager.get_pool_info()["paused"]


@pytest.mark.parametrize("name", PERMISSIONS)
def test_only_a_post_with_the_page_s_token_acts(manager, name):
    client = client_of(is_superuser=True, enforce_csrf_checks=True)
    assert client.get(url_of(name)).status_code == 405
    assert client.post(url_of(name)).status_code == 403
    assert not LogEntry.objects.exists()


def test_check_now_sends_a_ping_and_says_how_long_it_took(server, manager, everybody):
    manager.get_sync_client().ping()
    before = manager.get_pool_info()["health_checks_total"]
    page = press(everybody, "check")
    assert "Redis answered the pool “default” in" in page.text
    assert manager.get_pool_info()["health_checks_total"] == before + 1
    assert LogEntry.objects.get().get_change_message() == "Checked."


def test_check_now_finds_an_outage_and_names_the_cure(own_server, pool_settings):
    manager = pool_settings(own_server.url, HEALTH_CHECK_INTERVAL=60)
    manager.get_sync_client().ping()
    own_server.kill()
    page = press(client_of("view_redispool", "check_redispool"), "check")
    assert "Redis did not answer the pool “default”: Nothing listens" in page.text
    assert page.find("li", **{"class": "error"})


def test_a_pause_holds_new_commands_back_and_resume_lets_them_go(manager, everybody):
    page = press(everybody, "pause", seconds="20")
    assert "paused for at most 20 s" in page.text
    assert "❚❚ Paused" in page.text
    assert 15 < manager.get_pool_info()["paused_for"] <= 20
    page = press(everybody, "resume")
    assert "goes on" in page.text
    assert not manager.get_pool_info()["paused"]
    assert [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")] == ["Paused. (20 s)", "Resumed."]


@pytest.mark.parametrize(
    "seconds", ["0", "-1", "1.5", "soon", str(PAUSE_SECONDS_MAX + 1), "9" * 400, "0" * 9, "0000000999999", "٣"]
)
@pytest.mark.parametrize("name", ["pause", "pause-all"])
def test_a_pause_is_bounded_and_a_wrong_number_is_refused_in_one_line(manager, everybody, name, seconds):
    page = press(everybody, name, seconds=seconds)
    assert f"from 1 to {PAUSE_SECONDS_MAX}" in page.text
    assert not manager.get_pool_info()["paused"]
    assert not LogEntry.objects.exists()


def test_leading_zeros_of_a_pause_mean_nothing(manager, everybody):
    page = press(everybody, "pause", seconds="0000000003")
    assert "paused for at most 3 s" in page.text
    assert 0 < manager.get_pool_info()["paused_for"] <= 3


def test_an_order_to_reset_is_obeyed_by_every_worker(published):
    old = published.get_sync_client()
    page = press(client_of("view_redispool", "reset_redispool", "order_redispool"), "reset-all")
    assert "All workers reset the pool “default” within 0.2 s." in page.text
    assert LogEntry.objects.get().get_change_message() == "Reset in all workers."
    eventually(lambda: published.get_sync_client() is not old)


def test_orders_to_pause_and_to_resume_are_obeyed_by_every_worker(published):
    client = client_of("view_redispool", "pause_redispool", "order_redispool")
    page = press(client, "pause-all", seconds="30")
    assert "All workers pause the pool “default” within 0.2 s, for 30 s." in page.text
    eventually(lambda: published.get_pool_info()["paused"])
    page = press(client, "resume-all")
    assert "All workers go on with the pool “default” within 0.2 s." in page.text
    eventually(lambda: not published.get_pool_info()["paused"])
    messages = [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]
    assert messages == ["Paused in all workers. (30 s)", "Resumed in all workers."]


@pytest.mark.parametrize("name", ["reset-all", "pause-all"])
def test_an_order_that_cannot_be_given_is_an_error_and_not_logged(own_server, pool_settings, name):
    pool_settings(own_server.url, PUBLISH_INTERVAL=5)
    own_server.kill()
    page = press(client_of(is_superuser=True), name)
    assert "The workers cannot be reached: Nothing listens" in page.text
    assert not LogEntry.objects.exists()


def test_to_resume_all_during_an_outage_resumes_this_worker_and_says_and_logs_what_came_of_it(
    own_server, pool_settings
):
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=5)
    manager.get_sync_client().ping()
    manager.pause(200)
    own_server.kill()
    page = press(client_of(is_superuser=True), "resume-all")
    assert "This worker goes on; the others cannot be reached: Nothing listens" in page.text
    assert page.find("li", **{"class": "error"})
    assert not manager.get_pool_info()["paused"]
    assert LogEntry.objects.get().get_change_message() == "Resumed in this worker; the others could not be reached."


def test_a_closed_pool_is_told_as_such_and_nothing_is_logged(manager, everybody, pool_settings, server):
    pool_settings(server.url, PUBLISH_INTERVAL=5)
    manager.get_sync_client().ping()
    manager.close_sync()
    page = press(everybody, "resume-all")
    assert "call initialize() to open it again" in page.text
    assert "others cannot be reached" not in page.text
    assert not LogEntry.objects.exists()


def test_a_server_that_tells_no_time_is_a_message(pool_settings):
    server = RedisServer(rename_command='TIME ""\nrename-command DBSIZE TIME').start()
    try:
        pool_settings(server.url, PUBLISH_INTERVAL=5)
        page = press(client_of(is_superuser=True), "reset-all")
        assert "The workers cannot be reached: " in page.text
        assert "not in the Redis protocol" in page.text
        assert not LogEntry.objects.exists()
    finally:
        server.stop()
