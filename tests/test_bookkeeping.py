"""The comparison's books: what any client's callers saw, held against what the server counts and keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.lab.bookkeeping import all_back, first_back, longest_wait, opened, settle
from tests.lab.operations import FAILED, OK, UNKNOWN, Operation

KINDS = ("wrong_replies", "writes_lost", "writes_twice", "writes_denied_yet_done")


def seen(kind, asked, reply=None, outcome=OK, key="k", value=None, caller=0):
    return Operation(
        caller=caller, kind=kind, key=key, asked=asked, ended=asked + 0.5, outcome=outcome, value=value, reply=reply
    )


def stored(asked, outcome=OK):
    return seen("set", asked, outcome=outcome, value="a")


def counted(asked, reply=None, outcome=OK):
    return seen("incr", asked, reply, outcome, key="n")


def broken(*operations, **final):
    books = settle(operations, final)
    return {kind: getattr(books, kind) for kind in KINDS if getattr(books, kind)}


@pytest.mark.parametrize(
    ("operations", "final", "found"),
    [
        ([stored(1), seen("get", 2, "a")], {"k": "a"}, {}),
        ([stored(1), seen("get", 2, "b")], {"k": "a"}, {"wrong_replies": 1}),
        ([seen("get", 2, "b")], {}, {"wrong_replies": 1}),
        ([stored(1), seen("get", 2, None)], {"k": None}, {"writes_lost": 1}),
        ([stored(1, FAILED), seen("get", 2, None)], {"k": None}, {}),
        ([stored(1, FAILED), seen("get", 2, "a")], {"k": "a"}, {"writes_denied_yet_done": 1}),
        ([stored(1, UNKNOWN)], {"k": "a"}, {}),
        ([counted(1, 1), counted(2, 2)], {"n": "2"}, {}),
        ([counted(1, 1), counted(2, 2)], {"n": "1"}, {"writes_lost": 1}),
        ([counted(1, 2), counted(2, 3)], {"n": "3"}, {"writes_twice": 1}),
        ([counted(1, 1), counted(2, 2)], {"n": "4"}, {"writes_twice": 2}),
        ([counted(1, 1), counted(2, outcome=UNKNOWN), counted(3, 3)], {"n": "3"}, {}),
        ([counted(1, 1), counted(2, outcome=FAILED), counted(3, 2)], {"n": "2"}, {}),
        ([counted(1, 1), counted(2, outcome=FAILED), counted(3, 3)], {"n": "3"}, {"writes_denied_yet_done": 1}),
        # The server came to it after it had answered the next one.
        ([counted(1, 1), counted(2, outcome=FAILED), counted(3, 2)], {"n": "3"}, {"writes_denied_yet_done": 1}),
        (
            [counted(1, 1), counted(2, outcome=FAILED), counted(3, 4)],
            {"n": "4"},
            {"writes_denied_yet_done": 1, "writes_twice": 1},
        ),
    ],
)
def test_each_write_is_settled_by_what_the_server_has(operations, final, found):
    assert broken(*operations, **final) == found


def test_waits_that_ended_before_the_fault_say_nothing_about_it():
    operations = [replace(seen("get", 0.0), ended=3.0), seen("get", 2.9), replace(seen("get", 4.0), ended=5.0)]
    assert longest_wait(operations, struck=3.2) == 1.0
    assert longest_wait(operations, struck=3.0) == 3.0


def test_the_first_is_back_when_one_who_asked_after_the_healing_is_served():
    operations = [seen("get", 0.9), seen("get", 1.0, outcome=FAILED), seen("get", 2.0)]
    assert first_back(operations, 1.0) == 1.5
    assert first_back(operations, 2.5) is None


def test_all_are_back_when_the_last_caller_is_served():
    operations = [seen("get", 0.9), seen("get", 3.0), seen("get", 2.0, caller=1), seen("get", 2.0, outcome=FAILED)]
    assert all_back(operations, 1.0, callers=2) == 1.5
    assert all_back(operations, 1.0, callers=3) is None


def test_connections_are_told_apart_by_when_the_fault_struck():
    assert opened([0.1, 0.2, 1.0, 1.5], struck=1.0) == (2, 2)
