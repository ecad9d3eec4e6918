"""What one command changes about its connection reaches no other caller, and what cannot be true is not sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from operator import methodcaller as do

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.protocol.commands import LEAVES_NO_STATE, leaves_state
from redispool_app.exceptions import CommandRefused
from tests.engine.client.test_lost_transactions import awaited

LARGE = "x" * 2_000_000
"""A value of this size travels on a borrowed connection."""


@pytest.fixture(params=[(AsyncRedis, 2), (AsyncRedis, 3), (SyncRedis, 2), (SyncRedis, 3)], ids=str)
def make(request, own_server):
    kind, protocol = request.param

    def make(**options):
        return kind(port=own_server.port, protocol=protocol, client_name="given", **options)

    return make


async def closed(client):
    await awaited(client.aclose() if isinstance(client, AsyncRedis) else client.close())


async def state_of_borrowed(client):
    """What the next caller finds on a borrowed connection: facts of CLIENT INFO."""
    info = await awaited(client.client_info())
    facts = ("name", "db", "flags", "resp", "user", "sub", "multi", "watch", "lib-name")
    return {key: info[key] for key in facts if key in info}


LEAVING = [
    ("READONLY",),
    ("READWRITE",),
    ("ASKING",),
    ("CLIENT", "SETNAME", "mine"),
    ("CLIENT SETNAME", "mine"),
    ("client", "tracking", "on"),
    ("CLIENT", b"NO-EVICT", "on"),
    ("CLIENT", "NO-TOUCH", "ON"),
    ("CLIENT", "SETINFO", "LIB-NAME", "mine"),
    ("RESET",),
    ("HELLO", 3),
    ("HELLO", 2, "SETNAME", "mine"),
    ("QUIT",),
    ("CLIENT", "REPLY", "ON"),
]


async def test_no_state_reaches_the_next_borrower(make, own_server):
    client = make(retry=None)
    try:
        assert await awaited(client.ping())
        usual = await state_of_borrowed(client)
        for command in LEAVING:
            with contextlib.suppress(redis_exceptions.ResponseError):  # READONLY and its kin, without a cluster
                await awaited(client.execute_command(*command))
            assert await state_of_borrowed(client) == usual, command
            assert await awaited(client.set("k", LARGE)) is True, command
            assert await awaited(client.strlen("k")) == len(LARGE), command
    finally:
        await closed(client)


async def test_a_connection_whose_state_is_as_before_is_kept(make, own_server):
    client = make()
    try:
        first = await awaited(client.client_id())
        for call in (do("client_list"), do("client_info"), do("client_getname"), do("client_trackinginfo")):
            await awaited(call(client))
        assert await awaited(client.client_id()) == first
        await awaited(client.client_setname("mine"))
        assert await awaited(client.client_id()) != first
    finally:
        await closed(client)


async def test_state_lasts_within_a_pipeline_and_ends_with_it(make, own_server):
    client = make()
    try:
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("SELECT", 3)
        pipe.set("k", "in 3")
        pipe.client_setname("mine")
        pipe.client_getname()
        *_, name = await awaited(pipe.execute())
        assert name in ("mine", b"mine")
        assert (await state_of_borrowed(client))["db"] in (0, "0")
        assert await awaited(client.exists("k")) == 0
        pipe = client.pipeline()
        await awaited(pipe.watch("k"))
        await awaited(pipe.client_setname("mine"))
        await awaited(pipe.reset())
        assert (await state_of_borrowed(client))["name"] == "given"
    finally:
        await closed(client)


async def test_a_watching_pipeline_gives_its_connection_back_open(make, own_server):
    client = make()
    try:
        first = await awaited(client.client_id())
        pipe = client.pipeline()
        await awaited(pipe.watch("k"))
        assert await awaited(pipe.client_id()) == first
        pipe.multi()
        pipe.set("k", "v")
        assert await awaited(pipe.execute()) == [True]
        assert await awaited(client.client_id()) == first
    finally:
        await closed(client)


async def test_a_client_of_one_connection_closes_what_it_has_changed(make, own_server):
    client = make()
    try:
        single = client.client()
        assert await awaited(single.select(3))
        assert await awaited(single.set("k", "in 3"))
        assert await awaited(single.get("k")) in ("in 3", b"in 3")
        await closed(single)
        assert (await state_of_borrowed(client))["db"] in (0, "0")
        assert await awaited(client.exists("k")) == 0
    finally:
        await closed(client)


async def test_what_a_client_of_one_connection_watches_aborts_no_transaction_of_others(make, own_server):
    client = make()
    try:
        single = client.client()
        assert await awaited(single.execute_command("WATCH", "k"))
        await closed(single)
        with own_server.client() as other:
            other.set("k", "changed")
        pipe = client.pipeline().set("large", LARGE)  # on the connection that was given back, if it is open
        assert await awaited(pipe.execute()) == [True]
    finally:
        await closed(client)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_code_that_borrows_a_connection_itself_leaves_no_state_either(own_server, pool_settings, kind):
    manager = pool_settings(own_server.url)
    client = await manager.get_client() if kind == "async" else manager.get_sync_client()
    pool = client.connection_pool
    usual = await state_of_borrowed(client)
    for command in (("SELECT", 3), ("CLIENT", "SETNAME", "mine"), ("MULTI",), ("SUBSCRIBE", "a"), ("HELLO", 3)):
        connection = await awaited(pool.get_connection())
        await awaited(connection.send_command(*command))
        await awaited(connection.read_response())
        await awaited(pool.release(connection))
        assert await state_of_borrowed(client) == usual, command
    number = await awaited(client.client_id())
    pipe = client.pipeline()
    await awaited(pipe.watch("k"))
    await awaited(pipe.reset())
    assert await awaited(client.client_id()) == number, "WATCH is ended, not its connection"


REFUSED = {
    "SELECT": (do("select", 3), "alias of REDIS_POOL"),
    "select": (do("execute_command", "select", 3), "alias of REDIS_POOL"),
    "MULTI": (do("execute_command", "MULTI"), "client.pipeline()"),
    "EXEC": (do("execute_command", b"exec"), "client.pipeline()"),
    "DISCARD": (do("execute_command", "DISCARD"), "client.pipeline()"),
    "WATCH": (do("execute_command", "Watch", "k"), "pipe.watch()"),
    "CLIENT REPLY OFF": (do("client_reply", "OFF"), "dedicated connection"),
    "CLIENT REPLY SKIP": (do("execute_command", "client reply", b"skip"), "dedicated connection"),
    "SUBSCRIBE": (do("execute_command", "SUBSCRIBE", "a", "b"), "client.pubsub()"),
    "unsubscribe": (do("execute_command", b"sunsubscribe"), "client.pubsub()"),
    "MONITOR": (do("execute_command", "monitor"), "client.monitor()"),
    "SYNC": (do("sync"), "redis-cli --rdb"),
    "PSYNC": (do("psync", "?", -1), "redis-cli --rdb"),
    "REPLCONF": (do("execute_command", "REPLCONF", "ACK", 1), "redis-cli --rdb"),
    "SCRIPT DEBUG": (do("execute_command", "SCRIPT", b"debug", "YES"), "redis-cli --ldb"),
    "script debug": (do("execute_command", "script debug", "SYNC"), "redis-cli --ldb"),
    "WAIT": (do("wait", 0, 0), "transaction=False"),
    "WAITAOF": (do("waitaof", 0, 0, 0), "transaction=False"),
    "raw WAIT": (do("execute_raw", "WAIT", 0, 0), "transaction=False"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_shared_client_refuses_in_one_line_that_names_the_cure(make, own_server, name):
    call, cure = REFUSED[name]
    client = make()
    try:
        await awaited(client.ping())
        before = own_server.info("stats")["total_commands_processed"]
        with pytest.raises(CommandRefused) as caught:
            await awaited(call(client))
        assert cure in str(caught.value)
        assert "\n" not in str(caught.value)
        # Nothing was sent: the handshake and INFO of these two looks are all.
        assert own_server.info("stats")["total_commands_processed"] - before <= 4
    finally:
        await closed(client)


async def test_a_refusal_is_an_error_of_the_server_to_programs_that_know_redis_py(make):
    client = make()
    try:
        with pytest.raises(redis_exceptions.ResponseError):
            await awaited(client.select(1))
    finally:
        await closed(client)


async def test_a_silent_command_is_refused_in_a_pipeline_too(make):
    client = make()
    try:
        pipe = client.pipeline(transaction=False)
        pipe.set("k", "v").client_reply("OFF")
        with pytest.raises(CommandRefused):
            await awaited(pipe.execute())
        assert len(pipe) == 0
        pipe.set("k", "v")
        assert await awaited(pipe.execute()) == [True]
    finally:
        await closed(client)


def test_whatever_the_server_calls_a_connection_command_is_decided(own_server):
    with own_server.client() as admin:
        table = admin.command()
    keep = {"command", "discard", "echo", "exec", "ping", "unwatch", "wait", "waitaof"}
    kept = set()
    for name, about in table.items():
        categories = set(about["acl_categories"])
        if categories & {"@connection", "@transaction"} and not leaves_state([name]):
            kept.add(name)
        if name == "client":
            subcommands = {entry[0].decode().split("|")[1].upper() for entry in about["subcommands"]}
    assert kept == keep, "decide about each in engine/protocol/commands.py"
    assert subcommands >= LEAVES_NO_STATE
    assert {name for name in subcommands if leaves_state(["CLIENT", name])} == subcommands - LEAVES_NO_STATE


async def test_callers_side_by_side_never_meet_a_state(make, own_server):
    client = make(retry=None, max_connections=12)
    commands = itertools.cycle([("RESET",), ("HELLO", 2), ("CLIENT", "SETNAME", "mine"), ("QUIT",)])
    try:
        usual = await state_of_borrowed(client)
        for _ in range(10):
            work = [awaited(client.execute_command(*next(commands))) for _ in range(4)]
            if isinstance(client, AsyncRedis):
                await asyncio.gather(*work, client.set("k", LARGE))
            else:
                for each in work:
                    await each
            assert await state_of_borrowed(client) == usual
    finally:
        await closed(client)


@pytest.mark.parametrize("words", [("SYNC",), ("PSYNC", "?", -1), ("SCRIPT", "DEBUG", "YES")])
async def test_a_connection_that_is_held_refuses_what_has_no_reply_too(make, words):
    client = make()
    try:
        pipe = client.pipeline()
        await awaited(pipe.watch("k"))
        with pytest.raises(CommandRefused):
            await awaited(pipe.execute_command(*words))
        assert await awaited(pipe.get("k")) is None
        await awaited(pipe.reset())
    finally:
        await closed(client)
