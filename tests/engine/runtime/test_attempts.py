"""One task works for all callers that wait, and another takes its place when the event loop has lost a step of it."""

from __future__ import annotations

import asyncio
from time import monotonic, sleep

import pytest

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.multiplex.multiplexer_sync import SyncMultiplexer
from redispool_app.engine.runtime import attempts
from redispool_app.engine.runtime.attempts import Attempt, patience
from redispool_app.engine.runtime.lost_callbacks import note_strike, struck_at
from tests.support.crowd import at_once
from tests.support.loop_strikes import LOOPS
from tests.support.proxy import Proxy
from tests.support.servers import eventually
from tests.support.strikes import SoftTimeLimitError

PATIENT = 30.0
"""A time-out that no test reaches, in seconds."""

SOON = 4.0
"""No caller may wait this long, in seconds: less than ``attempts.LATE``."""


never_awaited = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def lose_the_next_step_of(task):
    """Take what would wake ``task`` out of the event loop, as an exception between two callbacks does."""
    loop = asyncio.get_running_loop()
    lost = [handle for handle in loop._ready if getattr(handle._callback, "__self__", None) is task]
    assert lost, "the task is not about to make a step"
    for handle in lost:
        loop._ready.remove(handle)


def attempt_at(work, cut=lambda connection: None, usual=None):
    return Attempt(asyncio.get_running_loop(), work, lambda attempt: None, cut, usual)


@pytest.fixture(autouse=True)
def nothing_was_struck(monkeypatch):
    monkeypatch.setattr("redispool_app.engine.runtime.lost_callbacks._struck_at", float("-inf"))


def test_an_interrupted_attempt_has_time_for_several_usual_ones():
    assert patience(None) == 0.25
    assert (patience(0.001), patience(0.1), patience(7.0)) == (0.1, 0.4, 1.0)


@never_awaited
@pytest.mark.parametrize("step", ["first", "second"])
async def test_a_task_whose_step_was_lost_is_replaced(step):
    numbers, came = [], asyncio.get_running_loop().create_future()

    async def work(attempt, number):
        numbers.append(number)
        if len(numbers) == 1 and step == "second":
            await came

    attempt = attempt_at(work)
    attempt.begin()
    if step == "second":
        await asyncio.sleep(0)
        came.set_result(None)
    lose_the_next_step_of(attempt.task)
    assert await attempt.wait(SOON)
    assert (attempt.error, attempt.replaced) == (None, 1)


async def test_what_the_replaced_task_has_connected_is_closed_first():
    events = []

    async def work(attempt, number):
        events.append(f"connects {number}")
        attempt.connection = number
        if len(events) == 1:
            note_strike(SoftTimeLimitError())
            await asyncio.sleep(PATIENT)
        assert attempt.is_current(number)

    attempt = attempt_at(work, cut=lambda connection: events.append(f"closed {connection}"), usual=0.0)
    attempt.begin()
    assert await attempt.wait(SOON)
    assert events == ["connects 1", "closed 1", "connects 2"]


async def test_callers_go_on_although_the_news_of_the_end_was_lost():
    ended = asyncio.Event()

    async def work(attempt, number):
        await ended.wait()

    attempt = attempt_at(work)
    attempt.begin()
    callers = [asyncio.create_task(attempt.wait(SOON)) for _ in range(3)]
    await asyncio.sleep(0)
    attempt.task.remove_done_callback(attempt._task_ended)
    ended.set()
    assert await asyncio.wait_for(asyncio.gather(*callers), SOON) == [True] * 3


async def test_a_task_that_makes_no_step_is_replaced_once_without_a_sign(monkeypatch):
    monkeypatch.setattr(attempts, "LATE", 0.2)
    began = 0

    async def work(attempt, number):
        nonlocal began
        began += 1
        await asyncio.sleep(PATIENT)

    attempt = attempt_at(work)
    attempt.begin()
    assert not await attempt.wait(1.5)
    assert (began, attempt.replaced) == (2, 1)
    attempt.cancel()
    assert await attempt.wait(SOON)
    assert isinstance(attempt.error, asyncio.CancelledError)


@never_awaited
async def test_an_attempt_ends_without_its_task_when_it_is_given_up():
    async def work(attempt, number):
        await asyncio.sleep(PATIENT)

    attempt = attempt_at(work)
    attempt.begin()
    lose_the_next_step_of(attempt.task)
    attempt.cancel()
    attempt.give_up()
    assert await attempt.wait(0.1)
    assert isinstance(attempt.error, asyncio.CancelledError)


def test_errors_of_connections_and_callers_are_no_strike():
    for error in (ConnectionError(), TimeoutError(), asyncio.CancelledError()):
        note_strike(error)
        assert struck_at() == float("-inf")
    note_strike(SoftTimeLimitError())
    assert struck_at() <= monotonic()


@pytest.mark.parametrize("name", LOOPS)
def test_an_attempt_that_makes_no_step_after_a_run_of_the_loop_has_ended_is_replaced(name):
    loop = LOOPS[name]()

    async def work(attempt, number):
        if number == 1:
            await asyncio.sleep(PATIENT)

    async def begin():
        attempt = attempt_at(work)
        attempt.begin()
        return attempt, await attempt.wait(0.6)

    attempt, has_ended = loop.run_until_complete(begin())
    assert not has_ended, "without a sign it has time"
    assert loop.run_until_complete(attempt.wait(SOON))
    assert attempt.replaced == 1
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# In the engine.


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


def client_of(proxy):
    return AsyncRedis.from_url(proxy.url, socket_timeout=PATIENT, socket_connect_timeout=PATIENT)


def swallow_the_first_reply(monkeypatch):
    """Lose what has been read from a socket during the handshake, which leaves no trace in the event loop."""
    feed, swallowed, loop = asyncio.StreamReader.feed_data, [], asyncio.get_running_loop()

    def feed_data(reader, data):
        if swallowed or asyncio.get_running_loop() is not loop:
            feed(reader, data)
        else:
            swallowed.append(data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    return swallowed


async def test_callers_do_not_wait_for_a_handshake_whose_reply_an_interrupt_has_lost(proxy, monkeypatch):
    client = client_of(proxy)
    swallowed = swallow_the_first_reply(monkeypatch)
    began = monotonic()
    callers = [asyncio.create_task(client.get("k")) for _ in range(20)]
    await asyncio.sleep(0.01)
    note_strike(SoftTimeLimitError())
    assert await asyncio.wait_for(asyncio.gather(*callers), SOON) == [None] * 20
    assert swallowed
    assert monotonic() - began < SOON
    assert client.sharing.connections == 1
    await client.aclose()


async def test_an_interrupted_attempt_at_a_slow_server_leaves_one_connection(proxy):
    client = client_of(proxy)
    proxy.reply_delay = 0.7
    asked = asyncio.create_task(client.get("k"))
    await asyncio.sleep(0.01)
    note_strike(SoftTimeLimitError())
    most, opened = 0, proxy.opened
    while not asked.done():
        await asyncio.sleep(0.02)
        most = max(most, proxy.connections)
    assert await asked is None
    # One at a time; the proxy may not have noticed the end of the former.
    assert most <= 2
    assert proxy.opened - opened <= 4
    assert client.sharing.connections == 1
    await client.aclose()


async def test_a_slow_server_gets_no_second_connection(proxy):
    client = client_of(proxy)
    proxy.reply_delay = 0.7  # for each step of the handshake
    assert await client.get("k") is None
    assert proxy.opened == 1
    await client.aclose()


# The same for threads, where one of the callers makes the attempt itself.


def test_an_exception_in_the_thread_that_connects_is_not_raised_in_those_that_wait(server, monkeypatch):
    client = SyncRedis.from_url(server.url, socket_timeout=PATIENT, socket_connect_timeout=PATIENT)
    make, made, sharing = SyncMultiplexer._make_connection, [], client.sharing

    def struck_at_first(self, deadline):
        made.append(self)
        if len(made) == 1:
            eventually(lambda: len(sharing._attempts.latest._wakers) == 7)
            raise SoftTimeLimitError
        make(self, deadline)

    monkeypatch.setattr(SyncMultiplexer, "_make_connection", struck_at_first)
    outcomes = at_once([lambda: client.get("k")] * 8)
    assert [type(outcome) for outcome in outcomes].count(SoftTimeLimitError) == 1
    assert outcomes.count(None) == 7
    client.close()


def test_an_exception_that_each_attempt_raises_is_raised_in_all_that_wait(server, monkeypatch):
    client = SyncRedis.from_url(server.url, socket_timeout=PATIENT, socket_connect_timeout=PATIENT)

    def without_credentials(self, deadline):
        sleep(0.1)
        raise SoftTimeLimitError

    monkeypatch.setattr(SyncMultiplexer, "_make_connection", without_credentials)
    began = monotonic()
    outcomes = at_once([lambda: client.get("k")] * 30)
    assert {type(outcome) for outcome in outcomes} == {SoftTimeLimitError}
    assert monotonic() - began < 2 * SOON
    client.close()
