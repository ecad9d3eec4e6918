"""Many callers at once while Redis is away: attempts to connect stay few, and no more wait than may."""

from __future__ import annotations

import pytest

from tests.lab.faults import ConnectionsKilled, ServerKilled
from tests.lab.network_faults import BlackHole, Refused
from tests.lab.process_faults import Flood
from tests.lab.subjects import ENGINES

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("subject", ENGINES, ids=lambda subject: subject.name)]


def crowd_of(subject):
    """500 callers: coroutines that ask ten times a second, or threads that ask four times."""
    return {"callers": 500, "pace": 0.1 if subject.is_async else 0.25}


@pytest.mark.parametrize(
    "fault",
    [Refused, BlackHole, ServerKilled, ConnectionsKilled],
    ids=lambda f: f.name,
)
def test_a_crowd_makes_no_stampede(fault, subject, survives):
    survives(fault, subject, load=True, **crowd_of(subject))


def test_no_more_callers_wait_than_may(subject, survives):
    findings = survives(Flood, subject, load=True, **crowd_of(subject))
    assert 0 < findings.numbers["in_flight"] <= Flood.keys["MAX_IN_FLIGHT"]
    assert 0 < findings.numbers["waiting"] <= Flood.keys["MAX_WAITING"]
    assert findings.numbers["refused"] > 0
