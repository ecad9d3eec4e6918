"""While writes are held back, pages and commands answer from the server, and do not say that it is silent."""

from __future__ import annotations

import io
import json
from time import monotonic, sleep

import pytest
from django.core.management import call_command

from redispool_app.status_page import redis_details
from redispool_app.workers import keys, roster
from tests.engine.health.test_demoted_primary import Loop
from tests.engine.multiplex.test_stalls import PATIENT, SOON, hold_writes_back, let_writes_go
from tests.support.admin_pages import PAGE, client_of
from tests.support.crowd import joined, started
from tests.support.servers import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stalled(request, own_server, pool_settings):
    """The manager of a pool whose shared connection of one side holds writes that the server holds back."""
    manager = pool_settings(own_server.url, SOCKET_TIMEOUT=PATIENT, PUBLISH_INTERVAL=60.0)

    async def write():
        return await (await manager.get_client()).incr("n")

    def write_in_thread():
        return manager.get_sync_client().incr("n")

    with Loop() as loop:
        one = write_in_thread if request.param == "sync" else lambda: loop.run(write())
        one()
        eventually(lambda: roster.read(manager).workers and own_server.calls("sadd"))  # this worker is published
        with own_server.client() as admin:
            admin.sadd(keys.index(manager._config.publish_prefix, manager.alias), "gone:1")
        hold_writes_back(own_server, 60_000)
        writers = started([one] * 2)
        sleep(0.2)
        yield manager
        let_writes_go(own_server)
        joined(writers)
        assert sorted(each.outcome for each in writers) == [2, 3]


BOTH = pytest.mark.parametrize("stalled", ["sync", "async"], indirect=True)


@BOTH
def test_the_page_asks_the_server_past_writes_that_are_held_back(stalled):
    began = monotonic()
    found = redis_details.details(stalled)
    assert (found.slowlog.problem, found.clients.problem) == (None, None)
    assert found.clients.rows
    facts, problem = redis_details.facts(stalled)
    assert problem is None
    assert facts is not None
    assert monotonic() - began < SOON
    browser = client_of("view_redispool", is_staff=True)
    assert "has not answered" not in browser.get(PAGE).content.decode()
    (document,) = json.loads(browser.get(f"{PAGE}live/").content)["pools"].values()
    assert (document["server_problem"], document["workers_problem"]) == (None, None)
    assert document["pool"]["last_error"] is None


@BOTH
def test_the_roster_is_read_past_writes_that_are_held_back(stalled):
    found = roster.read(stalled)
    assert (found.problem, len(found.workers)) == (None, 1)
    out = io.StringIO()
    call_command("redis_health", "--all", stdout=out)
    assert "1 worker" in out.getvalue()
    assert "does not answer" not in out.getvalue()
    assert stalled.get_pool_info()["state"] == "healthy"
