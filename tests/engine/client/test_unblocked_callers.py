"""A command that waits while its server is demoted: it ends the wait, which goes on at the new one."""

# ruff: noqa: F811 (a fixture and its parameter have one name)

from __future__ import annotations

import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.blocking import with_time_left
from tests.engine.health.test_demoted_primary import PATIENT, SIDES, Caller, failover, loop  # noqa: F401 (fixtures)
from tests.support.failovers import NEW, OLD
from tests.support.servers import eventually

WAITING = {
    "BLPOP": (("BLPOP", "jobs", 20), [b"jobs", b"job"]),
    "brpop for ever": ((b"brpop", "jobs", 0), [b"jobs", b"job"]),
    "BLMOVE": (("BLMOVE", "jobs", "taken", "LEFT", "RIGHT", 20), b"job"),
    "BRPOPLPUSH": (("BRPOPLPUSH", "jobs", "taken", 20), b"job"),
    "BLMPOP": (("BLMPOP", 20, 1, "jobs", "LEFT"), [b"jobs", [b"job"]]),
    "BZPOPMIN": (("BZPOPMIN", "scores", 20), [b"scores", b"member", 1.0]),
    "BZMPOP": (("BZMPOP", 20, 1, "scores", "MIN"), None),
    "XREAD": (("XREAD", "BLOCK", 20_000, "STREAMS", "log", "0"), None),
}


def waiting(server):
    with server as admin:
        return admin.info("clients")["blocked_clients"]


def move(failover):
    """Let the name move, and then demote the old primary: what is sent again a moment later must find the new one."""
    failover.move_name()
    failover.demote()


def in_thread(call):
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("name", WAITING)
@SIDES
def test_a_command_that_waits_at_a_demotion_goes_on_with_the_new_primary(side, name, failover, loop, pool_settings):
    command, expected = WAITING[name]
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    thread, outcome = in_thread(lambda: caller.call(*command))
    eventually(lambda: waiting(failover.admin(OLD)) == 1, 10)
    move(failover)
    eventually(lambda: waiting(failover.admin(NEW)) == 1 or not thread.is_alive(), 10)
    with failover.admin(NEW) as new:
        new.rpush("jobs", "job")
        new.zadd("scores", {"member": 1})
        new.xadd("log", {"a": 1})
    thread.join(30)
    [reply] = outcome
    assert not isinstance(reply, Exception), reply
    if expected is None:
        assert reply
    else:
        assert (list(reply) if isinstance(reply, tuple) else reply) == expected
    if "taken" in command:
        with failover.admin(NEW) as new:
            assert new.lrange("taken", 0, -1) == [b"job"]
    loop.run(manager.close())


@SIDES
def test_while_the_name_leads_to_the_old_primary_it_gets_what_every_write_gets(side, failover, loop, pool_settings):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    thread, outcome = in_thread(lambda: caller.call("BLPOP", "jobs", 20))
    eventually(lambda: waiting(failover.admin(OLD)) == 1, 10)
    failover.demote()
    thread.join(15)
    assert isinstance(outcome[0], redis_exceptions.ReadOnlyError), outcome
    assert manager.get_pool_info()["warning_kind"] == "readonly"
    loop.run(manager.close())


@SIDES
def test_it_waits_no_longer_in_all_than_it_would_have(side, failover, loop, pool_settings):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    began = time.monotonic()
    thread, outcome = in_thread(lambda: caller.call("BLPOP", "jobs", 5))
    eventually(lambda: waiting(failover.admin(OLD)) == 1, 10)
    time.sleep(3)
    move(failover)
    thread.join(30)
    assert outcome == [None]
    assert time.monotonic() - began < 7.5
    loop.run(manager.close())


@SIDES
def test_what_an_operator_unblocks_with_an_error_is_not_sent_again(side, failover, loop, pool_settings):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    thread, outcome = in_thread(lambda: caller.call("BLPOP", "jobs", 20))
    eventually(lambda: waiting(failover.admin(OLD)) == 1, 10)
    with failover.admin(OLD) as old:
        [number] = [each["id"] for each in old.client_list() if each["cmd"] == "blpop"]
        old.client_unblock(number, error=True)
    thread.join(15)
    assert isinstance(outcome[0], redis_exceptions.ResponseError), outcome
    assert "UNBLOCKED" in str(outcome[0])
    loop.run(manager.close())


def test_what_a_command_says_of_its_time_is_what_is_left():
    assert with_time_left(("BLPOP", "a", "b", 5), 2) == ("BLPOP", "a", "b", 3.0)
    assert with_time_left(("BLPOP", "a", 5), 7) == ("BLPOP", "a", 0.01)
    assert with_time_left((b"blpop", "a", b"5"), 2) == (b"blpop", "a", 3.0)
    assert with_time_left(("BLPOP", "a", 0), 7) == ("BLPOP", "a", 0)
    assert with_time_left(("BZMPOP", 5, 1, "a", "MIN"), 2) == ("BZMPOP", 3.0, 1, "a", "MIN")
    xread = ("XREAD", "COUNT", 1, b"block", 5000, "STREAMS", "BLOCK", "0")
    assert with_time_left(xread, 2) == ("XREAD", "COUNT", 1, b"block", 3000, "STREAMS", "BLOCK", "0")
    assert with_time_left(("XREAD", "BLOCK", 0, "STREAMS", "a", "0"), 2) == ("XREAD", "BLOCK", 0, "STREAMS", "a", "0")
    assert with_time_left(("XREAD", "BLOCK", 5, "STREAMS", "a", "0"), 2)[2] == 10
    assert with_time_left(("XREAD BLOCK 5000 STREAMS a 0",), 2) == (b"XREAD", b"BLOCK", 3000, b"STREAMS", b"a", b"0")
    assert with_time_left(("WAIT", 1, 5000), 2) is None
    assert with_time_left(("GET", "a"), 2) is None
    assert with_time_left(("BLPOP",), 2) is None
