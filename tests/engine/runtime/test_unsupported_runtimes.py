"""eventlet, and a Python without its GIL: refused in one sentence that names the cure, and Redis is not blamed."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.engine.runtime.gevent import UnsupportedRuntimeError, refuse_unsupported_runtime
from tests.management.test_redis_health import run

SERVER_OF_NOBODY = {"host": "127.0.0.1", "port": 1}


@pytest.fixture(params=["eventlet", "without the GIL"])
def refusal(request, monkeypatch):
    """Let the process look like one of those; the words that the refusal must hold."""
    if request.param == "eventlet":
        patcher = types.ModuleType("eventlet.patcher")
        patcher.is_monkey_patched = lambda name: name == "socket"
        monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
        return "use threads, gevent or asyncio"
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    return "set PYTHON_GIL=1"


def test_a_managers_sync_and_async_callers_are_refused(refusal, manager):
    for call in (manager.get_sync_client, manager.initialize_sync):
        with pytest.raises(UnsupportedRuntimeError, match=refusal):
            call()
    for start in (manager.get_client, manager.initialize):
        with pytest.raises(UnsupportedRuntimeError, match=refusal):
            asyncio.run(start())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_clients_without_a_manager_are_refused(kind, refusal):
    async def call():
        await AsyncRedis(**SERVER_OF_NOBODY).get("key")

    with pytest.raises(UnsupportedRuntimeError, match=refusal):
        asyncio.run(call()) if kind == "async" else SyncRedis(**SERVER_OF_NOBODY).get("key")


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("transaction", [None, False], ids=["command", "pipeline"])
def test_what_travels_on_a_connection_of_its_own_is_refused_too(kind, transaction, refusal):
    def blocking(client):
        if transaction is None:
            return client.blpop("queue", timeout=1)
        return client.pipeline(transaction=transaction).blpop("queue", timeout=1).execute()

    async def call():
        await blocking(AsyncRedis(**SERVER_OF_NOBODY))

    with pytest.raises(UnsupportedRuntimeError, match=refusal):
        asyncio.run(call()) if kind == "async" else blocking(SyncRedis(**SERVER_OF_NOBODY))


def test_the_pool_is_misconfigured_and_redis_is_not_blamed(refusal, manager):
    info = manager.get_pool_info()
    assert info["state"] == "misconfigured"
    assert refusal in info["fault"]
    code, out, _ = run()
    assert code == 2
    assert refusal in out


@pytest.mark.parametrize("name", ["os", "time"])
def test_eventlet_that_patched_neither_sockets_nor_threads_is_no_hindrance(name, monkeypatch):
    patcher = types.ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = lambda asked: asked == name
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    refuse_unsupported_runtime()
