"""``manage.py redis_pool``: what it does here, what it asks of every worker, how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from redispool_app.engine.runtime import process
from redispool_app.workers import keys, roster, snapshot
from tests.support.servers import eventually, free_port
from tests.support.worker_process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]


def run(*args):
    """Run the command; return its exit code, what it wrote to stdout, and its error."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("redis_pool", *args, stdout=out, stderr=err, no_color=True)
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), err.getvalue()


# This process.


def test_info_says_what_is_known_after_one_check(server, manager):
    code, out, err = run("info")
    assert (code, err) == (0, "")
    assert "  state: healthy\n" in out
    assert f"  url: {server.url}\n" in out


def test_info_as_json_is_what_get_pool_info_says(manager):
    code, out, err = run("info", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["action"] == "info"
    assert set(document["pools"]["default"]) == set(manager.get_pool_info())
    assert "give --all" in err, "beside the document"


def test_an_unhealthy_pool_is_exit_code_1(pool_settings):
    port = free_port()
    pool_settings(f"redis://127.0.0.1:{port}")
    code, out, err = run("info")
    assert code == 1
    assert "  state: unhealthy\n" in out
    assert err == f"default: Nothing listens at 127.0.0.1:{port}: start Redis or correct CONNECTION_URL."
    assert run("reset")[0] == 1


def test_it_says_that_it_concerns_this_process_only(manager):
    for action in ("info", "reset", "pause", "resume"):
        assert f"own process ({process.worker_id()})" in run(action)[1]


def test_it_acts_on_the_pool_of_its_process(manager):
    before = manager.get_sync_client().client_id()
    assert run("reset")[1].endswith("default: reset.\n")
    assert manager.get_sync_client().client_id() != before
    assert run("pause", "--seconds", "20")[1].endswith("default: paused.\n")
    assert 19 < manager.get_pool_info()["paused_for"] <= 20
    assert run("pause")[0] == 0
    assert 29 < manager.get_pool_info()["paused_for"] <= 30
    assert run("resume")[1].endswith("default: resumed.\n")
    assert not manager.get_pool_info()["paused"]


def test_one_alias_of_several(pools, server):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    assert list(json.loads(run("info", "--json", "--alias", "sessions")[1])["pools"]) == ["sessions"]
    assert list(json.loads(run("info", "--json")[1])["pools"]) == ["default", "sessions"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("pause", "--seconds", "0"), "--seconds '0' cannot be used: give a number above 0, at most 300."),
        (("pause", "--seconds", "301"), "at most 300"),
        (("pause", "--seconds", "nan"), "at most 300"),
        (("pause", "--seconds", "soon"), "cannot be used"),
        (("reset", "--seconds", "5"), "--seconds belongs to pause: leave it out."),
        (("info", "--alias", "other"), "REDIS_POOL has no alias 'other': use 'default'."),
        (("reset", "--all"), "default: PUBLISH_INTERVAL is None"),
    ],
)
def test_what_cannot_be_is_exit_code_2_with_the_cure(manager, args, words):
    code, _, err = run(*args)
    assert code == 2
    assert words in err


def test_wrong_settings_are_exit_code_2(settings, pool_settings):
    pool_settings("redis://127.0.0.1:1")
    settings.REDIS_POOL = {"DBB": 1}
    code, _, err = run("info")
    assert (code, "DBB" in err) == (2, True)


def test_as_a_program_it_ends_with_the_exit_code_and_no_traceback():
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.sites.settings",
        "REDIS_POOL": json.dumps({"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}", "PUBLISH_INTERVAL": 0.1}),
    }
    for args in (["info"], ["reset", "--all"], ["pause", "--all"]):
        ended = subprocess.run(
            [sys.executable, "-m", "django", "redis_pool", *args], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert "Nothing listens at" in ended.stderr
        assert "Traceback" not in ended.stderr


# Every worker.


@pytest.fixture
def workers(server, pool_settings):
    """Two other processes that publish the pool, and the manager of this one."""
    pool = {"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": 0.2}
    manager = pool_settings(url=pool["CONNECTION_URL"], PUBLISH_INTERVAL=0.2)
    started = [WorkerProcess(pool, host) for host in ("web1", "web2")]
    wanted = {worker.id for worker in started}
    eventually(lambda: wanted <= {each["id"] for each in roster.read(manager).workers})
    yield started
    for worker in started:
        worker.end()


def test_every_worker_obeys_and_the_command_waits_for_it(workers):
    before = [worker.ask("manager.get_sync_client().client_id()") for worker in workers]
    code, out, err = run("reset", "--all")
    assert (code, err) == (0, "")
    ids = sorted(worker.id for worker in workers)
    assert out == f"default: reset by 2 workers: {', '.join(ids)}.\n"
    assert [worker.ask("manager.get_sync_client().client_id()") for worker in workers] != before

    code, out, _ = run("pause", "--all", "--seconds", "60", "--json")
    found = json.loads(out)["pools"]["default"]
    assert (code, sorted(found["obeyed"]), found["missing"], found["problem"]) == (0, ids, [], None)
    assert [worker.ask("manager.get_pool_info()['paused']") for worker in workers] == [True, True]

    assert run("resume", "--all")[0] == 0
    assert [worker.ask("manager.get_pool_info()['paused']") for worker in workers] == [False, False]

    code, out, err = run("info", "--all")
    assert (code, err) == (0, "")
    assert all(worker.host in out for worker in workers)


def test_a_worker_that_does_not_obey_is_named_and_the_exit_code_is_1(workers):
    os.kill(workers[1].process.pid, signal.SIGSTOP)
    code, _, err = run("reset", "--all")
    assert code == 1
    assert err.startswith(f"default: 1 of 2 workers have not obeyed: {workers[1].id}")
    assert workers[0].id not in err


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_info_of_all_ends_with_1_when_a_worker_says_that_it_is_unhealthy(server, pool_settings, json_option):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=0.2)
    manager.get_sync_client().ping()
    said = {**snapshot.take(manager), "id": "web9:1", "host": "web9", "pid": 1, "state": "unhealthy"}
    with server.client() as client:
        client.sadd(keys.index("redispool", "default"), "web9:1")
        client.set(keys.worker("redispool", "default", "web9:1"), snapshot.dump(said), px=60_000)
    code, out, err = run("info", "--all", *json_option)
    assert (code, err) == (1, "default: Workers that are not healthy: web9:1")
    assert "web9" in out


def test_without_workers_nobody_can_obey(server, pool_settings):
    pool_settings(server.url, PUBLISH_INTERVAL=0.2)
    code, _, err = run("reset", "--all")
    assert (code, err) == (1, "default: No worker publishes this pool: start the site, or wait a moment.")
