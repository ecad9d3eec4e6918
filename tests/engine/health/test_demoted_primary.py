"""A primary that becomes a replica while its name leads to another: connections are replaced, and no write fails."""

from __future__ import annotations

import asyncio
import threading
import time
from copy import copy

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.connection.read_only import is_refusal
from redispool_app.engine.runtime.nesting import inside
from tests.support.failovers import NAME, NEW, OLD, Failover
from tests.support.servers import eventually

LARGE = "x" * (2 * 1024 * 1024)
"""Travels on a connection of its own."""
SIDES = pytest.mark.parametrize("side", ["async", "sync"])
PATIENT = {"SOCKET_TIMEOUT": 30, "HEALTH_CHECK_INTERVAL": 60}


@pytest.fixture
def failover(monkeypatch, tmp_path):
    failover = Failover(monkeypatch, tmp_path)
    yield failover
    failover.stop()


class Loop:
    """An event loop in a thread, on which a synchronous test runs coroutines."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *args):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


class Caller:
    """A client of one side, whatever side that is."""

    def __init__(self, side, loop, make):
        self.side, self._loop = side, loop
        self.client = loop.run(make()) if side == "async" else make()

    def call(self, *command):
        reply = self.client.execute_command(*command)
        return self._loop.run(_awaited(reply)) if self.side == "async" else reply

    def pipeline(self, *commands, transaction, raise_on_error=True):
        pipe = self.client.pipeline(transaction=transaction)
        for command in commands:
            pipe.execute_command(*command)
        replies = pipe.execute(raise_on_error=raise_on_error)
        return self._loop.run(_awaited(replies)) if self.side == "async" else replies

    def together(self, *commands):
        """Run commands at the same time; return their replies, or their errors."""
        if self.side == "async":

            async def gather():
                calls = (self.client.execute_command(*command) for command in commands)
                return await asyncio.gather(*calls, return_exceptions=True)

            return self._loop.run(gather())
        replies = [None] * len(commands)

        def call(at):
            try:
                replies[at] = self.call(*commands[at])
            except Exception as error:
                replies[at] = error

        threads = [threading.Thread(target=call, args=(at,)) for at in range(len(commands))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return replies


async def _awaited(reply):
    return await reply


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture(params=["managed", "bare"])
def caller_of(request, failover, loop, pool_settings):
    """Make a caller of either side, of the manager's client or of one without a manager."""
    manager = pool_settings(failover.url, **PATIENT)

    def make(side):
        if request.param == "bare":
            kind = AsyncRedis if side == "async" else SyncRedis
            client = kind(host=NAME, port=failover.port, socket_timeout=30)

            async def bare():
                return client

            caller = Caller(side, loop, bare if side == "async" else lambda: client)
            callers.append(caller)
            return caller
        return Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)

    callers = []
    yield make
    for caller in callers:
        if caller.side == "async":
            loop.run(caller.client.aclose())
        else:
            caller.client.close()
    loop.run(manager.close())


def stored(failover, key):
    with failover.admin(NEW) as client:
        return client.get(key)


@SIDES
def test_a_write_after_a_failover_is_sent_to_the_new_primary(side, failover, caller_of):
    caller = caller_of(side)
    assert caller.call("SET", "key", 1)
    failover.switch()
    assert caller.call("SET", "key", 2)
    assert stored(failover, "key") == b"2"
    assert caller.call("GET", "key") == b"2"


@SIDES
def test_many_writers_at_once_cost_one_connection_and_none_fails(side, failover, caller_of):
    caller = caller_of(side)
    caller.call("SET", "key", 1)
    failover.switch()
    before = failover.connections(NEW)
    replies = caller.together(*(("INCR", f"n{number}") for number in range(50)))
    assert replies == [1] * 50
    assert failover.connections(NEW) - before <= 4, "the new connection, and those of the test itself"
    assert [stored(failover, f"n{number}") for number in range(50)] == [b"1"] * 50
    with failover.admin(OLD) as old:
        eventually(lambda: len(old.client_list(_type="normal")) == 1, 5)  # the old connection is closed


@SIDES
def test_a_large_write_on_a_connection_of_its_own_is_sent_again_too(side, failover, caller_of):
    caller = caller_of(side)
    caller.call("SET", "key", LARGE)
    failover.switch()
    assert caller.call("SET", "key", LARGE + "y")
    assert stored(failover, "key") == (LARGE + "y").encode()
    caller.call("SET", "small", 1)
    assert stored(failover, "small") == b"1"


@SIDES
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("raise_on_error", [True, False])
def test_a_transaction_is_sent_again_as_a_whole(side, size, raise_on_error, failover, caller_of):
    caller = caller_of(side)
    value = LARGE if size == "large" else "v"
    commands = [("SET", "key", value), ("INCR", "n"), ("GET", "n")]
    caller.pipeline(*commands, transaction=True)
    failover.switch()
    replies = caller.pipeline(*commands, transaction=True, raise_on_error=raise_on_error)
    assert replies == [True, 2, b"2"]
    assert stored(failover, "n") == b"2"


@SIDES
@pytest.mark.parametrize("size", ["small", "large"])
def test_of_a_pipeline_only_what_was_refused_is_sent_again(side, size, failover, caller_of):
    caller = caller_of(side)
    caller.call("SET", "n", 1)
    value = LARGE if size == "large" else "v"
    caller.pipeline(("GET", "n"), ("SET", "key", value), transaction=False)
    failover.switch()
    with failover.admin(OLD) as old:
        eventually(lambda: old.info("replication")["master_link_status"] == "up", 20)
        before = old.info("commandstats")["cmdstat_get"]["calls"]
    replies = caller.pipeline(("GET", "n"), ("INCR", "n"), ("SET", "key", value), transaction=False)
    assert replies == [b"1", 2, True]
    with failover.admin(OLD) as old:
        assert old.info("commandstats")["cmdstat_get"]["calls"] == before + 1, "the read was answered there, once"
    assert stored(failover, "n") == b"2"


@SIDES
@pytest.mark.parametrize("change", [[("SELECT", 3)], [("MULTI",)]], ids=["SELECT", "MULTI"])
def test_a_pipeline_that_changes_its_connection_is_not_sent_again_in_part(side, change, failover, caller_of):
    caller = caller_of(side)
    commands = [*change, ("SET", "key", "v")]
    if change == [("MULTI",)]:
        commands.append(("EXEC",))
    caller.call("BLPOP", "none", 0.01)  # leaves a connection in the pool
    failover.switch()
    with pytest.raises(redis_exceptions.ReadOnlyError):
        caller.pipeline(*commands, transaction=False)
    assert stored(failover, "key") is None
    replies = caller.pipeline(*commands, transaction=False)
    assert not [reply for reply in replies if isinstance(reply, Exception)]
    assert stored(failover, "key") == (None if change == [("SELECT", 3)] else b"v")


@SIDES
def test_a_wait_is_sent_again_with_the_write_that_it_answers_for(side, failover, caller_of):
    caller = caller_of(side)
    caller.call("BLPOP", "none", 0.01)
    failover.switch()
    with failover.admin(OLD) as old:
        eventually(lambda: old.info("replication")["master_link_status"] == "up", 20)
    assert caller.pipeline(("SET", "key", "v"), ("WAIT", 1, 20_000), ("GET", "key"), transaction=False)[:2] == [True, 1]
    assert stored(failover, "key") == b"v"


@SIDES
def test_a_client_of_one_connection_connects_again(side, failover, loop, caller_of):
    caller = copy(caller_of(side))
    caller.client = single = caller.client.client()
    caller.call("SET", "key", 1)
    failover.switch()
    assert caller.call("SET", "key", 2) is True
    assert stored(failover, "key") == b"2"
    assert caller.call("GET", "key") == b"2"
    loop.run(single.aclose()) if side == "async" else single.close()


@SIDES
def test_a_client_of_one_connection_that_has_state_does_not(side, failover, loop, caller_of):
    caller = copy(caller_of(side))
    caller.client = single = caller.client.client()
    caller.call("SELECT", 3)
    caller.call("SET", "key", 1)
    failover.switch()
    with pytest.raises(redis_exceptions.ReadOnlyError):
        caller.call("SET", "key", 2)
    assert stored(failover, "key") is None
    assert caller.call("GET", "key") == b"1"  # database 3 of the old server
    loop.run(single.aclose()) if side == "async" else single.close()


def nested(caller, call):
    """Run a call as one that a signal handler makes while its thread is inside another call."""
    inside[threading.get_ident()] = caller.client.sharing
    try:
        return call()
    finally:
        del inside[threading.get_ident()]


@pytest.mark.parametrize("transaction", [True, False])
def test_a_nested_pipeline_is_sent_again_on_a_new_connection_too(transaction, failover, caller_of):
    caller = caller_of("sync")
    caller.call("SET", "key", 1)
    assert nested(caller, lambda: caller.call("SET", "key", 2))  # its connection is kept
    failover.switch()
    commands = [("SET", "key", 3), ("INCR", "n")]
    assert nested(caller, lambda: caller.pipeline(*commands, transaction=transaction)) == [True, 1]
    assert stored(failover, "key") == b"3"


@SIDES
def test_a_watch_is_not_moved_to_a_new_connection(side, failover, loop, caller_of):
    caller = caller_of(side)
    caller.call("SET", "n", 1)

    async def watching():
        async with caller.client.pipeline() as pipe:
            await pipe.watch("n")
            pipe.multi()
            pipe.incr("n")
            failover.switch()
            await pipe.execute()

    with pytest.raises(redis_exceptions.ReadOnlyError):
        if side == "async":
            loop.run(watching())
        else:
            with caller.client.pipeline() as pipe:
                pipe.watch("n")
                pipe.multi()
                pipe.incr("n")
                failover.switch()
                pipe.execute()


@SIDES
def test_writes_under_way_on_the_old_connection_are_not_unknown(side, failover, caller_of):
    caller = caller_of(side)
    caller.call("SET", "key", 1)
    with failover.admin(OLD) as old:
        old.client_pause(1000, all=False)  # holds back writes, and what comes after them on the same connection
    outcome = []
    held = threading.Thread(target=lambda: outcome.append(caller.together(("SET", "a", 1), ("SET", "b", 1))))
    held.start()
    time.sleep(0.2)
    failover.switch()
    held.join(30)
    assert outcome == [[True, True]]
    assert (stored(failover, "a"), stored(failover, "b")) == (b"1", b"1")


# While no primary is to be found.


@SIDES
def test_a_name_that_leads_to_a_replica_is_shown_and_is_no_outage(side, failover, loop, pool_settings, caplog):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    failover.demote()
    before = failover.connections(OLD)
    began, refused = time.monotonic(), 0
    while time.monotonic() - began < 1.5:
        with pytest.raises(redis_exceptions.ReadOnlyError):
            caller.call("SET", "key", 2)
        refused += 1
    assert failover.connections(OLD) - before <= 12, f"{refused} refused writes, and connections rarer and rarer"
    info = manager.get_pool_info()
    assert (info["state"], info["warning_kind"]) == ("healthy", "readonly")
    assert caller.call("GET", "key") == b"1"
    assert [each.fault_kind for each in caplog.records if each.levelname == "WARNING"] == ["readonly"]
    failover.move_name()
    eventually(lambda: _is_accepted(caller), 5)
    assert manager.get_pool_info()["warning"] is None
    loop.run(manager.close())


def _is_accepted(caller):
    try:
        return caller.call("SET", "key", 3)
    except redis_exceptions.ReadOnlyError:
        return False


@SIDES
def test_a_health_check_that_finds_a_primary_ends_the_warning(side, failover, loop, pool_settings):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    caller.call("SET", "key", 1)
    failover.demote()
    with pytest.raises(redis_exceptions.ReadOnlyError):
        caller.call("SET", "key", 2)
    check = (lambda: loop.run(manager._health_check())) if side == "async" else manager._health_check_sync
    assert check()
    assert manager.get_pool_info()["warning_kind"] == "readonly"
    with failover.admin(OLD) as old:
        old.execute_command("REPLICAOF", "NO", "ONE")
    assert check()
    assert manager.get_pool_info()["warning"] is None
    loop.run(manager.close())


@SIDES
def test_an_error_that_a_script_words_itself_is_not_sent_again(side, failover, caller_of):
    caller = caller_of(side)
    script = "redis.call('INCR', 'n') return redis.error_reply('READONLY says the script')"
    with pytest.raises(redis_exceptions.ReadOnlyError):
        caller.call("EVAL", script, 0)
    assert caller.call("GET", "n") == b"1"


def test_what_is_a_refusal():
    assert is_refusal(redis_exceptions.ReadOnlyError("You can't write against a read only replica."))
    assert is_refusal(redis_exceptions.ExecAbortError("Transaction discarded because of: READONLY You can't write"))
    assert not is_refusal(redis_exceptions.ExecAbortError("Transaction discarded because of previous errors."))
    assert is_refusal(redis_exceptions.ReadOnlyError("Can not run script with write flag on readonly replica."))
    assert not is_refusal(redis_exceptions.ReadOnlyError("something else"))
    assert not is_refusal(b"READONLY")


WRITES = "return redis.call('SET', KEYS[1], ARGV[1])"
"""The server finds out only while it runs the script that a replica must refuse it."""


@SIDES
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("raise_on_error", [True, False])
def test_a_script_within_a_transaction_is_sent_again_with_it(side, size, raise_on_error, failover, caller_of):
    caller = caller_of(side)
    value = LARGE if size == "large" else "v"
    commands = [("GET", "key"), ("EVAL", WRITES, 1, "key", value)]
    caller.pipeline(*commands, transaction=True)
    failover.switch()
    replies = caller.pipeline(*commands, transaction=True, raise_on_error=raise_on_error)
    assert replies == [value.encode(), b"OK"]
    with failover.admin(NEW) as new:
        assert new.info("commandstats")["cmdstat_eval"]["calls"] == 1


@SIDES
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("raise_on_error", [True, False])
def test_a_script_within_a_transaction_shows_that_the_name_leads_to_a_replica(
    side, size, raise_on_error, failover, loop, pool_settings
):
    manager = pool_settings(failover.url, **PATIENT)
    caller = Caller(side, loop, manager.get_client if side == "async" else manager.get_sync_client)
    commands = [("GET", "key"), ("EVAL", WRITES, 1, "key", LARGE if size == "large" else "v")]
    caller.pipeline(*commands, transaction=True)
    failover.demote()
    if raise_on_error:
        with pytest.raises(redis_exceptions.ReadOnlyError):
            caller.pipeline(*commands, transaction=True)
    else:
        replies = caller.pipeline(*commands, transaction=True, raise_on_error=False)
        assert is_refusal(replies[1])
    assert manager.get_pool_info()["warning_kind"] == "readonly"
    failover.move_name()
    eventually(lambda: caller.pipeline(*commands, transaction=True, raise_on_error=False)[1] == b"OK", 5)
    assert manager.get_pool_info()["warning"] is None
    loop.run(manager.close())
