"""Who gets a connection, who waits, who is refused: decisions without I/O."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redispool_app.engine.pool.state import Lease, PoolState
from redispool_app.exceptions import PoolClosed, PoolQueueFull


class Connection:
    """Stands for a connection, which holds its lease."""

    def __repr__(self):
        return f"<{self.number}>"


def numbered():
    numbers = itertools.count(1)

    def make():
        connection = Connection()
        connection.number = next(numbers)
        return connection

    return make


class Caller:
    """A waiter that notes whether it was woken."""

    owner = None
    is_lost = False

    def __init__(self):
        self.woken = False

    def wake(self):
        self.woken = True


@pytest.fixture
def state():
    return PoolState(numbered(), max_connections=2, max_waiting=2)


def take(state):
    return state.take(Lease(state))


def give_back(state, connection):
    return state.put_back(state.lease_of(connection), connection)


def wait(state):
    assert take(state) is None
    caller = Caller()
    state.waiters.append(caller)
    state.check_room(caller)
    return caller


def served(state, caller):
    """Do what a caller that was woken does: take what is there and leave."""
    assert caller.woken
    connection = state.take_at_once(Lease(state))
    state.leave(caller)
    return connection


def test_connections_are_made_only_when_none_lies_idle(state):
    first = take(state)
    give_back(state, first)
    assert take(state) is first
    assert take(state).number == 2


def test_the_connection_used_last_is_handed_out_first(state):
    first, second = take(state), take(state)
    give_back(state, second)
    give_back(state, first)
    assert take(state) is first


def test_the_caller_that_has_waited_longest_is_served_first(state):
    first, _ = take(state), take(state)
    early, late = wait(state), wait(state)
    assert give_back(state, first) is False
    assert (early.woken, late.woken) == (True, False)
    assert take(state) is None, "a newcomer does not overtake the caller that was woken"
    assert served(state, early) is first
    assert not late.woken
    assert first in state.in_use


def test_the_turn_of_a_caller_that_leaves_goes_to_the_next(state):
    first, _ = take(state), take(state)
    leaving, patient = wait(state), wait(state)
    give_back(state, first)
    assert (leaving.woken, patient.woken) == (True, False)
    state.leave(leaving)
    assert patient.woken
    assert served(state, patient) is first


def test_a_connection_that_no_caller_takes_lies_idle(state):
    first, _ = take(state), take(state)
    caller = wait(state)
    state.leave(caller)
    give_back(state, first)
    assert state.idle == [first]
    assert first not in state.in_use


def test_one_waiter_too_many_is_refused_at_once(state):
    kept = take(state), take(state)
    wait(state), wait(state)
    with pytest.raises(PoolQueueFull, match="raise MAX_CONNECTIONS or MAX_WAITING"):
        wait(state)
    assert kept


def test_closing_wakes_those_that_wait_and_refuses_those_that_come(state):
    first, second = take(state), take(state)
    caller = wait(state)
    assert state.close() == []
    assert caller.woken
    with pytest.raises(PoolClosed):
        take(state)
    with pytest.raises(PoolClosed):
        state.take_reserve(Lease(state))
    assert give_back(state, first) is True, "a connection given back to a closed pool must be disconnected"
    assert state.in_use == [second]
    assert state.idle == []


def test_closing_twice_returns_each_idle_connection_once(state):
    give_back(state, take(state))
    assert len(state.close()) == 1
    assert state.close() == []


def test_a_stranger_is_not_taken_in(state):
    assert state.lease_of(Connection()) is None
    assert state.lease_of(take(PoolState(numbered(), 1, 1))) is None
    first = take(state)
    give_back(state, first)
    assert give_back(state, first) is False, "given back twice"
    assert state.idle == [first]
    assert len(state.free) == 2


def test_what_was_lent_before_everything_was_forgotten_is_a_stranger(state):
    first = take(state)
    state.forget()
    assert state.in_use == []
    assert state.lease_of(first) is None


def test_a_borrower_that_loses_its_connection_loses_no_slot(state):
    lost, kept = take(state), take(state)
    caller = wait(state)
    assert state.reclaim() == []
    del lost
    assert [connection.number for connection in state.reclaim()] == [1]
    assert state.in_use == [kept]
    assert served(state, caller).number == 3, "what was lost may be in the middle of a reply"


def test_an_interrupted_borrower_loses_no_slot(state):
    def interrupted():
        raise KeyboardInterrupt

    usual, state._make = state._make, interrupted
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            take(state)
    state._make = usual
    assert (len(state.free), state.in_use) == (2, [])
    assert take(state).number == 1


# The reserve.


def test_a_nested_caller_gets_what_is_free_before_the_reserve(state):
    kept = take(state)
    nested = state.take_reserve(Lease(state))
    assert len(state.free) == 0
    assert give_back(state, nested) is False
    assert len(state.free) == 1
    assert kept in state.in_use


def test_one_connection_is_kept_in_reserve_and_more_are_made_when_it_is_lent(state):
    kept = [take(state), take(state)]
    wait(state)
    first, second = state.take_reserve(Lease(state)), state.take_reserve(Lease(state))
    assert len(state.in_use) == 4
    assert give_back(state, first) is False
    assert give_back(state, second) is True, "one is enough"
    assert (state.idle, len(state.free)) == ([first], 0)
    assert state.take_reserve(Lease(state)) is first
    assert len(kept) == 2


def test_the_reserve_never_serves_a_caller_that_can_wait(state):
    kept = [take(state), take(state)]
    reserve = state.take_reserve(Lease(state))
    give_back(state, reserve)
    assert take(state) is None
    assert state.take_at_once(Lease(state)) is None
    assert kept


@given(st.lists(st.sampled_from(["take", "give", "leave", "lose", "nested"]), max_size=200))
def test_no_order_of_events_loses_or_doubles_a_connection(events):
    state = PoolState(numbered(), max_connections=3, max_waiting=5)
    held, waiting, nested = [], [], []
    for event in events:
        if event == "take":
            connection = take(state)
            if connection is None:
                caller = Caller()
                state.waiters.append(caller)
                try:
                    state.check_room(caller)
                except PoolQueueFull:
                    assert len(waiting) == 5
                    state.leave(caller)
                    continue
                waiting.append(caller)
            else:
                held.append(connection)
        elif event == "give" and held:
            give_back(state, held.pop(0))
        elif event == "lose" and held:
            held.pop(0)
            assert len(state.reclaim()) == 1
        elif event == "nested":
            nested.append(state.take_reserve(Lease(state)))
            give_back(state, nested.pop())
        elif event == "leave" and waiting:
            state.leave(waiting.pop())
        connection = None
        for caller in [each for each in waiting if each.woken]:
            caller.woken = False
            if (connection := state.take_at_once(Lease(state))) is not None:
                held.append(connection)
                waiting.remove(caller)
                state.leave(caller)
        connection = None
        assert {each.number for each in held} == {each.number for each in state.in_use}
        assert len(held) == len(state.in_use)
        assert len(state.in_use) + len(state.free) == 3
        assert len(state.reserve) <= 1
        assert not set(state.idle) & set(state.in_use)
        assert not (waiting and state.free), "no caller waits while a slot is free"


def test_what_was_idle_too_long_is_taken_out_and_nothing_else(state):
    first, second = take(state), take(state)
    give_back(state, first)
    give_back(state, second)
    next(slot for slot in state.free if first in slot).since -= 100
    assert state.next_expiry(60) == 0
    assert state.take_out_expired(60) == [first]
    assert state.idle == [second]
    assert 59 < state.next_expiry(60) <= 60
    assert state.take_out_expired(60) == []
    assert take(state) is second
    assert state.next_expiry(60) is None
    assert take(state).number == 3, "its slot stays"
