"""docs/workers.md is true: its permissions suffice, its keys exist, its example runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from redispool_app.engine.runtime import process
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.workers import orders, publisher, roster, snapshot
from tests.support.servers import RedisServer, eventually
from tests.support.workers import INTERVAL, ids, problems

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "workers.md").read_text()
ME = process.worker_id()
PoolSettings = Callable[..., RedisConnectionManager]


def test_the_permissions_it_names_suffice_for_everything(own_server: RedisServer, pool_settings: PoolSettings) -> None:
    (line,) = re.findall(r"^ACL SETUSER app (.+)$", MANUAL, re.MULTILINE)
    with own_server.client() as client:
        own = ["+ping", "+client|setname", "+client|setinfo"]
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", *line.split(), *own)
    manager = pool_settings(own_server.url, PUBLISH_INTERVAL=INTERVAL, USERNAME="app", PASSWORD="secret")
    manager.get_sync_client().ping()
    eventually(lambda: ids(manager) == {ME})
    with own_server.client() as client:
        client.sadd("{redispool:default}:workers", "gone:1")
    found = roster.read(manager)
    assert (found.problem, [line for line in found.differences if "compared" in line]) == (None, [])
    with own_server.client() as client:
        assert client.smembers("{redispool:default}:workers") == {ME.encode()}
    order = orders.send(manager, "resume")
    eventually(lambda: publisher.recent("default")[-1]["obeyed"] == order)
    assert problems(manager) == []


def test_its_keys_are_those_that_exist(server: RedisServer, pool_settings: PoolSettings) -> None:
    manager = pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL)
    manager.get_sync_client().ping()
    eventually(lambda: ids(manager) == {ME})
    orders.send(manager, "resume")
    named = re.findall(r"^\| `(\{redispool:ALIAS\}\S+)` \| (\w+)", MANUAL, re.MULTILINE)
    host, pid = ME.split(":")
    wanted = {name.replace("ALIAS", "default").replace("HOST", host).replace("PID", pid): kind for name, kind in named}
    with server.client() as client:
        assert {key.decode(): client.type(key).decode() for key in client.scan_iter()} == wanted


def test_it_names_every_key_of_a_snapshot(manager: RedisConnectionManager) -> None:
    section = MANUAL.partition("## A snapshot")[2].partition("## ")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", section)) - {"null"} == {*snapshot.take(manager), "seen_seconds"}


def test_its_example_runs(server: RedisServer, pool_settings: PoolSettings, capsys: pytest.CaptureFixture[str]) -> None:
    pool_settings(server.url, PUBLISH_INTERVAL=INTERVAL).get_sync_client().ping()
    (example,) = re.findall(r"```python\n(.+?)```", MANUAL, re.DOTALL)
    exec(compile(example, "docs/workers.md", "exec"), {})
    assert "None []" in capsys.readouterr().out
