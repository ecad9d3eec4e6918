"""A credential provider that blocks holds up no caller, and is named when it takes too long."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from redis import exceptions as redis_exceptions
from redis.credentials import CredentialProvider

from redispool_app.exceptions import RedisUnavailable
from tests.support.faulty_servers import PASSWORD
from tests.support.servers import RedisServer, eventually

LONG = {"SOCKET_TIMEOUT": 30, "HEALTH_CHECK_TIMEOUT": 30}


class Blocking(CredentialProvider):
    """Blocks the thread that asks until it may answer."""

    def __init__(self):
        self.may_answer = threading.Event()
        self.asked = 0

    def get_credentials(self):
        self.asked += 1
        assert self.may_answer.wait(60)
        return "default", PASSWORD


class Awaitable(Blocking):
    """Has an asynchronous way of its own."""

    async def get_credentials_async(self):
        while not self.may_answer.is_set():
            await asyncio.sleep(0.01)
        return "default", PASSWORD


@pytest.fixture(scope="module")
def protected():
    server = RedisServer(requirepass=PASSWORD).start()
    yield server
    server.stop()


@pytest.fixture(params=[Blocking, Awaitable])
def provider(request):
    provider = request.param()
    yield provider
    provider.may_answer.set()


@pytest.mark.parametrize("connections", [1, 10], ids=["connection of its own", "shared connection"])
async def test_a_provider_that_blocks_does_not_block_the_event_loop(provider, connections, protected, pool_settings):
    manager = pool_settings(
        protected.url, CREDENTIAL_PROVIDER=provider, MAX_CONNECTIONS=connections, SOCKET_CONNECT_TIMEOUT=30, **LONG
    )

    async def get():
        return await (await manager.get_client()).get("key")

    caller = asyncio.create_task(get())
    ticks, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 10
    assert not caller.done()
    provider.may_answer.set()
    assert await asyncio.wait_for(caller, 10) is None
    assert manager.get_pool_info()["state"] == "healthy"


@pytest.mark.parametrize("side", ["async", "sync"])
@pytest.mark.parametrize("check_timeout", [0.3, 30])
def test_a_provider_that_takes_too_long_is_named_and_the_server_is_not(
    side, check_timeout, provider, protected, pool_settings
):
    manager = pool_settings(
        protected.url,
        CREDENTIAL_PROVIDER=provider,
        SOCKET_TIMEOUT=30,
        SOCKET_CONNECT_TIMEOUT=0.6,
        HEALTH_CHECK_TIMEOUT=check_timeout,
    )

    async def get():
        await (await manager.get_client()).get("key")

    started = time.monotonic()
    with pytest.raises(RedisUnavailable, match="credential provider has not answered") as caught:
        asyncio.run(get()) if side == "async" else manager.get_sync_client()
    assert time.monotonic() - started < 5
    assert caught.value.kind == "auth"
    assert PASSWORD not in str(caught.value)
    provider.may_answer.set()
    eventually(lambda: manager._is_healthy, 10)


def test_callers_share_a_question_and_a_provider_that_hangs_costs_a_few_threads(protected, pool_settings):
    provider = Blocking()
    manager = pool_settings(
        protected.url, CREDENTIAL_PROVIDER=provider, SOCKET_CONNECT_TIMEOUT=0.05, HEALTH_CHECK_TIMEOUT=0.1
    )
    for _ in range(20):
        with pytest.raises(redis_exceptions.ConnectionError):
            manager.initialize_sync()
    assert provider.asked <= 3
    provider.may_answer.set()


def test_a_provider_without_an_answer_in_a_forked_child_is_asked_again(protected, pool_settings):
    from tests.engine.runtime.test_forks import in_child

    provider = Blocking()
    manager = pool_settings(
        protected.url, CREDENTIAL_PROVIDER=provider, SOCKET_CONNECT_TIMEOUT=0.2, HEALTH_CHECK_TIMEOUT=0.2
    )
    with pytest.raises(RedisUnavailable):
        manager.initialize_sync()

    def work():
        provider.may_answer.set()
        manager.initialize_sync()
        return manager.get_sync_client().ping()

    assert in_child(work) == "True"
    provider.may_answer.set()


class Answering(CredentialProvider):
    """Has one answer, whatever that is."""

    def __init__(self, answer):
        self.answer = answer

    def get_credentials(self):
        return self.answer


class AnsweringAwaitable(Answering):
    async def get_credentials_async(self):
        return self.answer


ANSWERS = {
    "str": PASSWORD,
    "tuple of str, str, str": ("realm", "default", PASSWORD),
    "tuple of str, NoneType": ("default", None),
    "dict": {"password": PASSWORD},
    "int": 5,
}


@pytest.mark.parametrize("side", ["async", "sync"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", [Answering, AnsweringAwaitable])
@pytest.mark.parametrize("named", ANSWERS)
def test_an_answer_that_is_no_credentials_is_named_without_a_word_of_it(
    side, protocol, kind, named, protected, pool_settings
):
    manager = pool_settings(protected.url, CREDENTIAL_PROVIDER=kind(ANSWERS[named]), PROTOCOL=protocol, **LONG)

    async def get():
        return await (await manager.get_client()).get("key")

    with pytest.raises(RedisUnavailable) as caught:
        asyncio.run(get()) if side == "async" else manager.get_sync_client().get("key")
    expected = (
        f"There are no credentials for Redis at {protected.where}: The credential provider returned a {named}: "
        "it must return (password,) or (user, password), as str or bytes."
    )
    assert (caught.value.kind, str(caught.value)) == ("auth", expected)
    assert manager.get_pool_info()["last_error"] == expected


@pytest.mark.parametrize("answer", [["default", PASSWORD], (PASSWORD.encode(),), (b"default", PASSWORD)], ids=repr)
@pytest.mark.parametrize("protocol", [2, 3])
def test_what_redis_py_can_log_in_with_is_left_to_it(answer, protocol, protected, pool_settings):
    manager = pool_settings(protected.url, CREDENTIAL_PROVIDER=Answering(answer), PROTOCOL=protocol)
    assert manager.get_sync_client().get("key") is None
