"""The async engine on uvloop, whose transports tell about an end in ways of their own."""

from __future__ import annotations

import pytest

from tests.lab.faults import ConnectionsKilled, ServerFrozen, ServerKilled
from tests.lab.network_faults import (
    BlackHole,
    Garbage,
    HalfOpen,
    NameServerSilent,
    NameUnknown,
    OneByteASecond,
    Refused,
    SilentMidReply,
    Truncated,
)
from tests.lab.process_faults import InterpreterBusy
from tests.lab.subjects import AsyncUvloop

_FAULTS = [
    ServerKilled, ServerFrozen, ConnectionsKilled, Refused, BlackHole, SilentMidReply, HalfOpen, NameUnknown,
    NameServerSilent, Garbage, OneByteASecond, Truncated, InterpreterBusy,
]  # fmt: skip


@pytest.mark.lab
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_the_engine_survives_on_uvloop(fault, survives):
    survives(fault, AsyncUvloop, load=True)
