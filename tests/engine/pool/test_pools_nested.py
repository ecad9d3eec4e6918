"""A caller that meets itself in a pool: a finalizer, a signal handler or a hook on a thread that is inside a call."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.exceptions import PoolTimeout
from tests.support.crowd import Caller, at_once
from tests.support.interrupts import borrow_nested, handled
from tests.support.servers import eventually

PATIENT = 30.0
"""A time-out that no test here may reach, in seconds."""

SOON = 5.0


@pytest.fixture
def alone(server, pool_settings):
    """The blocking client of a pool with one connection, which nothing shares."""
    return pool_settings(server.url, MAX_CONNECTIONS=1, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT).get_sync_client()


def left_as_it_was(pool):
    state = getattr(pool, "connection_pool", pool).state
    gc.collect()
    assert (state.in_use, len(state.free), len(state.waiters)) == ([], state.max_connections, 0)


class Listener:
    """In a cycle with its subscription, so that only the garbage collector finds it."""

    def __init__(self, client):
        self.subscription = client.pubsub()
        self.subscription.owner = self
        self.subscription.subscribe("news")


def test_collected_subscriptions_give_their_connections_back(server, pool_settings):
    client = pool_settings(server.url, MAX_CONNECTIONS=1000, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT).get_sync_client()
    threshold = gc.get_threshold()
    gc.set_threshold(60, 2, 2)

    def use():
        key = str(threading.get_ident())
        for _ in range(300):
            Listener(client)
            with client.pipeline() as pipe:
                pipe.watch(key)
                pipe.multi()
                pipe.set(key, 1)
                pipe.execute()

    try:
        assert at_once([use] * 3, within=PATIENT) == [None] * 3
    finally:
        gc.set_threshold(*threshold)
    left_as_it_was(client)


def test_a_signal_handler_borrows_beyond_the_limit_while_its_own_thread_has_every_connection(server, alone):
    heard = []

    def handle(number, frame):
        heard.append(alone.client_id() > 0)

    def ring():
        eventually(lambda: alone.connection_pool.state.in_use)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGALRM)
        eventually(lambda: heard)
        with server.client() as other:
            other.rpush("jobs", "x")

    with handled(handle):
        driver = Caller(ring)
        driver.start()
        started = time.monotonic()
        assert alone.blpop("jobs", timeout=PATIENT) == (b"jobs", b"x")
        driver.ended()
    assert heard == [True]
    assert time.monotonic() - started < SOON
    left_as_it_was(alone)


def test_a_signal_handler_borrows_beyond_the_limit_while_its_thread_listens_to_a_subscription(server, alone):
    heard = []

    def handle(number, frame):
        heard.append(alone.client_id() > 0)
        with server.client() as other:
            other.publish("news", "x")

    subscription = alone.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("news")
    assert subscription.get_message(timeout=SOON) is None
    started = time.monotonic()
    with handled(handle):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert next(subscription.listen())["data"] == b"x"
    assert heard == [True]
    assert time.monotonic() - started < SOON
    subscription.close()
    left_as_it_was(alone)


def test_a_caller_that_is_not_nested_still_waits_for_its_turn(alone):
    pool = alone.connection_pool
    pool.timeout = 0.1
    held = pool.get_connection()
    with pytest.raises(PoolTimeout):
        pool.get_connection()
    with pytest.raises(PoolTimeout):
        alone.client_id()
    pool.release(held)
    left_as_it_was(alone)


def test_a_wrapper_around_a_call_does_not_make_it_nested(alone, monkeypatch):
    """Tracing libraries put a function of theirs around redis-py's, between our client and our pool."""
    import redis

    usual = redis.Redis.execute_command
    monkeypatch.setattr(redis.Redis, "execute_command", lambda *args, **kwargs: usual(*args, **kwargs))
    pool = alone.connection_pool
    pool.timeout = 0.1
    held = pool.get_connection()
    with pytest.raises(PoolTimeout):
        alone.client_id()
    pool.release(held)


def test_the_reserve_is_connected_used_and_given_back_like_any_connection(alone):
    pool = alone.connection_pool
    held, reserve = pool.get_connection(), borrow_nested(pool)
    reserve.send_command("PING")
    assert reserve.read_response() == b"PONG"
    another = borrow_nested(pool)
    assert len({held, reserve, another}) == 3
    for connection in (another, reserve, held):
        pool.release(connection)
    assert borrow_nested(pool) is held
    assert (another.is_connected, reserve.is_connected) == (True, False), "one is kept"


def test_a_connection_that_its_borrower_loses_is_replaced(alone):
    pool = alone.connection_pool
    lost = pool.get_connection()
    waiting = threading.Thread(target=alone.client_id, daemon=True)
    waiting.start()
    eventually(lambda: len(pool.state.waiters) == 1)
    del lost
    waiting.join(SOON)
    assert not waiting.is_alive()
    left_as_it_was(alone)


def test_a_signal_handler_that_closes_the_manager_does_not_wait_for_the_call_it_interrupts(server, pool_settings):
    manager = pool_settings(
        server.url, MAX_CONNECTIONS=3, SOCKET_TIMEOUT=PATIENT, TIMEOUT=PATIENT, CLOSE_TIMEOUT=PATIENT
    )
    client = manager.get_sync_client()
    others = []

    def ring():
        eventually(lambda: len(client.connection_pool.state.in_use) == 2)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGALRM)
        eventually(lambda: client.connection_pool.state.closed)
        with server.client() as other:
            other.rpush("jobs", "x")

    other = Caller(lambda: others.append(client.blpop("jobs", timeout=PATIENT)))
    other.start()
    eventually(lambda: len(client.connection_pool.state.in_use) == 1)
    with handled(lambda number, frame: manager.close_sync()):
        driver = Caller(ring)
        driver.start()
        started = time.monotonic()
        with pytest.raises(redis_exceptions.ConnectionError):
            client.blpop("nothing here", timeout=PATIENT)
        driver.ended()
    other.ended()
    assert others == [(b"jobs", b"x")], "it waits for the calls of others"
    assert time.monotonic() - started < SOON
