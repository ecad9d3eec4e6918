"""Code that borrows a connection itself leaves nothing on it for the next borrower, however it sends its commands."""

from __future__ import annotations

import contextlib
from enum import Enum
from inspect import iscoroutinefunction

import pytest
from redis import exceptions as redis_exceptions
from redis.connection import PythonRespSerializer

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.connection.state import leave_state
from redispool_app.engine.pool.pool_async import AsyncPool
from tests.engine.client.test_lost_transactions import awaited
from tests.engine.connection.test_transports import PATIENT


class Word(str, Enum):  # noqa: UP042 (StrEnum has another str())
    WATCH = "watch"


LEAVING = [
    ("WATCH", "k"),
    (b"watch", b"k"),
    (Word.WATCH, "k"),
    ("WATCH k",),
    (b"watch k",),
    (bytearray(b"Watch"), "k"),
    ("MULTI",),
    (b"multi",),
    ("SUBSCRIBE", "a"),
    ("psubscribe", "a*"),
    (b"SSUBSCRIBE", "a"),
    ("SELECT", 3),
    ("select 3",),
    (b"select", b"3"),
    ("CLIENT", "REPLY", "OFF"),
    ("client reply", b"skip"),
    (b"CLIENT", b"no-evict", "on"),
    ("CLIENT NO-TOUCH", "on"),
    ("client", "tracking", "on"),
    (b"client tracking on",),
    ("CLIENT", "CACHING", "YES"),
    ("CLIENT", "SETNAME", "mine"),
    ("CLIENT", "SETINFO", "LIB-NAME", "mine"),
    ("CLIENT", "CAPA", "redirect"),
    ("ASKING",),
    ("readonly",),
    (b"READWRITE",),
    ("RESET",),
    ("HELLO", 3),
    ("AUTH", "other", "secret"),
    (b"auth other", "secret"),
    ("MONITOR",),
    ("QUIT",),
    ("SCRIPT", "DEBUG", "NO"),
]
SILENT = ("REPLY",)

KEEPING = [
    ("GET", "k"),
    ("SET", "MULTI", "WATCH k"),
    (b"set", "k", b"*1\r\n$5\r\nMULTI\r\n"),
    ("CLIENT", "ID"),
    ("client info",),
    ("UNWATCH",),
    ("EXEC",),
    ("SCRIPT", "EXISTS", "x"),
]


async def by_name(connection, *args):
    await awaited(connection.send_command(*args))


async def packed(connection, *args):
    await awaited(connection.send_packed_command(connection.pack_command(*args)))


async def packed_together(connection, *args):
    await awaited(connection.send_packed_command(connection.pack_commands([("PING",), args])))
    await awaited(connection.read_response())


async def as_bytes(connection, *args):
    await awaited(connection.send_packed_command([_wire(args)]))


async def as_text(connection, *args):
    text = _wire(args).decode()  # which redis-py's blocking connections do not take
    await awaited(connection.send_packed_command(text if iscoroutinefunction(connection.connect) else [text.encode()]))


async def in_pieces(connection, *args):
    """One command in two writes: none of the two is a whole one."""
    wire = _wire(args)
    await awaited(connection.send_packed_command([wire[:9]]))
    await awaited(connection.send_packed_command(part for part in [wire[9:]]))


async def while_closed(connection, *args):
    """The command itself connects, so what is known of the former socket says nothing about this one."""
    await awaited(connection.disconnect())
    await awaited(connection.send_command(*args))


WAYS = [by_name, packed, packed_together, as_bytes, as_text, in_pieces, while_closed]


def _wire(args):
    def encode(value):
        return value if isinstance(value, bytes | bytearray) else str(getattr(value, "value", value)).encode()

    return b"".join(PythonRespSerializer(6000, encode).pack(*args))


@pytest.fixture(params=["async", "sync"])
def make_pool(request, own_server, pool_settings):
    with own_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "other", "on", ">secret", "~*", "&*", "+@all")
    manager = pool_settings(own_server.url, CLIENT_NAME="given", **PATIENT)

    async def make():
        client = await manager.get_client() if request.param == "async" else manager.get_sync_client()
        return client.connection_pool

    return make


async def number_of(pool):
    """The number of the connection that the next borrower gets, and what the server knows about it."""
    connection = await awaited(pool.get_connection())
    await awaited(connection.send_command("CLIENT", "INFO"))
    info = await awaited(connection.read_response())
    facts = dict(fact.partition("=")[::2] for fact in (info.decode() if isinstance(info, bytes) else info).split())
    await awaited(pool.release(connection))
    state = [facts[key] for key in ("name", "db", "flags", "user", "sub", "psub", "watch")]
    return int(facts["id"]), [*state, facts["multi"].replace("-1", "0")]  # some servers say 0 after an EXEC


async def carried_out(pool, way, args):
    """Send one command in one of the ways on a borrowed connection; return the number that connection has then."""
    connection = await awaited(pool.get_connection())
    await way(connection, *args)
    words = " ".join(str(getattr(each, "value", each)) for each in args).upper()
    if not any(word in words for word in SILENT):
        with contextlib.suppress(redis_exceptions.ResponseError):
            await awaited(connection.read_response())
    await awaited(pool.release(connection))


@pytest.mark.parametrize("way", WAYS)
async def test_what_changes_a_connection_is_not_met_by_the_next_borrower(make_pool, way):
    pool = await make_pool()
    _, usual = await number_of(pool)
    for args in LEAVING:
        if way in (packed, packed_together) and isinstance(args[0], bytearray | Enum):
            continue  # redis-py packs these in another way
        before, _ = await number_of(pool)
        await carried_out(pool, way, args)
        after, state = await number_of(pool)
        assert state == usual, args
        assert after != before, args


@pytest.mark.parametrize("way", [by_name, packed, packed_together, as_bytes])
async def test_what_changes_nothing_costs_no_connection(make_pool, way):
    pool = await make_pool()
    before, usual = await number_of(pool)
    for args in KEEPING:
        await carried_out(pool, way, args)
        assert await number_of(pool) == (before, usual), args


async def test_a_watch_of_raw_code_aborts_no_transaction_of_the_next_borrower(make_pool, own_server):
    pool = await make_pool()
    connection = await awaited(pool.get_connection())
    await awaited(connection.send_command("WATCH", "k"))
    await awaited(connection.read_response())
    await awaited(pool.release(connection))
    with own_server.client() as other:
        other.set("k", "changed")
    connection = await awaited(pool.get_connection())
    for command in ("MULTI", "PING", "EXEC"):
        await awaited(connection.send_command(command))
        reply = await awaited(connection.read_response())
    assert reply is not None, "the transaction was aborted"
    await awaited(pool.release(connection))


async def test_raw_code_after_a_watching_pipeline_is_watched_again(make_pool):
    """That a pipeline ends its WATCH by itself holds for that pipeline, and not for the borrower after it."""
    pool = await make_pool()
    kind = AsyncRedis if isinstance(pool, AsyncPool) else SyncRedis
    client = kind(connection_pool=pool)
    before, usual = await number_of(pool)
    pipe = client.pipeline()
    await awaited(pipe.watch("k"))
    pipe.multi()
    pipe.set("k", "v")
    assert await awaited(pipe.execute()) == [True]
    assert await number_of(pool) == (before, usual), "what a pipeline watched is over, and its connection is kept"
    await carried_out(pool, by_name, ("WATCH", "k"))
    after, state = await number_of(pool)
    assert state == usual
    assert after != before


@pytest.mark.parametrize("way", [by_name, packed, packed_together, as_bytes, in_pieces, while_closed])
async def test_a_reply_that_its_borrower_has_not_read_is_not_met_by_the_next_one(make_pool, way):
    pool = await make_pool()
    connection = await awaited(pool.get_connection())
    await way(connection, "BLPOP", "none", 0.3)  # so that the reply is not there yet when the next borrower looks
    await awaited(pool.release(connection))
    connection = await awaited(pool.get_connection())
    await awaited(connection.send_command("ECHO", "mine"))
    assert await awaited(connection.read_response()) in ("mine", b"mine")
    await awaited(pool.release(connection))


async def test_a_borrower_that_reads_all_its_replies_gives_its_connection_back_open(make_pool):
    pool = await make_pool()
    before, _ = await number_of(pool)
    connection = await awaited(pool.get_connection())
    await awaited(
        connection.send_packed_command(connection.pack_commands([("SET", "k", "v"), ("INCR", "k"), ("PING",)]))
    )
    await awaited(connection.read_response())
    with pytest.raises(redis_exceptions.ResponseError):
        await awaited(connection.read_response())
    await awaited(connection.read_response())
    await awaited(pool.release(connection))
    assert (await number_of(pool))[0] == before


def test_a_transaction_in_one_piece_leaves_nothing():
    assert not leave_state([("MULTI",), ("GET", "k"), ("EXEC",)])
    assert not leave_state([("MULTI",), (b"discard",)])
    assert leave_state([("GET", "k"), ("multi",), ("GET", "k")])
    assert leave_state([("MULTI",), ("SELECT", 3), ("EXEC",)])
    assert leave_state([("MULTI",), ("EXEC",), (b"MULTI",)])
    assert leave_state([("WATCH", "k")])
    assert not leave_state([("WATCH", "k")], ends_watch=True)
