"""Each fault strikes each engine, under load and at rest: no wrong reply, no lost write, nobody waits too long."""

from __future__ import annotations

import itertools

import pytest

from tests.lab.faults import SERVER_FAULTS, ConnectionsKilled, ServerFrozen, ServerKilled
from tests.lab.network_faults import NETWORK_FAULTS, Refused
from tests.lab.process_faults import PROCESS_FAULTS
from tests.lab.subjects import ENGINES

_QUICK = {ServerKilled, ServerFrozen, ConnectionsKilled, Refused}
"""Under load these belong to every run of the tests; the rest are for ``make faults``."""


def scenarios(kinds):
    for fault, subject, load in itertools.product(kinds, ENGINES, (True, False)):
        marks = () if load and fault in _QUICK else (pytest.mark.lab,)
        name = f"{fault.__name__}-{'async' if subject.is_async else 'sync'}-{'busy' if load else 'idle'}"
        yield pytest.param(fault, subject, load, id=name, marks=marks)


@pytest.mark.parametrize(("fault", "subject", "load"), list(scenarios(SERVER_FAULTS)))
def test_a_fault_of_the_server_is_survived(fault, subject, load, survives):
    survives(fault, subject, load=load)


@pytest.mark.parametrize(("fault", "subject", "load"), list(scenarios(NETWORK_FAULTS)))
def test_a_fault_of_the_network_is_survived(fault, subject, load, survives):
    survives(fault, subject, load=load)


@pytest.mark.parametrize(("fault", "subject", "load"), list(scenarios(PROCESS_FAULTS)))
def test_a_fault_of_this_process_is_survived(fault, subject, load, survives):
    survives(fault, subject, load=load)
