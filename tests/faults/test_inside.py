"""An accident inside the process stays with its caller: the others, who share its connection, are served."""

from __future__ import annotations

import os

import pytest

from tests.lab.inside_faults import (
    BlockingConsumers,
    Finalizers,
    HooksThatRaise,
    LimitedSync,
    NameMoves,
    SoftTimeLimits,
    UnheardForks,
)
from tests.lab.subjects import CACHE_FACES, ENGINES

pytestmark = pytest.mark.lab
each_engine = pytest.mark.parametrize("subject", ENGINES, ids=lambda subject: subject.name)
each_subject = pytest.mark.parametrize("subject", [*ENGINES, *CACHE_FACES], ids=lambda subject: subject.name)


@each_subject
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_children_of_which_python_does_not_hear_work_and_their_parent_goes_on(subject, survives):
    survives(UnheardForks, subject, load=True)


@each_subject
def test_finalizers_that_use_redis_fail_no_caller_and_do_not_fail(subject, survives):
    survives(Finalizers, subject, load=True)


def test_time_limits_that_end_calls_cost_the_other_threads_nothing(survives):
    survives(SoftTimeLimits, LimitedSync, load=True)


@each_subject
def test_an_outage_ends_although_each_hook_that_is_told_of_it_raises(subject, survives):
    survives(HooksThatRaise, subject, load=True)


@each_subject
def test_consumers_that_wait_for_jobs_are_no_outage(subject, survives):
    survives(BlockingConsumers, subject, load=True)


@each_engine
def test_a_primary_that_is_demoted_costs_no_caller_more_than_one_write(subject, survives):
    survives(NameMoves, subject, load=True)
