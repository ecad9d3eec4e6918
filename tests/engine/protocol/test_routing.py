"""Where a command travels, held against a real server's own table of commands."""

from __future__ import annotations

import pytest

from redispool_app.engine.protocol import commands
from redispool_app.engine.protocol.commands import (
    BLOCKING,
    BLOCKING_BY_OPTION,
    READING,
    STATEFUL,
    is_exclusive,
    only_reads,
)

HARMLESS = {"command", "echo", "ping", "publish", "pubsub", "spublish"}
"""Named beside stateful commands by the server, yet nothing of theirs stays on the connection."""

HARMLESS_TWICE = {"echo", "info", "ping", "time"}
"""Not flagged as reading, for they touch no key; sending one twice does no harm all the same."""

STATEFUL_CATEGORIES = {"@blocking", "@connection", "@transaction"}

NEVER_ONE_REPLY = {"monitor", "psync", "replconf", "shutdown", "sync"}
"""They turn the connection into something else, or end it; no flag of the table says so."""


@pytest.fixture(scope="module")
def command_table(shared_server):
    """What the server says about each of its commands: name, flags, ACL categories, subcommands."""
    with shared_server.client() as client:
        table = client.command()
    assert len(table) > 200
    return table


def is_suspect(about):
    flags, categories = set(about["flags"]), set(about["acl_categories"])
    return "blocking" in flags or "pubsub" in flags or bool(categories & STATEFUL_CATEGORIES)


def subcommands_of(about):
    """Yield name, flags and categories of each subcommand, as text."""
    for name, _, flags, _, _, _, categories, *_ in about.get("subcommands", ()):
        yield (
            name.decode().replace("|", " "),
            {flag.decode() for flag in flags},
            {category.decode() for category in categories},
        )


def test_whatever_the_server_calls_blocking_or_stateful_has_a_connection_of_its_own(command_table):
    suspects = {name for name, about in command_table.items() if is_suspect(about)}
    assert len(suspects) > 30, "the table says less than it used to"
    undecided = {
        name
        for name in suspects - HARMLESS - {each.lower() for each in BLOCKING_BY_OPTION}
        if not is_exclusive([name.upper()])
    }
    assert undecided == set(), "decide about each: exclusive in engine/protocol/commands.py, or harmless in this test"


def test_so_has_whatever_a_subcommand_is_called(command_table):
    undecided, seen = set(), 0
    for parent, about in command_table.items():
        for name, flags, categories in subcommands_of(about):
            seen += 1
            stateful = flags & {"blocking", "pubsub"} or categories & STATEFUL_CATEGORIES
            if stateful and parent not in HARMLESS and not is_exclusive(name.upper().split()):
                undecided.add(name)
    assert seen > 50
    assert undecided == set()


def test_what_ends_a_connection_or_turns_it_into_something_else_is_exclusive(command_table):
    assert set(command_table) >= NEVER_ONE_REPLY
    assert all(is_exclusive([name]) for name in NEVER_ONE_REPLY)


def test_nothing_is_called_harmless_without_need(command_table):
    assert set(command_table) >= HARMLESS
    assert not any(is_exclusive([name]) for name in HARMLESS)
    known = set(command_table)
    unheard_of = {name for name in BLOCKING | BLOCKING_BY_OPTION | STATEFUL if name.lower() not in known}
    assert unheard_of <= {"HIMPORT"}, "a name that no server knows may be misspelt"


def test_plain_commands_share(command_table):
    shared = {name for name in command_table if not is_exclusive([name.upper()])}
    assert {"get", "set", "incr", "hgetall", "lpush", "lpop", "zadd", "xadd", "eval", "evalsha", "fcall"} <= shared
    assert {"scan", "config", "info", "object", "memory", "script", "function", "del", "restore", "sort"} <= shared
    assert len(shared) > 150


def test_whatever_counts_as_reading_is_a_read_to_the_server_too(command_table):
    writing = {
        name
        for name in READING
        if name.lower() in command_table
        and "readonly" not in command_table[name.lower()]["flags"]
        and name.lower() not in HARMLESS_TWICE
    }
    assert writing == set()


def test_whatever_counts_as_reading_is_known_to_the_server(command_table):
    assert {name for name in READING if name.lower() not in command_table} == set(), "misspelt, or decide here"


def test_nothing_that_the_server_calls_a_write_counts_as_reading(command_table):
    writes = {name for name, about in command_table.items() if "write" in about["flags"]}
    assert len(writes) > 80
    assert {name for name in writes if only_reads(name)} == set()


def test_a_script_may_write_whatever_its_name(command_table):
    assert not any(map(only_reads, ("EVAL", "EVALSHA", "FCALL", "SCRIPT", "FUNCTION")))
    assert all(map(only_reads, ("EVAL_RO", "EVALSHA_RO", "FCALL_RO")))


SPELLINGS = [
    str.upper,
    str.lower,
    str.capitalize,
    lambda name: f" {name} ",
    lambda name: name.lower().encode(),
    lambda name: name.upper().encode(),
    lambda name: bytearray(name, "ascii"),
    lambda name: memoryview(name.encode()),
]


@pytest.mark.parametrize("spell", SPELLINGS)
def test_any_spelling_travels_the_same_way(spell):
    for name in BLOCKING | STATEFUL:
        assert is_exclusive([spell(name), "argument"]), name
    for name in READING:
        assert only_reads(spell(name)), name
    for name in READING - BLOCKING_BY_OPTION:
        assert not is_exclusive([spell(name), "argument"]), name
    for name in ("SET", "INCR", "XADD", "CONFIG"):
        assert not is_exclusive([spell(name), "argument"]), name
        assert not only_reads(spell(name)), name


@pytest.mark.parametrize(
    "name", ["CLIENT SETNAME", "client tracking", b"CLIENT NO-EVICT", "CLIENT  PAUSE", "script debug", b"SCRIPT DEBUG"]
)
def test_a_name_with_spaces_is_judged_by_its_words(name):
    assert is_exclusive([name, "on"])


@pytest.mark.parametrize("name", ["CONFIG GET", b"config get", "OBJECT ENCODING", "SCRIPT LOAD", "FUNCTION LIST"])
def test_a_name_with_spaces_shares_if_its_words_do(name):
    assert not is_exclusive([name, "argument"])
    assert not only_reads(name)


@pytest.mark.parametrize("debug", ["DEBUG", "debug", b"Debug", memoryview(b"DEBUG")])
def test_debugging_a_script_is_exclusive_however_it_is_split(debug):
    assert is_exclusive(["SCRIPT", debug, "YES"])
    assert is_exclusive([b"script", debug, "YES"])


READS_OF_STREAMS = [
    ("XREAD", "COUNT", 1, "{}", 0, "STREAMS", "s", "$"),
    ("XREAD", "{}", 0, "COUNT", 1, "STREAMS", "s", "$"),
    ("xread", "{}", 1, "STREAMS", "s", "$"),
    (b"XREAD", b"{}", 1, b"STREAMS", b"s", b"$"),
    ("XREADGROUP", "GROUP", "g", "me", "{}", 0, "STREAMS", "s", ">"),
    ("XREADGROUP", "GROUP", "g", "me", "NOACK", "COUNT", 1, "{}", 0, "STREAMS", "s", ">"),
    ("xreadgroup GROUP", "g", "me", "{}", 0, "STREAMS", "s", ">"),
]


@pytest.mark.parametrize(
    "block", ["BLOCK", "block", "Block", b"BLOCK", b"block", bytearray(b"bLoCk"), memoryview(b"BLOCK")]
)
@pytest.mark.parametrize("args", READS_OF_STREAMS, ids=repr)
def test_reading_a_stream_is_exclusive_if_it_blocks(args, block):
    assert is_exclusive([block if arg in ("{}", b"{}") else arg for arg in args])


@pytest.mark.parametrize("args", READS_OF_STREAMS, ids=repr)
def test_reading_a_stream_shares_if_it_does_not_block(args):
    place = next(number for number, arg in enumerate(args) if arg in ("{}", b"{}"))
    assert not is_exclusive([*args[:place], *args[place + 2 :]])


@pytest.mark.parametrize("name", ["XREAD BLOCK", b"xread block", "XREAD COUNT 1 BLOCK"])
def test_block_may_stand_in_a_name_with_spaces(name):
    assert is_exclusive([name, 0, "STREAMS", "s", "$"])


def test_names_that_users_make_up_do_not_fill_the_memory():
    for number in range(5000):
        assert not is_exclusive([f"NOSUCH{number}"])
    assert len(commands.COMMANDS) <= commands._MOST_NAMES
    assert is_exclusive(["BLPOP", "q", 0])
    assert only_reads("get")
