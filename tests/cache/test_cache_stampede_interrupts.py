"""``get_or_set`` interrupted at each point where CPython looks for signals: others are neither held up nor misled."""

from __future__ import annotations

import sys
import threading
from functools import partial

import pytest

from redispool_app.cache.get_or_set import under_way
from tests.support import cache_faces
from tests.support.cache_faces import new_cache, pickled
from tests.support.crowd import Caller, at_once, started
from tests.support.interrupts import Interruption, at_every_point
from tests.support.servers import eventually

at_redis = cache_faces.at_redis

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("manager")]

LONGEST_WAIT = 60.0
"""Seconds that nobody here reaches: to wait for a computation that was left is to hang."""

HANGS = 20.0


@pytest.fixture
def cache():
    # The server's own lock, which an interrupt may leave behind, ends soon.
    return new_cache(STAMPEDE_WAIT=LONGEST_WAIT, STAMPEDE_LOCK_TIMEOUT=0.05)


def test_who_computes_alone_may_be_interrupted_anywhere(cache, at_redis):
    ask = partial(cache.get_or_set, "k", lambda: "v")
    for running in at_every_point(ask, at_redis.flushdb):
        (outcome,) = at_once([running])
        assert outcome == "v" or isinstance(outcome, Interruption), running.where
        at_redis.delete(":1:k")
        assert at_once([ask] * 2, within=HANGS) == ["v"] * 2, running.where
        assert at_redis.get(":1:k") == pickled("v"), running.where
        assert len(under_way) == 0, running.where


def test_who_waits_for_a_computation_that_is_interrupted_anywhere_makes_its_own(cache, at_redis):
    followers = []

    def computed_with_a_follower():
        # Only once: who takes over computes too.
        if not followers:
            followers.extend(started([partial(cache.get_or_set, "k", lambda: "v")]))
            eventually(lambda: waits(followers[0]))
        return "v"

    def prepare():
        at_redis.flushdb()
        followers.clear()

    for running in at_every_point(partial(cache.get_or_set, "k", computed_with_a_follower), prepare, most=60):
        at_once([running], within=HANGS)
        for follower in followers:
            assert follower.ended(HANGS) == "v", running.where


def waits(thread: Caller) -> bool:
    """Whether a thread stands in a flight's wait."""
    return any(code == "wait" and "single_flight" in file for code, file in frames_of(thread))


def frames_of(thread: threading.Thread) -> list[tuple[str, str]]:
    """The functions that a thread is in, with their files."""
    frame, found = sys._current_frames().get(thread.ident or 0), []
    while frame is not None:
        found.append((frame.f_code.co_name, frame.f_code.co_filename))
        frame = frame.f_back
    return found
