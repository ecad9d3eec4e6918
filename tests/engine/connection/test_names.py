"""Host names are resolved within a deadline, by one thread for all who ask, and each address is tried."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from time import monotonic, sleep

import pytest
from django.test import Client
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.engine.connection import dns
from redispool_app.engine.connection.dns import resolve, resolve_sync, shares
from redispool_app.engine.errors import UnansweredNameError
from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.engine.health.server_mode import PING
from redispool_app.exceptions import RedisUnavailable
from tests.lab.resolver import HOST, Resolver
from tests.support.crowd import Caller, at_once
from tests.support.servers import eventually, free_port


@pytest.fixture
def resolver():
    with Resolver("127.0.0.1") as resolver:
        yield resolver
    eventually(lambda: not asking())


@pytest.fixture
def silent(resolver):
    """A name server that answers nobody."""
    resolver.hang()
    return resolver


def asking():
    return [thread for thread in threading.enumerate() if thread.name == "redispool-names"]


def took(function):
    began = monotonic()
    with pytest.raises(UnansweredNameError):
        function()
    return monotonic() - began


def test_a_name_is_resolved_in_a_thread_that_ends(resolver):
    assert resolve_sync(HOST, 6379, 1) == ["127.0.0.1"]
    assert asyncio.run(resolve(HOST, 6379, 1)) == ["127.0.0.1"]
    assert len(resolver.asked) == 2
    eventually(lambda: not asking())
    assert not dns._asked


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_an_address_is_not_asked_for(address, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert resolve_sync(address, 6379, 1) == asyncio.run(resolve(address, 6379, 1)) == [address]


def test_the_interface_of_a_link_local_address_is_kept(monkeypatch):
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 1, 0, 2))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    assert resolve_sync("linked", 1, 1) == ["fe80::1%2"]


def test_a_silent_name_server_holds_nobody_beyond_the_deadline_and_one_thread(silent):
    waits = at_once([lambda: took(lambda: resolve_sync(HOST, 6379, 0.2))] * 20)
    assert all(0.2 <= wait < 1 for wait in waits), waits
    assert took(lambda: asyncio.run(resolve(HOST, 6379, 0.2))) < 1
    assert len(asking()) == silent.waiting == 1


def test_coroutines_wait_without_a_helper_of_their_loop(silent):
    # asyncio.run waits for its executor's threads at its end.
    async def many():
        return await asyncio.gather(*(resolve(HOST, 6379, 0.1) for _ in range(20)), return_exceptions=True)

    began = monotonic()
    assert {type(each) for each in asyncio.run(many())} == {UnansweredNameError}
    assert monotonic() - began < 1
    assert len(asking()) == 1


def test_a_question_that_may_be_lost_is_asked_anew_but_not_for_ever(silent, monkeypatch):
    monkeypatch.setattr(dns, "_AGAIN_AFTER", 0.0)
    for _ in range(10):
        took(lambda: resolve_sync(HOST, 6379, 0.001))
    assert silent.waiting == dns._MOST_AT_ONCE
    silent.answer()
    assert resolve_sync(HOST, 6379, 1) == ["127.0.0.1"]


def test_an_answer_that_comes_after_the_loop_has_ended_does_no_harm(silent):
    took(lambda: asyncio.run(resolve(HOST, 6379, 0.01)))
    silent.answer()
    eventually(lambda: not asking())


def test_everybody_gets_an_error_of_their_own(silent):
    def refuse():
        sleep(0.1)
        silent.fail()
        silent.answer()

    def ask():
        resolve_sync(HOST, 6379, 5)

    *errors, _ = at_once([ask, ask, refuse])
    assert [type(each) for each in errors] == [socket.gaierror] * 2
    assert errors[0] is not errors[1]
    assert errors[0].errno == socket.EAI_NONAME


def test_where_no_thread_can_be_started_the_caller_asks_itself(resolver, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert resolve_sync(HOST, 6379, 1) == ["127.0.0.1"]
    assert not dns._asked


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_thread_that_runs_although_its_start_failed_does_no_harm(resolver, monkeypatch):
    start = threading.Thread.start

    def started_all_the_same(thread):
        start(thread)
        raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(threading.Thread, "start", started_all_the_same)
    assert resolve_sync(HOST, 6379, 1) == ["127.0.0.1"]
    eventually(lambda: len(resolver.asked) == 2 and not asking())


def test_a_forked_child_asks_for_itself(silent):
    took(lambda: resolve_sync(HOST, 6379, 0.01))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            silent.answer()
            code = resolve_sync(HOST, 6379, 5) != ["127.0.0.1"]
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_each_address_gets_an_equal_part_of_the_time():
    times = [limit for _, limit in shares(["a", "b", "c"], monotonic() + 3)]
    assert times == pytest.approx([1, 1.5, 3], abs=0.1)
    assert [limit for _, limit in shares(["a", "b"], float("inf"))] == [None, None]


# What callers of a manager see.


def first_error(manager, side):
    async def use():
        await (await manager.get_client()).get("key")

    with pytest.raises(RedisUnavailable) as caught:
        if side == "async":
            asyncio.run(use())
        else:
            manager.get_sync_client().get("key")
    return caught.value


@pytest.mark.parametrize("side", ["async", "sync"])
def test_the_first_caller_is_told_of_the_name_server_in_time(side, silent, server, pool_settings):
    manager = pool_settings(f"redis://{HOST}:{server.port}/0", HEALTH_CHECK_TIMEOUT=0.3)
    began = monotonic()
    error = first_error(manager, side)
    assert monotonic() - began < 1
    assert (error.kind, "name server" in str(error)) == ("dns", True)
    silent.answer()
    eventually(lambda: manager._health_check_sync())


async def test_a_check_names_an_attempt_that_ended_at_the_same_moment(silent, server, pool_settings):
    manager = pool_settings(f"redis://{HOST}:{server.port}/0", SOCKET_CONNECT_TIMEOUT=0.1)
    sharing = (await manager._built().open()).client.sharing
    with pytest.raises(redis_exceptions.TimeoutError):
        await sharing.probe(PING, 1)
    assert sharing._connecting is None
    late = redis_exceptions.TimeoutError("PING was not answered")
    late.__cause__ = await sharing.give_up_connecting()
    assert classify(late, HOST).kind is FaultKind.DNS
    silent.answer()
    assert await sharing.probe(PING, 1) == [b"PONG"]
    assert await sharing.give_up_connecting() is None


def test_a_check_that_waits_for_somebodys_attempt_names_what_that_waits_for(silent, server, pool_settings):
    manager = pool_settings(f"redis://{HOST}:{server.port}/0", SOCKET_TIMEOUT=1.0, HEALTH_CHECK_TIMEOUT=0.1)
    sharing = manager._built().sync_client().sharing
    attempt = Caller(lambda: sharing._connect(monotonic() + 1))
    attempt.start()
    eventually(lambda: not sharing._attempts.latest.is_over and silent.waiting)
    assert manager._health_check_sync() is False
    assert manager.get_pool_info()["fault_kind"] == "dns"
    assert isinstance(attempt.ended(), redis_exceptions.TimeoutError)


def test_the_probe_of_a_wsgi_site_answers_in_time(silent, server, pool_settings):
    pool_settings(f"redis://{HOST}:{server.port}/0", HEALTH_CHECK_TIMEOUT=0.3)
    began = monotonic()
    assert Client().get("/redis/health/").status_code == 503
    assert monotonic() - began < 1


@pytest.mark.parametrize("side", ["async", "sync"])
@pytest.mark.parametrize("first", ["refuses", "is silent"])
def test_the_second_address_serves_when_the_first_does_not(first, side, server, pool_settings, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.5", server.port))
        full = []
        if first == "is silent":
            deaf.listen(0)
            # With its queue full the kernel drops whoever knocks.
            full = [socket.socket() for _ in range(3)]
            for each in full:
                each.setblocking(False)
                each.connect_ex(deaf.getsockname())
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port)) for host in ("127.0.0.5", "127.0.0.1")
        ]
        original = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **more: addresses if host == "two" else original(host, *args, **more),
        )
        manager = pool_settings(f"redis://two:{server.port}/0", SOCKET_CONNECT_TIMEOUT=0.6, HEALTH_CHECK_TIMEOUT=2.0)

        async def ping():
            return await (await manager.get_client()).ping()

        began = monotonic()
        assert asyncio.run(ping()) if side == "async" else manager.get_sync_client().ping()
        assert monotonic() - began < 1
        for each in full:
            each.close()


def test_a_name_server_that_is_slow_leaves_less_time_for_the_server(resolver, server, pool_settings):
    with socket.socket() as silent_server:
        silent_server.bind(("127.0.0.1", free_port()))
        silent_server.listen()
        port = silent_server.getsockname()[1]
        manager = pool_settings(f"redis://{HOST}:{port}/0", HEALTH_CHECK_TIMEOUT=0.6)
        resolver.hang()
        threading.Timer(0.4, resolver.answer).start()
        began = monotonic()
        assert first_error(manager, "sync").kind == "timeout"
        assert monotonic() - began < 0.85


def test_the_nearest_cause_of_a_time_out_names_it():
    assert classify(UnansweredNameError("h was not resolved in time"), "h:1").kind is FaultKind.DNS


def test_a_question_of_a_moment_ago_is_not_what_took_somebody_s_time(silent):
    took(lambda: resolve_sync(HOST, 6379, 0.05))
    assert isinstance(dns.unanswered(HOST, 0.05), UnansweredNameError)
    assert dns.unanswered(HOST, 60.0) is None
    assert dns.unanswered("another.test", 0.0) is None
    silent.answer()


@pytest.mark.parametrize("secure", [False, True])
def test_a_client_without_a_manager_is_held_no_longer_either(secure, silent):
    with SyncRedis(host=HOST, port=6379, socket_timeout=0.3, ssl=secure) as client:
        began = monotonic()
        outcomes = at_once([lambda: client.get("k")] * 5)
        assert monotonic() - began < 2, "redis-py waits as long as the name server likes"
    assert {type(each) for each in outcomes} == {redis_exceptions.TimeoutError}
    silent.answer()
