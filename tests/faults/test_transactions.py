"""Transactions with WATCH have a connection each, from the pool: the same faults, the same promises."""

from __future__ import annotations

import pytest

from tests.lab.faults import ClientsPaused, ConnectionsKilled, ServerFrozen, ServerKilled
from tests.lab.network_faults import BlackHole, HalfOpen, Refused, Truncated
from tests.lab.stage import QUICK
from tests.lab.subjects import TRANSACTIONS

_FAULTS = [ServerKilled, ServerFrozen, ClientsPaused, ConnectionsKilled, Refused, BlackHole, HalfOpen, Truncated]
_RULES = {"deadline": 2 * QUICK["SOCKET_TIMEOUT"], "attempts_per_second": 100}
"""A connection that is made anew has a time-out for that and one for its first reply; every caller may need one."""


@pytest.mark.lab
@pytest.mark.parametrize("subject", TRANSACTIONS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_transactions_survive(fault, subject, survives):
    survives(fault, subject, load=True, rules=_RULES)
