"""The two clients without a manager: nobody knows of the outage, and still no reply is wrong and nobody waits long."""

from __future__ import annotations

import pytest

from tests.lab.faults import ConnectionsKilled, ServerFrozen, ServerKilled
from tests.lab.network_faults import (
    AddressChanged,
    BlackHole,
    Garbage,
    HalfOpen,
    NameServerSilent,
    NameUnknown,
    OneByteASecond,
    Refused,
    SilentMidReply,
    SlowNetwork,
    Truncated,
)
from tests.lab.subjects import ALONE

_FAULTS = [
    ServerKilled, ServerFrozen, ConnectionsKilled, Refused, BlackHole,
    SilentMidReply, HalfOpen, AddressChanged, Garbage, OneByteASecond,
    SlowNetwork, Truncated, NameUnknown, NameServerSilent,
]  # fmt: skip


@pytest.mark.lab
@pytest.mark.parametrize("subject", ALONE, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_a_client_without_a_manager_survives(fault, subject, survives):
    survives(fault, subject, load=True)
