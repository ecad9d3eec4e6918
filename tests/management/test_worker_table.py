"""The table of workers: what it shows, how it fits a terminal, how it is redrawn."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from redispool_app.management.worker_table import HEADINGS, Screen, fitted, lines
from redispool_app.workers.roster import Roster

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "workers.md"


def worker(**changes):
    return {
        "id": "web1:10",
        "host": "web1",
        "pid": 10,
        "role": "server: uvicorn",
        "version": "1.2.3",
        "state": "healthy",
        "loops": 3,
        "connections_open": 2,
        "connections_in_use": 1,
        "commands_in_flight": 7,
        "ops_per_second": 12345.6,
        "latency_p50_ms": 0.251,
        "latency_p99_ms": 3.5,
        "timeouts_total": 4,
        "reconnects_total": 5,
        "last_error": "Redis was away.",
        "paused": False,
        "seen_seconds": 1.24,
        **changes,
    }


def test_a_row_says_all_that_there_is_to_say():
    title, headings, row = lines([("default", Roster([worker()]))])
    assert title == "default: 1 worker"
    assert re.split(" {2,}", headings.strip()) == list(HEADINGS)
    assert re.split(" {2,}", row.strip()) == [
        "web1",
        "10",
        "server: uvicorn",
        "1.2.3",
        "healthy",
        "3",
        "2 (1 lent)",
        "7",
        "12,346",
        "0.25 ms",
        "3.50 ms",
        "4",
        "5",
        "1.2 s ago",
        "Redis was away.",
    ]


def test_every_number_that_the_manual_promises_has_a_column():
    promised = re.search(r"The list contains (.*?)\.\n\n", MANUAL.read_text(), re.DOTALL)[1]
    columns = {
        "the process id": {"PID"},
        "the role": {"ROLE"},
        "the version": {"VERSION"},
        "event loops": {"LOOPS"},
        "connections": {"CONNS"},
        "commands in flight": {"IN FLIGHT"},
        "operations per second": {"OPS/S"},
        "p50 and p99": {"P50", "P99"},
        "timeouts": {"TIMEOUTS"},
        "reconnects": {"RECONNECTS"},
        "the last error": {"LAST ERROR"},
        "the age of this report": {"SEEN"},
    }
    plain = " ".join(re.sub(r"\(.*?\)", "", promised).split())
    named = re.split(r", and |, | and (?=connections)|\. It also contains ", plain.replace(" ,", ","))
    assert named == list(columns)
    assert set().union(*columns.values()) | {"HOST", "STATE"} == set(HEADINGS)


def test_what_is_not_known_is_a_dash():
    row = lines([("default", Roster([worker(ops_per_second=None, latency_p50_ms=None, last_error=None)]))])[2]
    assert row.split().count("-") == 3


def test_columns_line_up_over_all_pools():
    found = lines([("a", Roster([worker()])), ("b", Roster([worker(host="a-much-longer-name")]))])
    assert found[1] == found[4]
    assert found[2].index("healthy") == found[5].index("healthy") == found[1].index("STATE")


def test_problems_and_differences_stand_below_their_pool():
    found = lines([("a", Roster([worker()], "Redis is down.", ["web2 is silent."]))])
    assert found[-2:] == ["  Redis is down.", "  web2 is silent."]


def plain(line):
    return re.sub(r"\x1b\[[\d;]*[mHJK]", "", line)


def red(text):
    return f"\x1b[31;1m{text}\x1b[0m"


@pytest.mark.parametrize("width", [1, 10, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal_whatever_its_colours(monkeypatch, width):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((width, 50)))
    found = lines([("default", Roster([worker()], "p" * 300))], heading=red, good=red, bad=red)
    written = []
    Screen(written.append).draw(found)
    drawn = written[0].splitlines()[: len(found)]
    assert [plain(line)[:width] for line in drawn] == [plain(line) for line in drawn]
    for line, whole in zip(drawn, found, strict=True):
        assert plain(line).rstrip("…") == plain(whole)[: len(plain(line).rstrip("…"))]
        assert line.count("\x1b[31;1m") == line.count("\x1b[0m"), "no colour runs on"


def test_what_fits_is_not_cut():
    assert fitted(red("four"), 4) == red("four")
    assert fitted(red("fives"), 4) == red("fiv") + "…"


def test_only_a_healthy_worker_that_is_not_paused_has_the_good_colour():
    def coloured(**changes):
        return lines([("a", Roster([worker(**changes)]))], good=lambda text: f"<{text}>", bad=lambda text: f"!{text}!")

    assert "<healthy" in coloured()[2]
    assert "!unhealthy" in coloured(state="unhealthy")[2]
    assert "!healthy, paused" in coloured(paused=True)[2]


def test_a_very_long_name_does_not_push_the_table_apart():
    assert len(lines([("a", Roster([worker(role="x" * 200)]))])[1]) < 300


def test_a_screen_is_wiped_once_and_then_redrawn_in_place():
    written = []
    screen = Screen(written.append)
    screen.draw(["one", "two"])
    screen.draw(["three"])
    assert written[0].startswith("\x1b[2J\x1b[H")
    assert written[1] == "\x1b[Hthree\x1b[K\n\x1b[J"


def test_a_screen_shows_no_more_lines_than_it_has(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((80, 5)))
    written = []
    Screen(written.append).draw([f"line {number}" for number in range(10)])
    assert written[0].count("\n") == 4
    assert "… and 7 more lines" in written[0]
