"""The judge itself: each promise that a run breaks is found, and a run that keeps all is left in peace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest
import uvloop

from tests.lab.attempts import Attempts, most_per_second, written_down
from tests.lab.lag import worst_lag
from tests.lab.operations import FAILED, OK, UNKNOWN, Operation
from tests.lab.resolver import HOST, Resolver
from tests.lab.sites import PROJECT
from tests.lab.verdicts import Findings, Rules, Run, find_losses_of_a_failover, find_wrong_replies, judge

RULES = Rules(deadline=0.5, check=0.5, backoff_cap=0.25, outage=True, kinds=frozenset({"timeout"}))


def operation(asked, took=0.0001, outcome=FAILED, kind="get", key="k", caller=0, **more):
    if outcome == FAILED:
        more = {"fault": "timeout", **more}
    return Operation(
        caller=caller, kind=kind, key=key, asked=asked, granted=asked, ended=asked + took, outcome=outcome, **more
    )


def wrong(*operations, **final):
    findings = Findings()
    find_wrong_replies(operations, final, findings)
    return findings.complaints


def stored(asked, value, outcome=OK):
    return operation(asked, outcome=outcome, kind="set", value=value)


def counted(asked, reply=None, outcome=OK):
    return operation(asked, outcome=outcome, kind="incr", key="n", reply=reply)


@pytest.mark.parametrize(
    ("operations", "final", "complaint"),
    [
        ([stored(1, "a"), operation(2, outcome=OK, reply="a")], {"k": "a"}, None),
        ([stored(1, "a"), operation(2, outcome=OK, reply="b")], {"k": "a"}, "wrong reply"),
        ([stored(1, "a"), operation(2, outcome=OK, reply=None)], {"k": "a"}, "then not there"),
        ([stored(1, "a")], {"k": None}, "the server holds None"),
        ([stored(1, "a", UNKNOWN), operation(2, outcome=OK, reply="a")], {"k": None}, None),
        ([stored(1, "a", FAILED)], {"k": "a"}, "the server holds 'a'"),
        ([counted(1, 1), counted(2, 2)], {"n": "2"}, None),
        ([counted(1, 1), counted(2, 1)], {"n": "2"}, "INCR n gave 1"),
        ([counted(1, 1), counted(2, 3)], {"n": "3"}, "INCR n gave 3"),
        ([counted(1, 1), counted(2, None, UNKNOWN), counted(3, 3)], {"n": "3"}, None),
        ([counted(1, None, UNKNOWN), counted(2, 2), counted(3, 2)], {"n": "3"}, "INCR n gave 2"),
        ([counted(1, None, UNKNOWN), counted(2, None, UNKNOWN), counted(3, 3), counted(4, 2)], {"n": "4"}, "gave 2"),
        ([counted(1, None, UNKNOWN), counted(2, 1), counted(3, 3)], {"n": "3"}, None),
        ([counted(1, None, UNKNOWN), counted(2, 2), counted(3, 4)], {"n": "4"}, "INCR n gave 4"),
        ([counted(1, 1), counted(2, 2)], {"n": "1"}, "was acknowledged up to 2 and counts 1"),
        ([counted(1, 1), counted(2, None, UNKNOWN)], {"n": "3"}, "the rest twice or denied"),
        ([counted(1, 1), counted(2, None, FAILED)], {"n": "2"}, "the rest twice or denied"),
    ],
)
def test_every_reply_is_held_against_what_was_written(operations, final, complaint):
    complaints = wrong(*operations, **final)
    assert (complaint in complaints[0]) if complaint else not complaints


def outage():
    """A run that keeps every promise: struck at 10, noticed half a second later, healed at 12."""
    before = [operation(9 + step / 10, outcome=OK, reply=None) for step in range(10)]
    first = operation(10, took=0.5)
    later = [operation(10.6 + step / 100) for step in range(130)]
    after = [operation(12.2 + step / 10, outcome=OK, reply=None) for step in range(5)]
    return Run(
        operations=[*before, first, *later, *after],
        struck=10,
        healing=12,
        healed=12,
        lag=[(step / 10, 0.0001) for step in range(130)],
        attempts=[10.5 + step / 10 for step in range(15)],
        final={"k": None},
        log=["unhealthy", "healthy again"],
    )


def late():
    """Somebody is served two seconds after the server's return."""
    operations = [operation(10), operation(10.5), operation(13, outcome=OK)]
    return replace(outage(), healing=10.9, healed=10.9, operations=operations)


def with_more(*operations):
    run = outage()
    return replace(run, operations=[*run.operations, *operations])


def without(condition):
    run = outage()
    return replace(run, operations=[each for each in run.operations if not condition(each)])


def test_a_run_that_keeps_every_promise_is_left_in_peace():
    findings = judge(outage(), RULES)
    assert findings.complaints == []
    assert findings.numbers["noticed_ms"] == 500
    assert findings.numbers["recovered_ms"] == 200.1
    assert findings.numbers["attempts_per_second"] == 11


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (with_more(operation(10.1, took=0.7)), "waited 0.700 s for GET"),
        (with_more(replace(operation(10.1, took=0.7), granted=10.75)), "waited 0.650 s for a health check"),
        (with_more(operation(9.2)), "failed without a fault"),
        (with_more(operation(13.6)), "failed without a fault"),
        (with_more(operation(10.2, fault="", error="IndexError")), "not an exception that a caller"),
        (with_more(*(operation(11 + step / 1000, outcome=OK) for step in range(3))), "were served while"),
        (with_more(operation(11, fault="closed")), "was called closed, not timeout"),
        (with_more(*(operation(11 + step / 1000, took=0.003) for step in range(3))), "took up to 2.90 ms to fail"),
        (with_more(*(operation(11 + step / 1000, took=0.003) for step in range(200))), "the median of later callers"),
        (without(lambda each: each.outcome == FAILED), "nobody noticed"),
        (without(lambda each: each.asked > 10.5 and each.asked < 12), "nobody asked while"),
        (without(lambda each: 12 < each.asked < 13.4), "no recovery"),
        (
            replace(
                outage(),
                healing=10.9,
                healed=10.9,
                operations=[operation(10), operation(10.5), operation(13, outcome=OK)],
            ),
            "recovered 2.10 s",
        ),
        (with_more(operation(12.35)), "1 failed, 0.15 s and more after the first success"),
        (with_more(*(operation(12.31, caller=number) for number in range(1, 30))), "not every caller was served again"),
        (
            with_more(operation(13.6, outcome=OK, caller=1)),
            "the last caller was served 1.60 s after the server's return",
        ),
        (replace(outage(), attempts=[11 + step / 100 for step in range(30)]), "30 connection attempts"),
        (replace(outage(), lookups=[11 + step / 100 for step in range(30)]), "30 names looked up"),
        (replace(outage(), log=["unhealthy", "healthy again", "unhealthy"]), "said 2 times: unhealthy"),
        (replace(outage(), log=[f"line {number}" for number in range(7)]), "7 lines of log"),
        (replace(outage(), operations=[]), "nothing was done"),
    ],
)
def test_a_broken_promise_is_found(run, complaint):
    assert any(complaint in each for each in judge(run, RULES).complaints)


def test_survivors_must_survive():
    rules = replace(RULES, outage=False, reads_survive=True, writes_survive=True)
    complaints = judge(with_more(stored(10.2, "a", FAILED)), rules).complaints
    assert any("a read failed" in each for each in complaints)
    assert any("a write failed" in each for each in complaints)


def test_what_the_machine_did_not_run_in_time_is_no_fault_of_the_engine():
    slow = with_more(operation(10.1, took=0.7))
    assert judge(slow, RULES).complaints
    assert not judge(replace(slow, lag=[(10.75, 0.2)]), RULES).complaints
    slow = with_more(*(operation(11 + step / 1000, took=0.003) for step in range(3)))
    assert not judge(replace(slow, lag=[(11 + step / 1000 + 0.003, 0.003) for step in range(3)]), RULES).complaints
    assert worst_lag([(1.0, 0.1), (2.0, 0.3), (3.0, 0.2)], 1.8, 2.5) == 0.3


@pytest.mark.parametrize(
    ("operations", "final", "complaint"),
    [
        ([stored(9, "a"), counted(9.5, 1)], {"k": "a", "n": "1"}, None),
        ([stored(10, "a"), operation(11, outcome=OK, reply=None)], {"k": None}, None),
        ([counted(9.5, 1), counted(10, 2), counted(12.1, 2)], {"n": "2"}, None),
        ([stored(9, "a"), operation(12.1, outcome=OK, reply=None)], {"k": "a"}, "then not there: k"),
        ([stored(9, "a")], {"k": None}, "not there at the end"),
        ([stored(12.1, "a")], {"k": None}, "not there at the end"),
        ([stored(9, "a"), operation(10, outcome=OK, reply="b")], {"k": "a"}, "wrong reply"),
        ([counted(9.5, 1), counted(10, 3)], {"n": "3"}, "gave 3 when it had been asked for 2 times"),
        ([counted(9.5, 1), counted(10, None, UNKNOWN)], {"n": "3"}, "2 may have been done"),
        ([counted(9.5, 1), counted(12.1, 2)], {"n": "1"}, "not less than 2 are to be kept"),
    ],
)
def test_a_failover_may_lose_what_was_acknowledged_meanwhile_and_nothing_else(operations, final, complaint):
    findings = Findings()
    find_losses_of_a_failover(replace(outage(), operations=operations, final=final), findings)
    assert (complaint in findings.complaints[0]) if complaint else not findings.complaints


def test_what_the_machine_did_to_others_excuses_nobody():
    slow = with_more(*(operation(11 + step / 1000, took=0.003) for step in range(3)))
    assert judge(replace(slow, lag=[(10.7, 0.2), (11.9, 0.2)]), RULES).complaints
    slow = with_more(*(operation(11 + step / 1000, took=0.003) for step in range(200)))
    everywhere = [(10.6 + step / 1000, 0.01) for step in range(1400)]
    assert any("the median" in each for each in judge(replace(slow, lag=everywhere), RULES).complaints)


def test_a_refusal_that_may_come_at_any_time_is_not_taken_for_the_outage():
    refused = operation(10.1, fault="exhausted")
    rules = replace(RULES, tolerated=frozenset({"exhausted"}))
    assert judge(with_more(refused), rules).numbers["noticed_ms"] == 500
    assert judge(with_more(refused), RULES).numbers["noticed_ms"] < 500


def test_the_densest_second_is_counted():
    assert most_per_second([]) == 0
    assert most_per_second([1.0, 1.2, 5.0, 5.1, 5.2, 5.9, 6.2]) == 4


def test_where_nobody_counts_attempts_nothing_is_said_of_them():
    findings = judge(replace(outage(), attempts=None), RULES)
    assert findings.complaints == []
    assert "attempts_per_second" not in findings.numbers


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_attempts_of_every_event_loop_are_counted_once(run, tmp_path):
    async def connect():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.9", 1)
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(str(tmp_path / "none"))

    with Attempts(("127.0.0.9", 1), str(tmp_path / "none")) as attempts:
        run(connect())
    assert len(attempts.times) == 2


def test_attempts_of_other_processes_are_written_down(tmp_path):
    code = """
import socket, sys
from tests.lab.attempts import write_down
write_down(sys.argv[1], ("127.0.0.9", 1))
for port in (1, 2, 1):
    socket.socket().connect_ex(("127.0.0.9", port))
"""
    path = tmp_path / "attempts"
    assert written_down(path) == {}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, path], cwd=PROJECT, check=True)
    assert [len(times) for times in written_down(path).values()] == [2, 2]


def test_attempts_that_nothing_answers_are_counted_and_names_resolve_as_told():
    import socket

    with Attempts(("127.0.0.9", 1)) as attempts, Resolver("127.0.0.9") as resolver:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, 1), 1)
        assert len(attempts.times) == 3
        resolver.fail()
        with pytest.raises(socket.gaierror):
            socket.create_connection((HOST, 1), 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.9", 1), 1)
    assert len(attempts.times) == 3
    assert len(resolver.asked) == 4
