"""The same faults on the other ways to run a server: Debian's Redis, behind TLS, on a Unix socket, both protocols."""

from __future__ import annotations

import pytest

from tests.lab.faults import (
    ClientsPaused,
    ConnectionsKilled,
    Loading,
    OutOfMemory,
    PasswordRotated,
    ReadOnly,
    ServerFrozen,
    ServerKilled,
    TooManyClients,
    UserRevoked,
)
from tests.lab.network_faults import SilentMidReply, SingleBytes, Truncated
from tests.lab.servers import EACH_PROGRAM
from tests.lab.subjects import ENGINES

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("subject", ENGINES, ids=lambda subject: subject.name)]


def each(*kinds):
    return pytest.mark.parametrize("fault", kinds, ids=lambda fault: fault.name)


@pytest.mark.parametrize("program", EACH_PROGRAM[1:])
@each(
    ServerKilled, ServerFrozen, ClientsPaused, Loading, ConnectionsKilled,
    ReadOnly, OutOfMemory, TooManyClients, PasswordRotated, UserRevoked,
)  # fmt: skip
def test_another_vendors_server_may_fail_too(fault, subject, program, survives):
    survives(fault, subject, load=True, program=program)


@each(
    ServerFrozen,
    ConnectionsKilled,
    Truncated,
    SilentMidReply,
    SingleBytes,
)
def test_behind_tls(fault, subject, survives):
    # Both ends of every handshake run in this process.
    survives(fault, subject, load=True, transport="tls", SOCKET_TIMEOUT=1.0, HEALTH_CHECK_TIMEOUT=1.0)


@each(ServerFrozen, ConnectionsKilled, ReadOnly)
def test_on_a_unix_socket(fault, subject, survives):
    survives(fault, subject, load=True, transport="unix")


@each(ServerKilled, ServerFrozen, ConnectionsKilled, Truncated, Loading)
def test_with_the_newer_protocol(fault, subject, survives):
    survives(fault, subject, load=True, PROTOCOL=3)
