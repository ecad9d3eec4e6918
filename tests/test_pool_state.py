"""Who gets a connection, who waits, who is refused: decisions without I/O."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redispool_app.engine.pool_state import PoolState
from redispool_app.exceptions import PoolClosed, PoolQueueFull


class Caller:
    """A waiter that can leave."""

    def __init__(self):
        self.connection = None
        self.error = None
        self.gone = False

    def give(self, connection):
        if self.gone:
            return False
        self.connection = connection
        return True

    def refuse(self, error):
        self.error = error


@pytest.fixture
def state():
    return PoolState(itertools.count(1).__next__, max_connections=2, max_waiting=2)


def wait(state):
    assert state.take() is None
    caller = Caller()
    state.waiters.append(caller)
    return caller


def test_connections_are_made_only_when_none_lies_idle(state):
    first = state.take()
    state.give_back(first)
    assert state.take() == first
    assert state.take() == first + 1


def test_the_connection_used_last_is_handed_out_first(state):
    first, second = state.take(), state.take()
    state.give_back(second)
    state.give_back(first)
    assert state.take() == first


def test_the_caller_who_waits_longest_is_served_first(state):
    first, _ = state.take(), state.take()
    early, late = wait(state), wait(state)
    assert state.give_back(first) is True
    assert early.connection == first
    assert late.connection is None
    assert first in state.in_use


def test_nothing_is_handed_to_somebody_who_has_left(state):
    first, _ = state.take(), state.take()
    gone, patient = wait(state), wait(state)
    gone.gone = True
    state.give_back(first)
    assert patient.connection == first


def test_a_connection_nobody_takes_any_more_lies_idle(state):
    first, _ = state.take(), state.take()
    wait(state).gone = True
    state.give_back(first)
    assert state.idle == [first]
    assert first not in state.in_use


def test_one_waiter_too_many_is_refused_at_once(state):
    state.take(), state.take()
    wait(state), wait(state)
    with pytest.raises(PoolQueueFull, match="raise MAX_CONNECTIONS or MAX_WAITING"):
        state.take()


def test_closing_refuses_those_who_wait_and_those_who_come(state):
    first, _ = state.take(), state.take()
    caller = wait(state)
    assert state.close() == []
    assert isinstance(caller.error, PoolClosed)
    with pytest.raises(PoolClosed):
        state.take()
    assert state.give_back(first) is False, "a connection given back to a closed pool must be disconnected"


def test_closing_twice_returns_each_idle_connection_once(state):
    state.give_back(state.take())
    assert len(state.close()) == 1
    assert state.close() == []


def test_a_stranger_is_not_taken_in(state):
    assert state.give_back(99) is False
    first = state.take()
    state.give_back(first)
    assert state.give_back(first) is False, "given back twice"
    assert state.idle == [first]


@given(st.lists(st.sampled_from(["take", "give", "leave"]), max_size=200))
def test_no_order_of_events_loses_or_doubles_a_connection(events):
    state = PoolState(itertools.count(1).__next__, max_connections=3, max_waiting=5)
    held, waiting = [], []
    for event in events:
        if event == "take":
            try:
                connection = state.take()
            except PoolQueueFull:
                assert len(waiting) == 5
                continue
            if connection is None:
                caller = Caller()
                state.waiters.append(caller)
                waiting.append(caller)
            else:
                held.append(connection)
        elif event == "give" and held:
            state.give_back(held.pop(0))
        elif event == "leave" and waiting:
            caller = waiting.pop()
            caller.gone = True
            state.leave(caller)
        held += [caller.connection for caller in waiting if caller.connection is not None]
        waiting = [caller for caller in waiting if caller.connection is None]
        assert sorted(held) == sorted(state.in_use)
        assert len(state.in_use) + len(state.idle) <= 3
        assert not set(state.idle) & state.in_use
        assert not (waiting and state.idle), "nobody waits while a connection lies idle"


def test_shrinking_takes_out_what_lay_idle_too_long_and_nothing_else(state):
    first, second = state.take(), state.take()
    state.give_back(first)
    state.give_back(second)
    state.idle_since[first] -= 100
    assert state.shrink(60) == [first]
    assert state.idle == [second]
    assert state.shrink(60) == []
    assert state.take() == second
    assert second not in state.idle_since
