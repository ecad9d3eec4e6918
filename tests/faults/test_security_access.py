"""Who may see the status and reset a pool, by every kind of user and request; what forged requests achieve."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings

from tests.support.admin_pages import PAGE, RESET, Page, client_of

pytestmark = pytest.mark.django_db

STATUS = "/redis/status/"
KINDS = {
    "nobody": None,
    "a plain user": {},
    "a plain user with every permission of this app": {"granted": ("view_redispool", "reset_redispool")},
    "staff": {"is_staff": True},
    "staff who may view": {"is_staff": True, "granted": ("view_redispool",)},
    "staff who may reset": {"is_staff": True, "granted": ("reset_redispool",)},
    "staff who may both": {"is_staff": True, "granted": ("view_redispool", "reset_redispool")},
    "inactive staff who may both": {
        "is_staff": True,
        "is_active": False,
        "granted": ("view_redispool", "reset_redispool"),
    },
    "a superuser": {"is_staff": True, "is_superuser": True},
}
VIEWERS = {"staff who may view", "staff who may both", "a superuser"}
RESETTERS = {"staff who may reset", "staff who may both", "a superuser"}


def browser_of(kind):
    browser, flags = Client(), KINDS[kind]
    if flags is not None:
        granted = flags.get("granted", ())
        user = User.objects.create_user("eve", **{name: value for name, value in flags.items() if name != "granted"})
        user.user_permissions.set(Permission.objects.filter(codename__in=granted))
        browser.force_login(user)
    return browser


@pytest.mark.parametrize("kind", KINDS)
def test_page_and_document_are_for(manager, kind):
    browser, allowed = browser_of(kind), kind in VIEWERS
    page, document = browser.get(PAGE), browser.get(STATUS)
    assert (page.status_code == 200, document.status_code == 200) == (allowed, allowed)
    if not allowed:
        assert page.status_code in (302, 403)
        assert document.json() == {"detail": "Permission denied."}
        assert manager._config.where not in page.content.decode() + document.content.decode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete", "options"])
def test_a_reset_is_for(manager, kind, method):
    before, browser = manager.get_sync_client(), browser_of(kind)
    response = getattr(browser, method)(RESET)
    was_reset = manager.get_sync_client() is not before
    assert was_reset == (method == "post" and kind in RESETTERS)
    assert response.status_code in (302, 403, 405)


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"csrfmiddlewaretoken": ""},
        {"csrfmiddlewaretoken": "x" * 32},
        {"csrfmiddlewaretoken": "x" * 64},
        {"csrfmiddlewaretoken": "\x00"},
    ],
)
def test_a_forged_post_resets_nothing(manager, forged):
    browser = client_of("view_redispool", "reset_redispool", enforce_csrf_checks=True)
    browser.get(PAGE)
    before = manager.get_sync_client()
    assert browser.post(RESET, forged).status_code == 403
    assert manager.get_sync_client() is before


def test_somebody_else_s_token_resets_nothing(manager):
    theirs = Client(enforce_csrf_checks=True)
    token = Page(theirs.get("/admin/login/")).find("input", name="csrfmiddlewaretoken")[0]["value"]
    browser = client_of("view_redispool", "reset_redispool", enforce_csrf_checks=True)
    browser.get(PAGE)
    before = manager.get_sync_client()
    assert browser.post(RESET, {"csrfmiddlewaretoken": token}).status_code == 403
    assert manager.get_sync_client() is before


def test_a_post_from_another_site_resets_nothing_even_with_the_token(manager):
    browser = client_of("view_redispool", "reset_redispool", enforce_csrf_checks=True)
    token = Page(browser.get(PAGE)).find("input", name="csrfmiddlewaretoken")[-1]["value"]
    before = manager.get_sync_client()
    response = browser.post(RESET, {"csrfmiddlewaretoken": token}, headers={"origin": "https://evil.example"})
    assert response.status_code == 403
    assert manager.get_sync_client() is before


# Query strings, form data and aliases of any characters.

fuzz = hypothesis_settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
values = strategies.one_of(strategies.text(max_size=20), strategies.sampled_from(["1", "-1", "all", "e=1", "\x00"]))
names = strategies.one_of(
    strategies.text(min_size=1, max_size=10),
    strategies.sampled_from(["e", "p", "q", "o", "all", "_popup", "_to_field", "action", "alias", "id__exact", "next"]),
)
pairs = strategies.dictionaries(names, values, max_size=4)


@pytest.fixture
def operator():
    return client_of("view_redispool", "reset_redispool")


def encodable(pairs):
    return {name: value for name, value in pairs.items() if (name + value).isascii() or _is_utf8(name + value)}


def _is_utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@fuzz
@given(pairs)
def test_a_query_string_changes_nothing(manager, operator, query):
    query = encodable(query)
    before = manager.get_sync_client()
    assert operator.get(PAGE, query).status_code == 200
    assert operator.get(STATUS, query).status_code == 200
    assert operator.get("/redis/health/", query).status_code == 200
    assert operator.post(PAGE, query).status_code == 405
    assert manager.get_sync_client() is before


@fuzz
@given(pairs, strategies.booleans())
def test_form_data_cannot_lead_a_reset_elsewhere(manager, operator, data, as_files):
    data = encodable(data)
    kind = {} if as_files else {"content_type": "application/json"}
    response = operator.post(RESET, data, query_params={"next": "//evil.example", **data}, **kind)
    assert (response.status_code, response["Location"]) == (302, PAGE)


@fuzz
@given(
    strategies.one_of(
        strategies.text(min_size=1, max_size=30),
        strategies.sampled_from(["default\r\nSet-Cookie: a=b", "../default", "default\x00", "Default", "<b>", "%00"]),
    )
)
def test_an_alias_that_is_none_is_not_found(manager, operator, alias):
    if alias == "default" or not _is_utf8(alias):
        return
    before = manager.get_sync_client()
    for path in (f"{PAGE}{quote(alias, safe='')}/reset/", f"/redis/health/{quote(alias, safe='')}/"):
        response = operator.post(path) if "reset" in path else operator.get(path)
        assert response.status_code in (301, 404)
        assert not any("\n" in value or "\r" in value for value in response.headers.values())
    assert manager.get_sync_client() is before
