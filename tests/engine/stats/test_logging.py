"""What is logged, with which fields, and how often."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redispool_app.engine.stats.log_throttle import INTERVAL, LogThrottle
from redispool_app.exceptions import PoolTimeout
from tests.support.servers import eventually, free_port

ROOT = Path(__file__).resolve().parents[3]
MANUAL = (ROOT / "docs" / "logging.md").read_text()


def of(caplog, logger):
    return [record for record in caplog.records if record.name == logger]


# Fields.


def test_an_outage_and_its_end_have_fields(own_server, pool_settings, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    manager = pool_settings(own_server.url)
    manager.get_sync_client()
    own_server.kill()
    assert not manager._health_check_sync()
    own_server.start()
    eventually(lambda: len(of(caplog, "redispool_app.health")) == 2)
    down, up = of(caplog, "redispool_app.health")
    where = own_server.where
    assert (down.levelname, down.pool, down.state, down.fault_kind, down.where) == (
        "WARNING",
        "default",
        "unhealthy",
        "refused",
        where,
    )
    assert (up.levelname, up.pool, up.state, up.fault_kind, up.where) == ("INFO", "default", "healthy", None, where)


def test_a_slow_command_has_fields_and_no_key(server, pool_settings, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    manager = pool_settings(server.url, SLOW_COMMAND=0.03)
    client = manager.get_sync_client()
    for _ in range(3):
        with server.client() as admin:
            admin.client_pause(50)
        client.get("key-of-a-customer")
    (record,) = of(caplog, "redispool_app.commands")
    assert (record.pool, record.command, record.callers, record.left_out) == ("default", "GET", 1, 0)
    assert record.duration_ms > 30
    assert "customer" not in record.getMessage()


def test_a_pause_has_fields(manager, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    manager.pause(7)
    manager.resume()
    assert [(record.getMessage(), record.pool, record.state) for record in of(caplog, "redispool_app.pool")] == [
        ("Redis pool 'default' is paused for 7 s.", "default", "paused"),
        ("Redis pool 'default' is resumed.", "default", "resumed"),
    ]


def told_of_pauses(caplog):
    return [record.state for record in of(caplog, "redispool_app.pool")]


def test_a_pause_that_ends_by_itself_is_told_once(manager, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    client = manager.get_sync_client()
    client.ping()
    manager.pause(0.05)
    callers = [threading.Thread(target=client.ping) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert not manager.get_pool_info()["paused"]
    manager.resume()
    assert told_of_pauses(caplog) == ["paused", "resumed"]


def test_a_pause_that_a_close_ends_is_told(manager, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    manager.get_sync_client().ping()
    manager.pause(20)
    manager.close_sync()
    assert told_of_pauses(caplog) == ["paused", "resumed"]


def test_without_a_pause_no_end_of_one_is_told(manager, caplog):
    caplog.set_level(logging.INFO, "redispool_app")
    manager.get_sync_client().ping()
    manager.resume()
    manager.close_sync()
    assert told_of_pauses(caplog) == []


def test_an_exhausted_pool_is_told_in_one_line(server, pool_settings, caplog):
    manager = pool_settings(server.url, MAX_CONNECTIONS=2, TIMEOUT=0.01)
    client = manager.get_sync_client()
    with client.pipeline() as holder:
        holder.watch("a")
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                client.client_getname()
    (record,) = of(caplog, "redispool_app.pool")
    assert (record.levelname, record.pool, record.reason, record.left_out) == ("WARNING", "default", "PoolTimeout", 0)
    assert record.getMessage().startswith("Redis pool 'default' is exhausted: No Redis connection became free")
    assert record.getMessage().endswith("return connections sooner.")


# How often.


def test_after_a_message_there_is_silence_and_then_a_count(caplog):
    now = [0.0]
    limit, logger = LogThrottle(clock=lambda: now[0]), logging.getLogger("redispool_app.test")

    def say(number):
        return limit.log(logger, logging.WARNING, "Event %d", number, extra={"pool": "default"})

    assert [say(number) for number in range(5)] == [True, False, False, False, False]
    now[0] += INTERVAL - 0.1
    assert not say(5)
    now[0] += 0.1
    assert say(6)
    assert not say(7)
    assert [(record.getMessage(), record.left_out) for record in caplog.records] == [
        ("Event 0.", 0),
        ("Event 6 (5 more were not logged).", 5),
    ]


# The manual.


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", MANUAL, re.DOTALL)


PROGRAM = """
import logging.config, sys, types
formatter, settings = sys.argv[1:]
module = sys.modules["myproject.json_lines"] = types.ModuleType("myproject.json_lines")
sys.modules["myproject"] = types.ModuleType("myproject")
sys.modules["myproject"].json_lines = module
exec(formatter, module.__dict__)
exec(settings)
import django
django.setup()
logging.config.dictConfig(LOGGING)
from redispool_app.redis_pool import redis_connection_manager
redis_connection_manager._health_check_sync()
"""


def test_the_manuals_example_gives_the_line_it_promises():
    port = free_port()
    pool = {"CONNECTION_URL": f"redis://127.0.0.1:{port}", "PUBLISH_INTERVAL": None}
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.sites.settings", "REDIS_POOL": json.dumps(pool)}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *blocks("python")], cwd=ROOT, env=env, capture_output=True, text=True
    )
    (line,) = map(json.loads, ended.stderr.splitlines())
    (promised,) = (json.loads(block.replace("6379", str(port))) for block in blocks("json"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", line["time"])
    assert {**line, "time": ""} == {**promised, "time": ""}


def test_the_manual_names_every_logger():
    code = "".join(path.read_text() for path in (ROOT / "redispool_app").rglob("*.py"))
    loggers = set(re.findall(r'getLogger\("(redispool_app\.\w+)"\)', code))
    assert loggers == set(re.findall(r"^\| `(redispool_app\.\w+)`", MANUAL, re.MULTILINE))
    assert f"for {INTERVAL:g} seconds" in MANUAL
