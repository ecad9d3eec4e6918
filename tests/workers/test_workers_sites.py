"""Real sites in the roster: gunicorn's workers, one that is killed and replaced, uvicorn, a reset from outside."""

from __future__ import annotations

import os
import signal

import pytest

from redispool_app.workers import orders, roster
from tests.lab.sites import Site
from tests.support.servers import eventually
from tests.support.workers import of
from tests.test_deployments import GUNICORN, UVICORN

INTERVAL = 0.2


@pytest.fixture
def site(own_server, tmp_path):
    site = Site(tmp_path, {"CONNECTION_URL": own_server.url, "PUBLISH_INTERVAL": INTERVAL})
    yield site
    site.kill()


@pytest.fixture
def onlooker(own_server, pool_settings):
    """This process's manager, which reads the roster; it publishes so seldom that it is not in it."""
    return pool_settings(own_server.url, PUBLISH_INTERVAL=300)


def serving(manager, role):
    """The processes of the roster that have this role and a connection."""
    workers = roster.read(manager).workers
    return {each["pid"] for each in workers if each["role"] == role and each["connections_open"]}


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["each worker loads", "preload"])
def test_gunicorns_workers_are_all_in_it_and_one_that_is_killed_is_replaced(site, onlooker, own_server, preload):
    site.start(*GUNICORN, *preload).serves()
    # With --preload the master has used Redis too.
    children = children_of(site.process.pid)
    wanted = lambda: children() | ({site.process.pid} if preload else set())  # noqa: E731

    def all_there():
        for number in range(20):
            site.get(f"/echo/{number}/")
        return len(children()) == 2 and serving(onlooker, "server: gunicorn") == wanted()

    eventually(all_there, 30, 0.1)
    victim = min(children())
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in children(), 10)
    eventually(all_there, 30, 0.1)
    assert victim not in serving(onlooker, "server: gunicorn")
    site.stop(signal.SIGTERM)
    eventually(lambda: not serving(onlooker, "server: gunicorn"))


def children_of(pid):
    def children():
        with open(f"/proc/{pid}/task/{pid}/children") as listed:
            return {int(child) for child in listed.read().split()}

    return children


def test_uvicorn_publishes_on_its_event_loops_connection_and_obeys(site, onlooker, own_server):
    site.start(*UVICORN).serves()
    eventually(lambda: serving(onlooker, "server: uvicorn") == {site.process.pid}, 15)
    worker_id = next(each["id"] for each in roster.read(onlooker).workers if each["pid"] == site.process.pid)
    worker = of(onlooker, worker_id)
    assert (worker["loops"], worker["connections_open"], worker["app"]) == (1, 1, "tests")
    order = orders.send(onlooker, "reset")
    eventually(lambda: orders.has_obeyed(of(onlooker, worker_id), order))
    assert site.get("/echo-async/a/")[:2] == (200, "value of a")
    site.stop(signal.SIGINT)
    site.assert_clean()
    eventually(lambda: of(onlooker, worker_id) is None)
