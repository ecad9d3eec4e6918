"""For the tests of the admin: somebody logged in, and a page taken apart."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import pytest
from django.contrib.auth.models import Permission, User
from django.core.signals import request_finished
from django.test import Client

PAGE = "/admin/redispool_app/redispool/"
RESET = f"{PAGE}default/reset/"


def client_of(*codenames, enforce_csrf_checks=False, username="ada", **flags):
    """A logged-in client of a staff user with these permissions."""
    user = User.objects.filter(username=username).first() or User.objects.create_user(
        username, **{"is_staff": True, **flags}
    )
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client(enforce_csrf_checks=enforce_csrf_checks)
    client.force_login(user)
    return client


class Page(HTMLParser):
    """What a strict policy, and a person, look for in a page."""

    def __init__(self, response) -> None:
        super().__init__()
        assert response.status_code == 200
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.html = response.content.decode()
        self.feed(self.html)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def facts(self) -> dict[str, str]:
        """The rows of all tables, by their heading; where two share it, the last."""
        return {row[0]: row[1] for row in self.rows if len(row) == 2}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td") and self.rows:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._cell = False

    def handle_data(self, data):
        if words := data.split():
            self.words.extend(words)
            if self._cell:
                self.rows[-1][-1] = " ".join([*self.rows[-1][-1].split(), *words])

    def find(self, tag, **wanted):
        return [attrs for name, attrs in self.tags if name == tag and wanted.items() <= attrs.items()]


@pytest.fixture(autouse=True)
def no_receiver_that_waits():
    """django-valkey, once imported, has a coroutine called as requests end; Django's test client cannot await it."""
    theirs = getattr(sys.modules.get("django_valkey.base"), "close_async_caches", None)
    request_finished.disconnect(theirs)
    yield
    if theirs is not None:
        request_finished.connect(theirs)
