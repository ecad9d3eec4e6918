"""docs/runtimes.md lists the commands that a client refuses, each with the cure that the error names."""

from __future__ import annotations

import re

import pytest
from redis.exceptions import ResponseError

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import CommandRefused
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.prose import ROOT

PAGE = (ROOT / "docs" / "runtimes.md").read_text()
SECTION = PAGE.split("## Commands that a shared client refuses")[1].split("## Threads")[0]
ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", SECTION, re.MULTILINE)[1:]
ARGUMENTS = {"SELECT": "0", "WATCH": "key", "SUBSCRIBE": "channel", "PSYNC": "? -1", "WAIT": "0 1", "WAITAOF": "0 0 1"}
CURES = {
    command: re.findall(r"`([^`]+)`", cure)
    for commands, cure in ROWS
    for command in re.findall(r"[A-Z]{2,}(?: [A-Z]{2,})*", commands)
}


@pytest.fixture
def client(server: object, manager: RedisConnectionManager) -> SyncRedis:
    return manager.get_sync_client()


def run(client: SyncRedis, command: str) -> None:
    client.execute_command(*command.split(), *ARGUMENTS.get(command, "").split())


def test_the_table_has_the_commands_that_are_tried_here() -> None:
    assert len(CURES) == 16
    assert set(ARGUMENTS) <= set(CURES)


@pytest.mark.parametrize("command", sorted(CURES.keys() - {"AUTH"}))
def test_a_shared_client_refuses_a_command_and_names_the_cure(command: str, client: SyncRedis) -> None:
    with pytest.raises(CommandRefused) as caught:
        run(client, command)
    assert [cure for cure in CURES[command] if cure not in str(caught.value)] == []


def test_a_shared_client_refuses_another_user(client: SyncRedis) -> None:
    with pytest.raises(CommandRefused, match="alias"):
        client.auth("secret", "bob")


@pytest.mark.parametrize("command", ["SYNC", "PSYNC", "SCRIPT DEBUG", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "WAIT"])
def test_a_client_of_one_connection_refuses_what_the_page_says(command: str, client: SyncRedis) -> None:
    (said,) = re.findall(r"It refuses only ([\s\S]+?) without a write before it\.", SECTION)
    assert command.split()[-1] in said
    own = client.client()
    with pytest.raises(CommandRefused):
        run(own, command)
    own.close()


@pytest.mark.parametrize("command", ["SELECT", "MULTI", "EXEC", "DISCARD", "WATCH", "SUBSCRIBE", "MONITOR"])
def test_a_client_of_one_connection_sends_the_others(command: str, client: SyncRedis) -> None:
    own = client.client()
    try:
        run(own, command)
    except ResponseError as error:  # the server's own answer: EXEC without MULTI
        refused = isinstance(error, CommandRefused)
    else:
        refused = False
    own.close()
    assert not refused
