"""The page about faults says what was measured, and what the judge asserts."""

from __future__ import annotations

import json

import redis.asyncio

from tests.faults.test_crowds import crowd_of
from tests.faults.test_transactions import rules_of
from tests.lab import site_subjects, stalled
from tests.lab.comparison import COLUMNS, cells
from tests.lab.document import PAGE, RESULTS, render
from tests.lab.faults import ConnectionsKilled, Fault, Loading
from tests.lab.network_faults import BlackHole
from tests.lab.peers import CONTENDERS
from tests.lab.process_faults import LoopsEnded
from tests.lab.side_by_side import DEFAULTS, WATCHED
from tests.lab.stage import QUICK
from tests.lab.subjects import ENGINES, TRANSACTIONS
from tests.lab.verdicts import ATTEMPTS_PER_SECOND, FAST, GRACE, LOG_LINES, RECOVERY, SLACK, STRAGGLING

TEXT = PAGE.read_text()
DOCUMENT = json.loads(RESULTS.read_text())


def test_the_tables_are_those_of_the_results() -> None:
    assert render(TEXT, DOCUMENT) == TEXT, "run python -m tests.lab.document"


def test_another_result_would_be_another_page() -> None:
    other = {**DOCUMENT, "rows": [{**DOCUMENT["rows"][0], "worst_wait_ms": 123_456.0}]}
    assert "123,456" in render(TEXT, other)


def test_the_guarantees_are_those_of_the_judge() -> None:
    for guarantee in (
        f"plus {SLACK:.0%} and {GRACE * 1000:.0f} ms",
        f"within {FAST * 1000:.0f} ms",
        f"within {RECOVERY:.0f} s plus `RETRY_BACKOFF_CAP`",
        f"no call fails that begins {STRAGGLING} s after the first success",
        f"{LOG_LINES} lines at most",
        f"{ATTEMPTS_PER_SECOND} connection attempts within any second",
        f"`SOCKET_TIMEOUT` {QUICK['SOCKET_TIMEOUT']} s",
        f"`RETRY_BACKOFF_CAP` {QUICK['RETRY_BACKOFF_CAP']} s",
        f"`SOCKET_TIMEOUT` {DEFAULTS['SOCKET_TIMEOUT']:.0f} s",
        f"{WATCHED:.0f} s after the fault's end",
    ):
        assert guarantee in TEXT, guarantee


def test_the_limits_that_some_scenarios_have_of_their_own_are_those_of_the_judge() -> None:
    attempts = [rules_of(ConnectionsKilled, subject)["attempts_per_second"] for subject in TRANSACTIONS]
    for limit in (
        "({} for coroutines, {} for threads)".format(*attempts),
        f"{LoopsEnded.attempts_per_second} attempts within a second",
        f"within {site_subjects.FAST * 1000:.0f} ms while the outage is known",
        f"known {Fault.known_after} s after the first failure; {Loading.known_after} s",
        f"{BlackHole.known_after} s where a connection must be tried",
        "up to {} coroutines or {} threads".format(*(crowd_of(subject)["callers"] for subject in ENGINES)),
    ):
        assert limit in TEXT, limit


def test_the_peers_defaults_are_those_it_names() -> None:
    pool = redis.asyncio.Redis.from_url("redis://127.0.0.1").connection_pool
    by_url = pool.make_connection()
    by_host = redis.asyncio.Redis(host="127.0.0.1").connection_pool.make_connection()
    assert f"waits {by_url.socket_timeout:.0f} s for a reply" in TEXT
    assert f"keeps up to {pool.max_connections} connections" in TEXT
    assert by_url.retry.get_retries() == 0
    assert f"again up to {by_host.retry.get_retries()} times" in TEXT


def test_no_client_answered_wrongly_or_lost_what_it_acknowledged_as_the_page_says() -> None:
    rows = DOCUMENT["comparison"]["rows"]
    assert "All of them give each caller its own reply, and what they acknowledge is there." in TEXT
    assert [row for row in rows if row["wrong_replies"] or row["writes_lost"]] == []


def test_a_client_whose_connections_were_closed_has_a_bound_instead_of_a_worst_wait() -> None:
    row = {**DOCUMENT["comparison"]["rows"][0], "cut_after_s": 24.0, "all_back_ms": None}
    shown = dict(zip(COLUMNS, cells(row), strict=True))
    assert (shown["worst_wait_ms"], shown["all_back_ms"]) == ("> 24", "not all")


def test_every_client_is_compared_under_every_fault() -> None:
    rows = DOCUMENT["comparison"]["rows"]
    assert {row["subject"] for row in rows} == {subject.name for subject in CONTENDERS}
    assert len({(row["fault"], row["subject"]) for row in rows}) == len(rows)
    assert len(rows) % len(CONTENDERS) == 0


def test_every_client_is_measured_beside_every_stall() -> None:
    rows = DOCUMENT["stalled"]["rows"]
    stalls, subjects = (dict.fromkeys(row[name] for row in rows) for name in ("stall", "subject"))
    assert [(row["stall"], row["subject"]) for row in rows] == [(each, who) for each in stalls for who in subjects]
    assert list(stalls) == [stalled.name_of(large) for large in (0, 10_000_000, 60_000_000)]
    assert len(subjects) == 4


def test_beside_a_stall_every_caller_of_this_project_was_served() -> None:
    rows = [row for row in DOCUMENT["stalled"]["rows"] if row["subject"].startswith("redispool")]
    assert len(rows) == 6
    assert [row for row in rows if row["errors"] or row["timed_out"] or row["late"] or row["wrong_replies"]] == []


def test_the_page_describes_the_stalls_that_were_measured() -> None:
    for guarantee in (
        f"{stalled.READERS} readers",
        f"each {stalled.PACE * 1000:.0f} ms after",
        f"{stalled.WRITERS} writers",
        f"counted for\n  {stalled.WATCHED} s",
        f"{stalled.BANDWIDTH / 1e6} MB/s for each connection",
        f"a time-out of {stalled.TIMEOUT:.0f} s",
        f"*Above {stalled.LATE:.0f} s*",
    ):
        assert guarantee in TEXT, guarantee
