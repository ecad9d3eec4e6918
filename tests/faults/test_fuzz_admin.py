"""Whatever is posted to the status page's buttons is done, or refused in words: nothing in between."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings

from redispool_app.status_page.actions import ACTIONS, PAUSE_SECONDS_MAX
from tests.support.admin_pages import PAGE, Page, client_of

pytestmark = pytest.mark.django_db

fuzz = hypothesis_settings(
    deadline=timedelta(seconds=30),
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FORM = "application/x-www-form-urlencoded"

whole = strategies.one_of(strategies.integers(-5, PAUSE_SECONDS_MAX + 5), strategies.integers())
almost = strategies.sampled_from(
    ["", " ", "1e2", "1_0", "+5", "0x1", "inf", "nan", "1.0", "٣", "²", "½", "5\x00", "5\n6"]
)
seconds = strategies.one_of(
    whole.map(str),
    strategies.integers(0, 999).map(lambda number: f" {number:06} "),
    almost,
    strategies.text(max_size=8),
    strategies.text("0123456789", min_size=1, max_size=9),
)
names = strategies.one_of(
    strategies.sampled_from(["alias", "next", "action", "csrfmiddlewaretoken", "_popup", "language"]),
    strategies.text(max_size=8),
)
others = strategies.lists(strategies.tuples(names, strategies.text(max_size=12)), max_size=4)


@pytest.fixture
def manager(server, pool_settings):
    """A pool whose workers can be given orders; this one looks for them after the test only."""
    return pool_settings(server.url, PUBLISH_INTERVAL=300)


@pytest.fixture
def administrator(manager):
    yield client_of(is_superuser=True)
    manager.resume()


def url_of(name):
    return f"{PAGE}default/{name}/"


def is_a_pause(text):
    text = text.strip()
    return not text or (text.isascii() and text.isdigit() and 1 <= int(text) <= PAUSE_SECONDS_MAX)


@given(name=strategies.sampled_from(["pause", "pause-all"]), text=seconds, more=others)
@fuzz
def test_a_pause_is_made_or_refused_in_words(name, text, more, manager, administrator):
    more = [(field, value) for field, value in more if field != "seconds"]
    logged = LogEntry.objects.count()
    response = administrator.post(url_of(name), urlencode([("seconds", text), *more]), content_type=FORM)
    assert (response.status_code, response["Location"]) == (302, PAGE)
    page = Page(administrator.get(PAGE))
    made = is_a_pause(text)
    assert (f"from 1 to {PAUSE_SECONDS_MAX}" in page.text) is not made
    assert LogEntry.objects.count() == logged + made
    if name == "pause":
        assert manager.get_pool_info()["paused"] is made
    manager.resume()


@given(name=strategies.sampled_from([name for name in ACTIONS if not name.startswith("pause")]), fields=others)
@fuzz
def test_fields_that_nobody_asked_for_change_nothing(name, fields, manager, administrator):
    logged = LogEntry.objects.count()
    response = administrator.post(url_of(name), urlencode(fields), content_type=FORM)
    assert (response.status_code, response["Location"]) == (302, PAGE)
    assert LogEntry.objects.count() == logged + 1
    assert not manager.get_pool_info()["paused"]


@given(
    name=strategies.sampled_from(list(ACTIONS)),
    body=strategies.binary(max_size=60),
    kind=strategies.sampled_from([FORM, "multipart/form-data; boundary=x", "multipart/form-data", "application/json"]),
)
@fuzz
def test_a_body_that_is_no_form_is_no_error_of_the_server(name, body, kind, manager, administrator):
    response = administrator.generic("POST", url_of(name), body, content_type=kind)
    assert response.status_code in (302, 400, 403)
    manager.resume()
    assert Page(administrator.get(PAGE)).text
