"""The cache backend under the same faults: its callers see what the engine's see."""

from __future__ import annotations

import pytest

from tests.lab.faults import ConnectionsKilled, OutOfMemory, PasswordRotated, ReadOnly, ServerFrozen, ServerKilled
from tests.lab.network_faults import (
    BlackHole,
    Garbage,
    NameServerSilent,
    NameUnknown,
    OneByteASecond,
    Refused,
    SilentMidReply,
    Truncated,
)
from tests.lab.process_faults import ClockJumps
from tests.lab.subjects import CACHE_FACES

_FAULTS = [
    ServerKilled, ServerFrozen, ConnectionsKilled, Refused, BlackHole,
    SilentMidReply, NameUnknown, NameServerSilent, Garbage, OneByteASecond, Truncated, ReadOnly,
    OutOfMemory, PasswordRotated, ClockJumps,
]  # fmt: skip


@pytest.mark.lab
@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("subject", CACHE_FACES, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_the_cache_survives(fault, subject, load, survives):
    survives(fault, subject, load=load)
