"""The lifespan protocol, spoken by a server that is played by the test."""

from __future__ import annotations

import asyncio
import inspect
import logging

import pytest
from django.core.asgi import get_asgi_application

from redispool_app.asgi import lifespan
from redispool_app.exceptions import PoolClosed
from redispool_app.redis_pool import RedisConnectionManager

from .support.servers import eventually, free_port


class Host:
    """An ASGI server's side of the lifespan protocol."""

    def __init__(self, application):
        self.application = application
        self.events = asyncio.Queue()
        self.state = {}
        self.sent = []
        self.on_send = lambda message: None
        self.task = None

    async def start(self):
        """Send the startup event and return the answer, None when the application has ended without one."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self.task = asyncio.create_task(self.application(scope, self.events.get, self.send))
        return await self.ask("lifespan.startup")

    async def stop(self):
        return await self.ask("lifespan.shutdown")

    async def ask(self, event):
        count = len(self.sent)
        self.events.put_nowait({"type": event})
        async with asyncio.timeout(10):
            while len(self.sent) == count and not self.task.done():
                await asyncio.sleep(0.001)
        return self.sent[-1] if len(self.sent) > count else None

    async def send(self, message):
        self.on_send(message)
        self.sent.append(message)

    async def ended(self):
        async with asyncio.timeout(10):
            await self.task


COMPLETE = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


def speaks_lifespan(log, *, manager=None):
    """Return an application with a lifespan of its own that notes what happens to it."""

    async def application(scope, receive, send):
        assert (await receive())["type"] == "lifespan.startup"
        log.append("started")
        if manager is not None:
            await (await manager.get_client()).set("started", 1)
        scope["state"]["started"] = True
        await send(COMPLETE)
        assert (await receive())["type"] == "lifespan.shutdown"
        if manager is not None:
            await (await manager.get_client()).set("stopped", 1)
        log.append("stopped")
        await send(STOPPED)

    return application


async def no_lifespan(scope, receive, send):
    raise ValueError(f"no idea what {scope['type']} is")


async def is_closed(manager):
    with pytest.raises(PoolClosed):
        await manager.get_client()
    return True


# Our part.


async def test_all_pools_open_with_the_server_and_close_with_it(server, pools):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    before = server.connections()
    host = Host(lifespan(no_lifespan))
    assert await host.start() == COMPLETE
    managers = [RedisConnectionManager(), RedisConnectionManager("sessions")]
    assert [each.get_pool_info()["is_healthy"] for each in managers] == [True, True]
    assert server.connections() == before + 2
    assert await host.stop() == STOPPED
    await host.ended()
    assert [await is_closed(each) for each in managers] == [True, True]
    eventually(lambda: server.connections() == before)


async def test_django_gets_a_lifespan_it_does_not_have_itself(manager):
    host = Host(lifespan(get_asgi_application()))
    assert await host.start() == COMPLETE
    assert manager._pool is not None
    assert await host.stop() == STOPPED
    assert await is_closed(manager)


async def test_a_server_can_start_again_after_it_stopped(manager):
    for _ in range(2):
        host = Host(lifespan(no_lifespan))
        assert await host.start() == COMPLETE
        assert await (await manager.get_client()).ping()
        assert await host.stop() == STOPPED


async def test_an_outage_does_not_stop_the_start_and_heals_by_itself(own_server, pool_settings, caplog):
    manager = pool_settings(own_server.url, RETRY_BACKOFF_CAP=0.1)
    own_server.kill()
    host = Host(lifespan(no_lifespan))
    assert await host.start() == COMPLETE
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(loud) == 1
    assert own_server.where in loud[0].getMessage()
    own_server.start()
    await asyncio.to_thread(eventually, lambda: manager.get_pool_info()["is_healthy"], 10)
    assert await host.stop() == STOPPED


async def test_an_outage_of_one_pool_leaves_the_others_open(server, settings):
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": f"redis://127.0.0.1:{free_port()}"},
        "sessions": {"CONNECTION_URL": server.url},
    }
    host = Host(lifespan(no_lifespan))
    assert await host.start() == COMPLETE
    assert RedisConnectionManager("sessions").get_pool_info()["is_healthy"]
    assert await host.stop() == STOPPED


async def test_wrong_settings_stop_the_start_with_one_line(server, settings):
    before = server.connections()
    settings.REDIS_POOL = {
        "default": {"CONNECTION_URL": server.url},
        "sessions": {"CONNECTION_URL": "redis://localhost", "PASSWORD": "secret-word", "SOCKET_TIMOUT": 1},
    }
    log = []
    host = Host(lifespan(speaks_lifespan(log)))
    answer = await host.start()
    await host.ended()
    assert answer["type"] == "lifespan.startup.failed"
    assert "SOCKET_TIMEOUT" in answer["message"]
    assert "secret-word" not in answer["message"]
    assert answer["message"].count("\n") == 0
    assert log == []
    # What had opened is closed again.
    eventually(lambda: server.connections() == before)


# An application that has a lifespan.


async def test_an_applications_lifespan_lies_within_that_of_redis(manager, server):
    log = []
    host = Host(lifespan(speaks_lifespan(log, manager=manager)))
    host.on_send = lambda message: log.append(f"{message['type']}, closed: {manager._closed}")
    assert await host.start() == COMPLETE
    assert await host.stop() == STOPPED
    await host.ended()
    assert log == [
        "started",
        "lifespan.startup.complete, closed: False",
        "stopped",
        "lifespan.shutdown.complete, closed: True",
    ]
    with server.client() as client:
        assert client.mget("started", "stopped") == [b"1", b"1"]


async def test_the_state_of_the_server_is_the_applications_to_fill(manager):
    host = Host(lifespan(speaks_lifespan([])))
    await host.start()
    assert host.state == {"started": True}
    await host.stop()


@pytest.mark.parametrize("raises", [False, True])
async def test_a_failed_startup_of_the_application_is_passed_on_after_the_pools_closed(manager, raises, caplog):
    failed = {"type": "lifespan.startup.failed", "message": "no database"}

    async def application(scope, receive, send):
        await receive()
        await send(failed)
        if raises:
            raise RuntimeError("no database")

    host = Host(lifespan(application))
    closed = []
    host.on_send = lambda message: closed.append(manager._closed)
    assert await host.start() == failed
    await host.ended()
    assert closed == [True]
    assert host.sent == [failed]
    assert not caplog.records


async def test_a_failed_shutdown_of_the_application_is_passed_on_after_the_pools_closed(manager):
    failed = {"type": "lifespan.shutdown.failed", "message": "database hangs"}

    async def application(scope, receive, send):
        await receive()
        await send(COMPLETE)
        await receive()
        await send(failed)

    host = Host(lifespan(application))
    await host.start()
    closed = []
    host.on_send = lambda message: closed.append(manager._closed)
    assert await host.stop() == failed
    await host.ended()
    assert closed == [True]


# An application that leaves its lifespan half-way.


async def test_an_application_that_returns_at_once_is_answered_for(manager):
    async def application(scope, receive, send):
        return

    host = Host(lifespan(application))
    assert await host.start() == COMPLETE
    assert not manager._closed
    assert await host.stop() == STOPPED
    assert manager._closed


async def test_an_application_that_returns_after_its_start_is_answered_for(manager):
    async def application(scope, receive, send):
        await receive()
        await send(COMPLETE)

    host = Host(lifespan(application))
    assert await host.start() == COMPLETE
    await asyncio.sleep(0)
    assert not host.task.done()
    assert await host.stop() == STOPPED
    assert host.sent == [COMPLETE, STOPPED]
    assert manager._closed


async def test_an_application_that_ignores_the_shutdown_event_is_answered_for(manager):
    async def application(scope, receive, send):
        await receive()
        await send(COMPLETE)
        await receive()

    host = Host(lifespan(application))
    await host.start()
    assert await host.stop() == STOPPED
    assert manager._closed


async def test_an_application_that_breaks_at_startup_is_the_servers_to_judge(manager):
    async def application(scope, receive, send):
        await receive()
        raise RuntimeError("no database")

    host = Host(lifespan(application))
    assert await host.start() is None
    with pytest.raises(RuntimeError, match="no database"):
        await host.ended()


async def test_an_application_that_breaks_while_it_runs_does_not_keep_the_pools_from_closing(manager, caplog):
    breaks = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        await send(COMPLETE)
        await breaks.wait()
        raise RuntimeError("lost my database")

    host = Host(lifespan(application))
    await host.start()
    breaks.set()
    await asyncio.sleep(0.01)
    assert "lost my database" in caplog.text
    assert not host.task.done()
    assert not manager._closed
    assert await host.stop() == STOPPED
    assert manager._closed


async def test_an_application_that_breaks_at_shutdown_fails_it_and_the_pools_close(manager, caplog):
    async def application(scope, receive, send):
        await receive()
        await send(COMPLETE)
        await receive()
        raise RuntimeError("cannot flush")

    host = Host(lifespan(application))
    await host.start()
    answer = await host.stop()
    await host.ended()
    assert answer == {"type": "lifespan.shutdown.failed", "message": "RuntimeError: cannot flush"}
    assert "cannot flush" in caplog.text
    assert manager._closed


def test_a_server_that_cancels_the_lifespan_leaves_no_connection_behind(manager, server):
    before = server.connections()

    async def main():
        host = Host(lifespan(no_lifespan))
        await host.start()
        assert server.connections() == before + 1
        host.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await host.ended()

    asyncio.run(main())
    eventually(lambda: server.connections() == before)


# Everything else.


@pytest.mark.parametrize("kind", ["http", "websocket", "mqtt"])
async def test_other_scopes_reach_the_application_as_they_are(manager, kind):
    seen = []

    async def application(*arguments):
        seen.extend(arguments)

    arguments = [{"type": kind}, object(), object()]
    await lifespan(application)(*arguments)
    assert all(given is got for given, got in zip(arguments, seen, strict=True))
    assert "unused" in repr(manager)


async def test_what_the_application_raises_for_a_request_reaches_the_server(manager):
    with pytest.raises(ValueError, match="no idea what http is"):
        await lifespan(no_lifespan)({"type": "http"}, None, None)


def test_servers_that_inspect_the_application_see_a_coroutine_function():
    # Hypercorn takes anything else for WSGI, and a plain function that is only marked passes from Python 3.12 on.
    assert inspect.iscoroutinefunction(lifespan(no_lifespan))
