"""``manage.py redis_health``: what it prints, how it ends, and that no outage makes it crash."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from redispool_app.engine.runtime import process as identity
from redispool_app.management import worker_table
from redispool_app.management.commands import redis_health
from redispool_app.workers import keys, roster, snapshot
from tests.support.faulty_servers import FAULTS, PASSWORD, pool_of
from tests.support.servers import eventually, free_port
from tests.support.worker_process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]


def run(*args, **options):
    """Run the command; return its exit code and what it wrote to stdout, and to stderr."""
    out = io.StringIO()
    try:
        call_command("redis_health", *args, stdout=out, no_color=True, **options)
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), ""


def run_json(*args):
    code, out, _ = run("--json", *args)
    return code, json.loads(out)


@pytest.fixture
def two_pools(server, settings, pool_settings):
    """A healthy pool and one whose server is not there."""
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": server.url},
        "sessions": {"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}/3"},
    }


# What it prints.


def test_a_healthy_pool_is_shown_with_its_round_trip_address_and_server(server, manager):
    code, out, err = run()
    assert (code, err) == (0, "")
    title, row = out.splitlines()
    assert title.split() == ["ALIAS", "STATE", "ROUND", "TRIP", "ADDRESS", "SERVER"]
    version = server.info()["valkey_version"]
    expected = rf"default +healthy +\d+\.\d\d ms +{re.escape(server.url)} +Valkey {version}, process {server.pid}"
    assert re.fullmatch(expected, row)


def test_columns_stand_below_their_titles(two_pools):
    title, first, second, fault = run()[1].splitlines()
    for word, values in {"STATE": ["healthy", "unhealthy"], "ADDRESS": ["redis://", "redis://"]}.items():
        at = title.index(word)
        assert [first[at:].startswith(values[0]), second[at:].startswith(values[1])] == [True, True]
    assert fault.startswith("  Nothing listens at")


def test_the_reason_stands_below_an_unhealthy_pool(two_pools):
    code, out, err = run()
    assert code == 1
    assert re.search(
        r"^sessions +unhealthy +- .*\n  Nothing listens at 127\.0\.0\.1:\d+: start Redis", out, re.MULTILINE
    )
    assert err == "1 of 2 Redis pools not healthy: sessions is unhealthy"


def test_only_the_named_pools_are_checked_once_each_in_the_order_given(two_pools):
    names = ["--alias", "sessions", "--alias", "default", "--alias", "sessions"]
    assert [pool["alias"] for pool in run_json(*names)[1]["pools"]] == ["sessions", "default"]
    assert run("--alias", "default")[0] == 0
    assert run("--alias", "sessions")[0] == 1


def test_the_check_is_a_ping_of_this_very_moment(own_server, pool_settings):
    pool_settings(own_server.url)
    assert run()[0] == 0
    own_server.kill()
    assert run()[0] == 1
    own_server.start()
    assert run()[0] == 0


def test_colours_show_the_state_and_can_be_switched_off(two_pools):
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("redis_health", stdout=out, force_color=True)
    assert re.search(r"\x1b\[[\d;]+m(un)?healthy", out.getvalue())
    assert "\x1b" not in run()[1]


def test_json_is_one_document_with_a_fault_for_each_unhealthy_pool(two_pools, server):
    code, document = run_json()
    assert (code, document["healthy"]) == (1, False)
    healthy, unhealthy = document["pools"]
    assert healthy == {
        "alias": "default",
        "state": "healthy",
        "is_healthy": True,
        "url": server.url,
        "latency_ms": healthy["latency_ms"],
        "server": {"product": "Valkey", "version": server.info()["valkey_version"], "process_id": server.pid},
        "fault": None,
        "fault_kind": None,
        "warning": None,
        "warning_kind": None,
    }
    assert healthy["latency_ms"] > 0
    assert (unhealthy["state"], unhealthy["fault_kind"], unhealthy["server"]) == ("unhealthy", "refused", None)
    assert "start Redis" in unhealthy["fault"]


def test_a_user_who_may_not_ask_for_info_still_sees_a_healthy_pool(own_server, pool_settings):
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">secret", "+ping", "+client")
    pool_settings(own_server.url, USERNAME="bob", PASSWORD="secret")
    code, document = run_json()
    assert (code, document["pools"][0]["server"]) == (0, None)


def test_a_closed_manager_is_not_healthy_and_is_left_closed(manager):
    manager.initialize_sync()
    manager.close_sync()
    code, document = run_json()
    assert (code, document["pools"][0]["fault_kind"]) == (1, "closed")
    assert "initialize()" in document["pools"][0]["fault"]


def test_the_manager_serves_on_after_the_command(manager):
    client = manager.get_sync_client()
    run()
    assert client.ping()
    assert manager.get_sync_client() is client


# Faults.


@pytest.fixture(params=FAULTS)
def faulty(request, pool_settings):
    _, kind, words = FAULTS[request.param]
    with pool_of(request.param, pool_settings):
        yield kind, words


def test_each_fault_has_a_line_of_its_own_and_exit_code_1(faulty):
    kind, words = faulty
    code, out, err = run()
    assert code == 1
    fault = out.splitlines()[2]
    assert out.count("\n") == 3
    assert words in fault
    assert "Traceback" not in out + err
    assert PASSWORD not in out + err
    code, document = run_json()
    assert (code, document["pools"][0]["fault_kind"]) == (1, kind)


def test_the_timeout_option_stands_in_for_the_setting(own_server, pool_settings):
    pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=60, SOCKET_TIMEOUT=60, SOCKET_CONNECT_TIMEOUT=60)
    own_server.pause()
    started = time.monotonic()
    assert run("--timeout", "0.2")[0] == 1
    assert time.monotonic() - started < 30


def test_a_longer_timeout_reaches_a_server_too_slow_for_the_setting(own_server, pool_settings):
    with own_server.client() as client:
        pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=0.1, SOCKET_TIMEOUT=10)
        client.client_pause(700)
        assert run()[0] == 1
        client.client_pause(700)
        assert run("--timeout", "20")[0] == 0


# Misconfiguration.


def test_a_fault_in_the_settings_is_exit_code_2_with_the_cure(settings):
    settings.REDIS_POOL = {"SOCKET_TIMOUT": 3}
    code, out, err = run()
    assert code == 2
    assert "did you mean 'SOCKET_TIMEOUT'?" in out
    assert err == "1 of 1 Redis pools not healthy: default is misconfigured"


def test_a_bad_url_is_exit_code_2_and_is_not_repeated(settings):
    settings.REDIS_POOL = {"CONNECTION_URL": f"redis://:{PASSWORD}@localhost:port/0"}
    code, out, err = run()
    assert code == 2
    assert "port is a number from 1 to 65535" in out
    assert PASSWORD not in out + err


def test_a_setting_that_is_no_dict_is_exit_code_2(settings):
    settings.REDIS_POOL = f"redis://:{PASSWORD}@localhost/0"
    code, out, err = run()
    assert code == 2
    assert "use a dict of keys or a RedisPoolConfig" in out
    assert PASSWORD not in out + err


def test_an_alias_that_cannot_be_one_is_exit_code_2(settings):
    settings.REDIS_POOL = {"default": {}, "a b": {}}
    code, document = run_json()
    assert code == 2
    assert "an alias in REDIS_POOL is 'a b'" in document["pools"][0]["fault"]


def test_a_provider_that_cannot_be_loaded_is_exit_code_2(settings):
    settings.REDIS_POOL = {"CREDENTIAL_PROVIDER": "no.such.provider"}
    code, document = run_json()
    assert (code, document["pools"][0]["state"]) == (2, "misconfigured")
    assert "CREDENTIAL_PROVIDER raises ModuleNotFoundError" in document["pools"][0]["fault"]


def test_an_unknown_alias_is_exit_code_2_with_the_nearest_one(two_pools):
    code, out, _ = run("--alias", "sesions")
    assert code == 2
    assert "REDIS_POOL has no alias 'sesions': did you mean 'sessions'?" in out


def test_misconfigured_beats_unhealthy_and_the_sound_pools_are_still_checked(server, settings, pool_settings):
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": server.url},
        "down": {"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}"},
        "wrong": {"DB": -1},
    }
    code, document = run_json()
    assert code == 2
    assert {pool["alias"]: pool["state"] for pool in document["pools"]} == {
        "default": "healthy",
        "down": "unhealthy",
        "wrong": "misconfigured",
    }


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "inf", "1e300"])
@pytest.mark.parametrize("option", ["--timeout", "--watch"])
def test_an_impossible_number_of_seconds_is_exit_code_2(manager, option, value):
    code, out, err = run(f"{option}={value}")
    assert (code, out) == (2, "")
    assert err.startswith(f"{option} '{value}' cannot be used: give a number of seconds above 0")


# As a process.


@pytest.fixture
def process(tmp_path):
    """Start the command as a process of its own, with REDIS_POOL set to what is given."""
    started = []

    def start(pool, *args, settings="from tests.settings import *"):
        (tmp_path / "probed_settings.py").write_text(f"{settings}\nREDIS_POOL = {pool!r}\n")
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "django", "redis_health", *args, "--settings=probed_settings"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONUNBUFFERED": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def ended(child):
    out, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    return child.returncode, out, err


def test_a_process_ends_with_0_when_all_is_well_and_says_nothing_on_stderr(process, server):
    code, out, err = ended(process({"CONNECTION_URL": server.url}))
    assert (code, err) == (0, "")
    assert "healthy" in out


def test_a_process_ends_with_1_in_an_outage_and_tells_the_fault_once(process):
    code, out, err = ended(process({"CONNECTION_URL": f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"}))
    assert code == 1
    assert err == "CommandError: 1 of 1 Redis pools not healthy: default is unhealthy\n"
    assert out.count("Nothing listens") == 1
    assert PASSWORD not in out


def test_a_process_ends_with_2_when_misconfigured_before_any_system_check_speaks(process):
    code, out, err = ended(process({"CONNECTION_URL": f"redis://:{PASSWORD}@[::1/0"}, "--json"))
    assert code == 2
    assert json.loads(out)["pools"][0]["state"] == "misconfigured"
    assert "SystemCheckError" not in err
    assert PASSWORD not in out + err


def test_a_process_ends_with_2_on_an_unknown_option(process, server):
    code, out, _ = ended(process({"CONNECTION_URL": server.url}, "--sparkle"))
    assert (code, out) == (2, "")


def test_watching_reports_each_change_and_ends_with_the_last_rounds_code(process, own_server):
    child = process({"CONNECTION_URL": own_server.url}, "--watch", "0.1", "--json")
    assert json.loads(child.stdout.readline())["healthy"] is True
    own_server.kill()
    rounds = [json.loads(child.stdout.readline())["healthy"] for _ in range(20)]
    assert rounds[-1] is False
    child.send_signal(signal.SIGINT)
    code, _, _ = ended(child)
    assert code == 1


def test_watching_a_healthy_pool_is_ended_by_ctrl_c_with_0_and_stamps_each_round(process, server):
    child = process({"CONNECTION_URL": server.url}, "--watch", "0.1")
    lines = [child.stdout.readline() for _ in range(6)]
    child.send_signal(signal.SIGINT)
    code, _, err = ended(child)
    assert (code, err) == (0, "")
    for stamp, title, row in (lines[:3], lines[3:]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", stamp)
        assert title.startswith("ALIAS")
        assert row.startswith("default  healthy")


def test_watching_waits_two_seconds_unless_told_otherwise(manager, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis_health.time, "sleep", sleep)
    assert run("--watch")[0] == 0
    assert run("--watch", "7")[0] == 0
    assert waits == [2.0, 7.0]


def test_an_interruption_before_the_first_verdict_is_not_called_healthy(manager, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(manager), "_health_check_sync", interrupted)
    code, out, err = run("--watch")
    assert (code, out) == (1, "")
    assert "Interrupted" in err


# All workers.


@pytest.fixture
def publishing(server, pool_settings):
    manager = pool_settings(server.url, PUBLISH_INTERVAL=0.1)
    manager.get_sync_client().ping()
    eventually(lambda: roster.read(manager).workers)
    return manager


@pytest.fixture
def other(server):
    worker = WorkerProcess({"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": 0.1}, host="web2", program="celery")
    yield worker
    worker.kill()


def test_all_shows_every_worker_below_the_pools(publishing, other):
    eventually(lambda: f"{other.process.pid}  celery" in run("--all")[1], 15, 0.1)
    code, out, err = run("--all")
    assert (code, err) == (0, "")
    pools, workers = out.split("\n\n")
    assert pools.startswith("ALIAS")
    title, headings, *rows = workers.splitlines()
    assert title == "default: 2 workers"
    assert headings.startswith("HOST")
    assert len([row for row in rows if row.startswith(("web2", identity.host()))]) == 2


def test_all_as_json_has_the_workers_of_each_pool(publishing):
    code, document = run_json("--all")
    (pool,) = document["pools"]
    assert code == 0
    assert [worker["id"] for worker in pool["workers"]] == [identity.worker_id()]
    assert (pool["problem"], pool["differences"]) == (None, [])


def test_without_all_nobody_else_is_asked_for(publishing):
    assert "workers" not in run_json()[1]["pools"][0]


def test_a_worker_that_is_not_healthy_is_exit_code_1(server, publishing):
    said = {**snapshot.take(publishing), "id": "web9:1", "host": "web9", "pid": 1, "state": "unhealthy"}
    with server.client() as client:
        client.sadd(keys.index("redispool", "default"), "web9:1")
        client.set(keys.worker("redispool", "default", "web9:1"), snapshot.dump(said), px=60_000)
    assert run("--all")[::2] == (1, "Workers that are not healthy: web9:1")
    assert run_json("--all")[1]["healthy"] is False
    assert run()[0] == 0


def test_all_during_an_outage_shows_this_process_and_says_why(two_pools):
    code, out, _ = run("--all")
    assert code == 1
    assert out.count("sessions: 1 worker") == 1
    assert "Publishing is" not in out
    assert "Only this process is shown." in out


def test_all_with_wrong_settings_is_exit_code_2_without_a_table(settings):
    settings.REDIS_POOL = {"SOCKET_TIMOUT": 3}
    code, out, _ = run("--all")
    assert (code, "HOST" in out) == (2, False)


def test_watching_all_is_appended_where_nobody_redraws(process, server):
    child = process({"CONNECTION_URL": server.url, "PUBLISH_INTERVAL": 0.1}, "--all", "--watch", "0.2")
    eventually(lambda: child.stdout.readline().endswith(" worker\n"), 30)
    eventually(lambda: child.stdout.readline().endswith(" worker\n"), 30)
    child.send_signal(signal.SIGINT)
    code, out, err = ended(child)
    assert (code, err) == (0, "")
    assert "\x1b" not in out


def test_every_line_of_a_redrawn_screen_fits_its_width(pool_settings, monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((60, 24)))
    pool_settings(f"redis://127.0.0.1:{free_port()}/0")
    written = []
    command = redis_health.Command(stdout=io.StringIO(), force_color=True)
    command._as_json, command._everyone = False, True
    command._screen = worker_table.Screen(written.append)
    command._round(None, None, watching=True)
    found = [re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", line) for line in written[0].splitlines()]
    assert len([line for line in found if line.endswith("…")]) >= 3, "the titles, the fault, the workers"
    assert max(map(len, found)) == 60


def test_watching_all_on_a_terminal_redraws_in_place_and_ends_cleanly(server, tmp_path):
    (tmp_path / "watched_settings.py").write_text(
        f"from tests.settings import *\nREDIS_POOL = {{'CONNECTION_URL': {server.url!r}, 'PUBLISH_INTERVAL': 0.1}}\n"
    )
    command = [sys.executable, "-m", "django", "redis_health", "--all", "--watch", "0.1", "--settings=watched_settings"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
        os.execv(command[0], command)
    written = b""
    try:
        while written.count(b"\x1b[H") < 15:
            written += os.read(terminal, 65536)
        os.write(terminal, b"\x03")  # Ctrl-C
        with contextlib.suppress(OSError):
            while chunk := os.read(terminal, 65536):
                written += chunk
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        child = 0
    finally:
        os.close(terminal)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert code == 0, written
    assert written.count(b"\x1b[2J") == 1
    # What lives longer than a second is a worker itself.
    assert b"command: redis_health" in written
    assert b"Traceback" not in written
