"""The admin's status page, against real servers."""

from __future__ import annotations

import os
import re
import time
from functools import partial
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import NoReverseMatch, include, path, reverse
from redis.exceptions import ResponseError

from redispool_app.admin import RedisPoolAdmin
from redispool_app.introspection import info as server_facts
from redispool_app.models import RedisPool
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.status_page import redis_details
from tests.support.admin_pages import PAGE, RESET, Page, client_of
from tests.support.crowd import Caller
from tests.support.servers import eventually, free_port

PASSWORD = "s3cr3t-of-the-test"
SLACK = 3.0  # the machine is shared

pytestmark = pytest.mark.django_db

ops_site = admin.AdminSite(name="ops")
ops_site.register(RedisPool, RedisPoolAdmin)
urlpatterns = [
    path("admin/", admin.site.urls),
    path("ops/", ops_site.urls),
    path("redis/", include("redispool_app.urls")),
]


@pytest.fixture
def viewer():
    return client_of("view_redispool")


@pytest.fixture
def operator():
    return client_of("view_redispool", "reset_redispool")


@pytest.fixture
def gone():
    """A URL at which nothing listens."""
    return f"redis://127.0.0.1:{free_port()}/0"


# Who may see it.


def test_a_visitor_is_asked_to_log_in(manager):
    response = Client().get(PAGE)
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("codenames", [(), ("reset_redispool",)])
def test_staff_without_the_permission_to_view_may_not(manager, codenames):
    client = client_of(*codenames)
    assert client.get(PAGE).status_code == 403
    assert PAGE not in client.get("/admin/").content.decode()


def test_the_permission_to_view_shows_the_page_without_the_button(manager, viewer):
    page = Page(viewer.get(PAGE))
    assert "Healthy" in page.text
    assert not page.find("form", action=RESET)


def test_the_permission_to_reset_adds_the_button(manager, operator):
    (form,) = Page(operator.get(PAGE)).find("form", action=RESET)
    assert form["method"] == "post"


def test_a_superuser_may_do_both(manager):
    page = Page(client_of(is_superuser=True).get(PAGE))
    assert page.find("form", action=RESET)


def test_nobody_may_add_change_or_delete_a_pool(manager, rf):
    client = client_of(is_superuser=True)
    request = rf.get(PAGE)
    request.user = User.objects.get(username="ada")
    model_admin = admin.site.get_model_admin(RedisPool)
    assert not model_admin.has_add_permission(request)
    assert not model_admin.has_change_permission(request)
    assert not model_admin.has_delete_permission(request)
    for name, args in {"add": [], "change": ["default"], "delete": ["default"], "history": ["default"]}.items():
        with pytest.raises(NoReverseMatch):
            reverse(f"admin:redispool_app_redispool_{name}", args=args)
    assert client.post(PAGE).status_code == 405
    assert f"{PAGE}add/" not in client.get("/admin/").content.decode()


def test_the_admin_s_index_leads_to_the_page(manager, viewer):
    assert Page(viewer.get("/admin/")).find("a", href=PAGE)
    assert Page(viewer.get("/admin/redispool_app/")).find("a", href=PAGE)


def test_the_page_has_the_admin_s_breadcrumbs(manager, viewer):
    page = Page(viewer.get(PAGE))
    assert page.find("a", href="/admin/")
    assert page.find("a", href="/admin/redispool_app/")
    assert re.search(r"Home \W Redis \W Redis pools", page.text)


# What it says.


def test_a_healthy_pool_shows_its_numbers_and_the_server_s_facts(server, manager, viewer):
    with server.client() as client:
        client.mset({"one": 1, "two": 2})
    info = server.info("server")
    page = Page(viewer.get(PAGE))
    assert "✓ Healthy" in page.text
    assert f"redis://{server.where}/0" in page.text
    assert str(os.getpid()) in page.text
    facts = page.facts
    assert facts["Version"] == f"Valkey {info['valkey_version']}"
    assert facts["Process id"] == str(info["process_id"])
    assert facts["Role"] == "primary, standalone"
    assert facts["Clients"].endswith("of 4,000")
    assert facts["Memory"].endswith("no limit")
    assert facts["Keys in this database"] == "2"
    assert facts["Health checks"] == "1"
    assert facts["MAX_CONNECTIONS"] == "50"


def test_a_connection_made_beside_a_held_back_write_is_shown(own_server, pool_settings, viewer):
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=30.0)
    client = manager.get_sync_client()
    client.set("k", "v")
    with own_server.client() as admin_client:
        admin_client.client_pause(8000, all=False)
        write = Caller(partial(client.set, "held", "back"))
        write.start()
        eventually(lambda: client.sharing.in_flight == 1)
        assert client.get("k") == b"v"
        facts = Page(viewer.get(PAGE)).facts
        admin_client.client_unpause()
    assert write.ended() is True
    assert facts["Shared connections"] == "2"
    assert facts["Shared connections made beside held-back commands"] == "1"
    assert facts["Shared connections made beside large replies"] == "0"


def test_a_memory_limit_and_a_hit_rate_are_shown(own_server, pool_settings, viewer):
    pool_settings(own_server.url)
    with own_server.client() as client:
        client.config_set("maxmemory", 512 * 1024 * 1024)
        client.set("key", 1)
        client.mget("key", "key", "key", "none")
    facts = Page(viewer.get(PAGE)).facts
    assert facts["Memory"].replace("\N{NO-BREAK SPACE}", " ").endswith("of 512.0 MB")
    assert facts["Hit rate"] == "75.0 %"


def test_a_server_that_is_gone_leaves_a_page_that_names_the_cure(own_server, pool_settings, viewer):
    pool_settings(own_server.url)
    viewer.get(PAGE)
    own_server.kill()
    RedisConnectionManager()._last_health_check = 0.0
    page = Page(viewer.get(PAGE))
    assert "✕ Unhealthy" in page.text
    assert f"Nothing listens at {own_server.where}: start Redis or correct CONNECTION_URL." in page.text
    assert "Cannot be asked while the pool is unhealthy." in page.text
    assert page.facts["Version"] == "–"  # noqa: RUF001
    assert page.facts["MAX_CONNECTIONS"] == "50"


@pytest.mark.parametrize("known_as_healthy", [True, False])
def test_a_server_that_hangs_delays_the_page_by_its_timeouts_only(own_server, pool_settings, viewer, known_as_healthy):
    pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=0.3, SOCKET_TIMEOUT=0.3, SOCKET_CONNECT_TIMEOUT=0.3)
    if known_as_healthy:
        viewer.get(PAGE)
    own_server.pause()
    started = time.monotonic()
    page = Page(viewer.get(PAGE))
    assert time.monotonic() - started < 0.6 + SLACK
    assert f"Redis at {own_server.where} does not answer in time" in page.text
    assert page.facts["Version"] == "–"  # noqa: RUF001


def test_a_confirmed_outage_costs_the_page_no_check(gone, pool_settings, viewer, monkeypatch):
    manager = pool_settings(gone)
    viewer.get(PAGE)
    monkeypatch.setattr(manager, "_health_check_sync", None)
    assert "Unhealthy" in Page(viewer.get(PAGE)).text


def test_servers_that_hang_cost_no_more_time_than_one(own_server, pools, viewer):
    slow = {"CONNECTION_URL": own_server.url, "HEALTH_CHECK_TIMEOUT": 1.0}
    pools(default=slow, second=slow, third=slow, fourth=slow)
    own_server.pause()
    started = time.monotonic()
    page = Page(viewer.get(PAGE))
    assert time.monotonic() - started < 1.0 + SLACK, "one after the other they take 4 s and more"
    assert len(page.find("section", **{"class": "redispool-pool redispool-unhealthy"})) == 4


def test_a_healthy_pool_without_the_right_to_info_says_so(own_server, pool_settings, viewer):
    pool_settings(own_server.url)
    with own_server.client() as client:
        client.acl_setuser("default", enabled=True, commands=["-info"])
        page = Page(viewer.get(PAGE))
        client.acl_setuser("default", enabled=True, commands=["+info"])
    assert "Healthy" in page.text
    assert "denies this user a command: correct its ACL" in page.text


def test_every_pool_has_its_card_default_first(server, gone, pools, viewer):
    pools(app={"CONNECTION_URL": server.url}, default={"CONNECTION_URL": server.url, "DB": 0})
    text = Page(viewer.get(PAGE)).text
    assert 0 < text.index("default ✓ Healthy") < text.index("app ✓ Healthy")


def test_a_closed_pool_says_how_to_open_it_and_stays_closed(manager, operator):
    manager.close_sync()
    page = Page(operator.get(PAGE))
    assert "■ Closed" in page.text
    assert "call initialize() to open it again" in page.text
    assert not page.find("form", action=RESET)


def test_a_misconfigured_pool_says_so_beside_the_others(server, pools, operator):
    pools(default={"CONNECTION_URL": server.url}, broken={"MAX_CONECTIONS": 3})
    page = Page(operator.get(PAGE))
    assert "default ✓ Healthy" in page.text
    assert "broken ! Misconfigured" in page.text
    assert re.search("MAX_CONECTIONS.*did you mean.*MAX_CONNECTIONS", page.text)
    assert not page.find("form", action=f"{PAGE}broken/reset/")


def test_settings_that_name_no_pool_at_all_are_one_line_on_the_page(pool_settings, settings, operator):
    pool_settings("redis://unused")
    settings.REDIS_POOL = {"not an alias": {}}
    page = Page(operator.get(PAGE))
    assert "'not an alias'" in page.text
    assert len(page.find("li", **{"class": "error"})) == 1
    assert not page.find("section")


@pytest.mark.parametrize("place", ["url", "key", "wrong"])
def test_a_password_never_reaches_the_page(own_server, pool_settings, viewer, place):
    with own_server.client() as client:
        client.config_set("requirepass", PASSWORD)
    where = f"127.0.0.1:{own_server.port}/0"
    if place == "url":
        pool_settings(f"redis://:{PASSWORD}@{where}")
    elif place == "key":
        pool_settings(f"redis://{where}", PASSWORD=PASSWORD)
    else:
        pool_settings(f"redis://:{PASSWORD}-not@{where}")
    page = Page(viewer.get(PAGE))
    assert ("rejects the credentials" if place == "wrong" else "✓ Healthy") in page.text
    assert PASSWORD not in page.html
    assert page.facts["PASSWORD"] == ("********" if place == "key" else "None")


HOSTILE = "<script>alert(1)</script>"


def test_what_a_server_or_the_settings_say_is_text_and_never_markup(server, pool_settings, viewer, monkeypatch):
    facts = server_facts.parse(f"redis_version:{HOSTILE}\nrole:{HOSTILE}\nredis_mode:{HOSTILE}", 0)
    monkeypatch.setattr(redis_details, "facts", lambda manager: (facts, None))
    manager = pool_settings(server.url, CLIENT_NAME=HOSTILE)
    manager.initialize_sync()
    manager._doubt(ResponseError(HOSTILE))
    page = Page(viewer.get(PAGE))
    assert HOSTILE not in page.html
    assert f"ResponseError: {HOSTILE}" in page.text
    assert page.facts["Version"] == f"Redis {HOSTILE}"
    assert page.facts["CLIENT_NAME"] == HOSTILE


@pytest.mark.parametrize("wrong", [{HOSTILE: {}}, {HOSTILE: 1}, {"default": {"CONNECTION_URL": HOSTILE}}])
def test_what_wrong_settings_contain_is_text_and_never_markup(pool_settings, settings, viewer, wrong):
    pool_settings("redis://unused")
    settings.REDIS_POOL = wrong
    assert HOSTILE not in Page(viewer.get(PAGE)).html


# How it is made.


def test_a_strict_content_security_policy_lets_the_page_work(manager, operator):
    page = Page(operator.get(PAGE))
    assert not page.find("style")
    assert all("src" in attrs for attrs in page.find("script"))
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name == "style" or name.startswith("on")], tag
        for name in ("src", "href", "action", "srcset"):
            assert not re.match(r"(\w+:|//)", attrs.get(name) or ""), (tag, attrs)


def test_the_stylesheets_are_served_from_here_and_ask_for_nothing_else(manager, viewer):
    ours = "/static/redispool_app/"
    links = [link["href"] for link in Page(viewer.get(PAGE)).find("link", rel="stylesheet")]
    names = [link.removeprefix(ours) for link in links if link.startswith(ours)]
    assert names == ["uplot/uPlot.min.css", "status.css", "live.css"]
    for name in names:
        assert not re.search(r"url\(|@import|https?:", stylesheet(name)), name


def stylesheet(name):
    return Path(finders.find(f"redispool_app/{name}")).read_text()


def contrast(one, other):
    """As https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio defines it."""

    def luminance(colour):
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(
    ("name", "backgrounds"),
    # The admin's pages and the rows that it shades, in its light and in its dark theme.
    [("status.css", ["#ffffff", "#f8f8f8"]), ("live.css", ["#121212", "#212121"])],
)
def test_states_are_written_in_colours_that_everybody_can_read(name, backgrounds):
    colours = re.findall(r"--redispool-(?:good|warn): (#[0-9a-f]{6});", stylesheet(name))
    assert len(colours) >= 2
    for colour in colours:
        assert all(contrast(colour, background) >= 4.5 for background in backgrounds), colour


def test_headings_of_rows_and_columns_have_a_scope(manager, viewer):
    headings = Page(viewer.get(PAGE)).find("th")
    assert headings
    assert all(attrs.get("scope") in ("row", "col") for attrs in headings)


@pytest.mark.urls(__name__)
def test_on_a_custom_site_every_link_stays_there(manager):
    client = client_of(is_superuser=True)
    page = Page(client.get("/ops/redispool_app/redispool/"))
    assert page.find("form", action="/ops/redispool_app/redispool/default/reset/")
    assert page.find("a", href="/ops/redispool_app/")
    assert "/admin/" not in re.sub(r"/static/admin/", "", page.html)
    response = client.post("/ops/redispool_app/redispool/default/reset/")
    assert response["Location"] == "/ops/redispool_app/redispool/"
