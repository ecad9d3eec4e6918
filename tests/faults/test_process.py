"""What a process does to itself harms no caller: long-winded user code, forks, event loops that end, huge replies."""

from __future__ import annotations

import os

import pytest

from tests.lab.process_faults import BigReply, Forks, InterpreterBusy, LoopsEnded, ScriptsFlushed
from tests.lab.subjects import ENGINES, SCRIPTS

pytestmark = pytest.mark.lab
busy_and_idle = pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
each_engine = pytest.mark.parametrize("subject", ENGINES, ids=lambda subject: subject.name)


@busy_and_idle
@each_engine
def test_replies_that_came_while_user_code_blocked_are_taken_before_anybody_times_out(subject, load, survives):
    findings = survives(InterpreterBusy, subject, load=load)
    if load:
        assert findings.numbers["worst_wait_ms"] > 1800, "somebody waited for the block to end"


@each_engine
def test_event_loops_that_end_with_work_undone_leave_the_others_alone(subject, survives):
    survives(LoopsEnded, subject, load=True)


@each_engine
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_work_and_their_parent_goes_on(subject, survives):
    survives(Forks, subject, load=True)


@busy_and_idle
@each_engine
def test_a_reply_of_100_mb_comes_whole_and_the_others_come_after_it(subject, load, survives):
    survives(BigReply, subject, load=load, SOCKET_TIMEOUT=10.0, HEALTH_CHECK_TIMEOUT=10.0)


@busy_and_idle
@pytest.mark.parametrize("subject", SCRIPTS, ids=lambda subject: subject.name)
def test_scripts_that_the_server_has_forgotten_are_loaded_again(subject, load, survives):
    survives(ScriptsFlushed, subject, load=load)
