"""Transactions with WATCH have a connection each, from the pool: the same faults, the same promises."""

from __future__ import annotations

import pytest

from tests.lab.drivers import callers_of
from tests.lab.faults import ClientsPaused, ConnectionsKilled, ServerFrozen, ServerKilled
from tests.lab.network_faults import BlackHole, HalfOpen, Refused, Truncated
from tests.lab.stage import QUICK
from tests.lab.subjects import TRANSACTIONS
from tests.lab.verdicts import ATTEMPTS_PER_SECOND

_FAULTS = [ServerKilled, ServerFrozen, ClientsPaused, ConnectionsKilled, Refused, BlackHole, HalfOpen, Truncated]


def rules_of(fault, subject):
    """A connection of one's own takes a time-out to be made and one for its first reply.

    Each caller may need one for each that it has lost; it makes that once, and is told at once if it cannot.
    """
    attempts = callers_of(subject) * fault.losses_per_second + ATTEMPTS_PER_SECOND
    return {"deadline": 2 * QUICK["SOCKET_TIMEOUT"], "attempts_per_second": attempts}


@pytest.mark.lab
@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("subject", TRANSACTIONS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_transactions_survive(fault, subject, load, survives):
    survives(fault, subject, load=load, rules=rules_of(fault, subject))
