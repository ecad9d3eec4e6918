"""The laboratory catches what it is there to catch: here the pool is told, or made, to break a promise."""

from __future__ import annotations

from unittest import mock

import pytest

from redispool_app.engine.health.monitor import Monitor
from tests.lab.faults import ServerKilled
from tests.lab.network_faults import BlackHole, Truncated
from tests.lab.subjects import ENGINES

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("subject", ENGINES, ids=lambda subject: subject.name)]


def test_a_write_that_is_done_twice_is_noticed(subject, survives, unrecorded):
    with pytest.raises(AssertionError, match=r"the rest twice or denied|wrong reply: INCR"):
        for _ in range(5):  # until the reply to an increment is one of those that are cut off
            survives(Truncated, subject, load=True, RETRY_WRITES=True)


def test_callers_that_wait_too_long_are_noticed(subject, survives, unrecorded):
    with pytest.raises(AssertionError, match=r"waited (0\.9|1\.).* whose deadline is 0\.5"):
        survives(BlackHole, subject, load=True, rules={"deadline": 0.5}, SOCKET_TIMEOUT=1.0)


def test_an_outage_that_is_not_remembered_is_noticed(subject, survives, unrecorded):
    with mock.patch.object(Monitor, "_tell"), pytest.raises(AssertionError, match="the log does not mention"):
        survives(ServerKilled, subject, load=True)
