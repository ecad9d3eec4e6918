"""Single flight: one leader, a waker and a time-out for each waiter, and a leader that leaves is replaced at once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from functools import partial

import pytest

from redispool_app.engine.runtime.single_flight import LOOK_AGAIN, Flight, Flights, SingleFlight
from tests.support.crowd import at_once, started
from tests.support.interrupts import Interruption, at_every_point

HANGS = 5.0


class OfOne:
    """``SingleFlight`` as if it had keys."""

    def __init__(self):
        self.flight = SingleFlight()

    def join(self, key, own):
        return self.flight.join(own)

    def leave(self, key, own):
        own.leave()


@pytest.fixture(params=[Flights, OfOne])
def flights(request):
    return request.param()


def share(flights, work, timeout=HANGS):
    """Do ``work``, or wait for the caller that does it; None after ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        own = Flight()
        try:
            flight = flights.join("key", own)
            if flight is own:
                own.land(work())
                return own.result()
        finally:
            own.ended = True
            flights.leave("key", own)
        if own.is_nested_in(flight):
            return work()
        if flight.wait(left) and flight.has_landed:
            return flight.result()
    return None


async def share_async(flights, work, timeout=HANGS):
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        own = Flight(asyncio.current_task())
        try:
            flight = flights.join("key", own)
            if flight is own:
                own.land(await work())
                return own.result()
        finally:
            own.ended = True
            flights.leave("key", own)
        if own.is_nested_in(flight):
            return await work()
        if await flight.wait_async(left) and flight.has_landed:
            return flight.result()
    return None


def test_threads_and_event_loops_share_one_flight(flights):
    led, go_on = [], threading.Event()

    def work():
        led.append(1)
        go_on.wait(HANGS)
        return "found"

    async def in_loop():
        async def never():
            raise AssertionError("it must wait for the leader")

        return await asyncio.gather(*(share_async(flights, never) for _ in range(5)))

    leader = started([partial(share, flights, work)])
    while not led:
        time.sleep(0.001)
    others = started([partial(share, flights, work)] * 4 + [lambda: asyncio.run(in_loop())] * 2)
    flight = flights.join("key", Flight())
    while len(flight._wakers) < 14:
        time.sleep(0.001)
    began = time.monotonic()
    go_on.set()
    outcomes = [caller.ended(HANGS) for caller in leader + others]
    assert outcomes == ["found"] * 5 + [["found"] * 5] * 2
    assert led == [1]
    assert time.monotonic() - began < LOOK_AGAIN, "a waker was lost"


def test_each_waiter_has_its_own_time_out():
    flight = Flight()

    async def in_loop(timeout):
        return await flight.wait_async(timeout)

    began = time.monotonic()
    short = [partial(flight.wait, 0.05), lambda: asyncio.run(in_loop(0.05))]
    assert at_once(short, within=HANGS) == [False, False]
    assert time.monotonic() - began < 2
    long = started([partial(flight.wait, HANGS), lambda: asyncio.run(in_loop(HANGS))])
    flight.land(1)
    assert [caller.ended(HANGS) for caller in long] == [True, True]
    assert not flight._wakers


async def test_a_cancelled_waiter_does_not_affect_the_others():
    flight = Flight()
    tasks = [asyncio.create_task(flight.wait_async(HANGS)) for _ in range(3)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert len(flight._wakers) == 2
    flight.land(1)
    assert (await asyncio.gather(*tasks, return_exceptions=True))[1:] == [True, True]


def test_an_event_loop_that_ended_while_it_waited_is_passed_over():
    flight, loop = Flight(), asyncio.new_event_loop()
    task = loop.create_task(flight.wait_async(HANGS))
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    waiter = started([partial(flight.wait, HANGS)])
    time.sleep(0.02)
    loop.close()
    flight.land(1)
    assert waiter[0].ended(HANGS) is True
    task._log_destroy_pending = False


def test_the_first_outcome_stays():
    flight = Flight()
    flight.land(1)
    flight.land(2)
    flight.fail(ValueError())
    assert flight.result() == 1


def test_each_waiter_gets_an_error_of_its_own():
    flight = Flight()
    flight.fail(OSError(5, "no"))
    with pytest.raises(OSError, match="no") as first:
        flight.result()
    with pytest.raises(OSError, match="no") as second:
        flight.result()
    assert first.value is not second.value
    assert first.value.errno == 5


def test_a_flight_whose_leader_left_is_taken_over_at_once(flights):
    flight = Flight()
    assert flights.join("key", flight) is flight
    waiter = started([partial(share, flights, lambda: "mine")])
    time.sleep(0.02)
    began = time.monotonic()
    flight.ended = True  # an interrupt took the rest
    assert at_once([partial(share, flights, lambda: "other's")], within=HANGS) == ["other's"]
    assert time.monotonic() - began < LOOK_AGAIN
    assert waiter[0].ended(HANGS) in ("mine", "other's")


def test_a_flight_that_takes_too_long_is_taken_over():
    flights, first, second = SingleFlight(), Flight(), Flight()
    assert flights.join(first) is first
    assert flights.join(second, longest=10) is first
    assert flights.join(second, longest=-1) is second
    assert flights.join(Flight()) is second


def test_a_nested_call_of_the_leader_works_for_itself(flights):
    assert share(flights, lambda: ("outer", share(flights, lambda: "nested"))) == ("outer", "nested")


async def test_so_does_a_task_and_a_blocking_call_in_its_thread(flights):
    async def nested():
        return "nested"

    async def outer():
        return await share_async(flights, nested), share(flights, lambda: "blocking")

    assert await share_async(flights, outer) == ("nested", "blocking")


async def test_another_task_of_the_loop_waits_for_the_leader(flights):
    async def work():
        await asyncio.sleep(0.05)
        return object()

    found = await asyncio.gather(*(share_async(flights, work) for _ in range(5)))
    assert len(set(found)) == 1


def test_a_forked_child_takes_over_what_its_parent_does(flights):
    flight = Flight()
    flights.join("key", flight)
    child = os.fork()
    if child == 0:
        os._exit(0 if share(flights, lambda: "child", 2.0) == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert flights.join("key", Flight()) is flight


def test_of_many_threads_one_leads_at_a_time(flights):
    leading, most = [], []

    def work():
        leading.append(1)
        most.append(len(leading))
        time.sleep(0.0005)
        leading.pop()
        return 1

    def again_and_again():
        return [share(flights, work) for _ in range(100)]

    assert at_once([again_and_again] * 8, within=30) == [[1] * 100] * 8
    # A race at the end of a flight may let two lead where flights have keys; not where there is one thing.
    assert max(most) == 1 or isinstance(flights, Flights)


@pytest.mark.parametrize("kind", [Flights, OfOne])
def test_a_leader_may_be_interrupted_anywhere(kind):
    flights = kind()
    for running in at_every_point(partial(share, flights, lambda: "v")):
        (outcome,) = at_once([running])
        assert outcome == "v" or isinstance(outcome, Interruption), running.where
        began = time.monotonic()
        assert at_once([partial(share, flights, lambda: "w")] * 2, within=HANGS) == ["w"] * 2, running.where
        assert time.monotonic() - began < 2, running.where


def test_a_waiter_may_be_interrupted_anywhere():
    flight = Flight()

    def prepare():
        nonlocal flight
        flight = Flight()

    for running in at_every_point(lambda: flight.wait(0.002), prepare):
        other = started([partial(flight.wait, HANGS)])
        at_once([running])
        flight.land(1)
        assert other[0].ended(HANGS) is True, running.where
        assert not flight._wakers, running.where


# Leading by one call.


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_error_of_the_leader_reaches_those_that_wait_only_if_it_is_shared(is_shared):
    flights, own = SingleFlight(), Flight()

    def work():
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        flights.lead(own, work, lambda error: is_shared and str(error) == "lost")
    assert (own.is_over, own.has_landed) == (True, is_shared)
    if is_shared:
        with pytest.raises(OSError, match="lost"):
            own.result()


def test_who_joins_a_flight_that_another_leads_does_no_work():
    flights, first, second = SingleFlight(), Flight(), Flight()
    seen = []
    flights.lead(first, lambda: seen.append(flights.lead(second, lambda: seen.append("second"))))
    assert seen == [first]
    assert (first.has_landed, second.has_landed) == (True, False)
    assert flights.lead(third := Flight(), lambda: "done") is third
    assert third.result() == "done"
