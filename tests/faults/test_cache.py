"""The cache backend under the same faults: its callers see what the engine's see."""

from __future__ import annotations

import pytest

from tests.lab.faults import (
    ClientsPaused,
    ConnectionsKilled,
    Loading,
    OutOfMemory,
    PasswordRotated,
    PermissionRevoked,
    ReadOnly,
    ServerAsleep,
    ServerFrozen,
    ServerKilled,
    TooManyClients,
    UserRevoked,
)
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
from tests.lab.process_faults import ClockJumps, NoDescriptors, ScriptsFlushed
from tests.lab.stage import QUICK
from tests.lab.subjects import CACHE_FACES, GET_OR_SET

_FAULTS = [
    ServerKilled, ServerFrozen, ConnectionsKilled, Refused, BlackHole,
    SilentMidReply, NameUnknown, NameServerSilent, Garbage, OneByteASecond, Truncated, ReadOnly,
    OutOfMemory, PasswordRotated, ClockJumps, Loading, TooManyClients, UserRevoked,
    PermissionRevoked, ClientsPaused, ServerAsleep, NoDescriptors, ScriptsFlushed,
]  # fmt: skip
_STEPS = 3
"""What ``get_or_set`` asks for one after the other, at most: the value, the lock, and to take what was computed or the
lock back."""


@pytest.mark.lab
@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("subject", CACHE_FACES, ids=lambda subject: subject.name)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_the_cache_survives(fault, subject, load, survives):
    survives(fault, subject, load=load)


@pytest.mark.lab
@pytest.mark.parametrize("subject", GET_OR_SET, ids=lambda subject: subject.name)
@pytest.mark.parametrize(
    "fault", [ServerKilled, ServerFrozen, ConnectionsKilled, Truncated, ScriptsFlushed], ids=lambda fault: fault.name
)
def test_what_is_computed_once_survives(fault, subject, survives):
    survives(fault, subject, load=True, rules={"deadline": _STEPS * QUICK["SOCKET_TIMEOUT"]})
