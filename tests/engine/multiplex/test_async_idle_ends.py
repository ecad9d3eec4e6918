"""An idle connection that the server closed while the event loop was blocked: its end is seen before a write.

So a write is sent again on a new connection, and its outcome is not unknown.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy
from tests.support.tls import TLSEnd, make_certificate

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TIMES = 5


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine on an event loop of each kind."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


def end_unseen(proxy):
    """Let the server close every connection while this thread, and so its event loop, does nothing else."""
    time.sleep(0.01)
    assert proxy.cut(reset=False)
    time.sleep(0.02)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_write_on_a_shared_connection_that_has_ended_goes_out_on_another(run, proxy, protocol):
    async def main():
        async with AsyncRedis.from_url(proxy.url, protocol=protocol, socket_timeout=30) as client:
            await client.ping()
            for turn in range(TIMES):
                end_unseen(proxy)
                assert await asyncio.gather(client.incr("n"), client.incr("n")) == [2 * turn + 1, 2 * turn + 2]
            assert client.sharing.statistics.unknown == 0

    run(main())


def test_the_end_may_come_between_asking_and_writing(run, proxy):
    async def main():
        async with AsyncRedis.from_url(proxy.url, socket_timeout=30) as client:
            await client.ping()
            for turn in range(TIMES):
                asked = asyncio.ensure_future(client.incr("n"))
                asyncio.get_running_loop().call_soon(end_unseen, proxy)
                assert await asked == turn + 1

    run(main())


def test_a_pipeline_on_a_shared_connection_that_has_ended_goes_out_on_another(run, proxy):
    async def main():
        async with AsyncRedis.from_url(proxy.url, socket_timeout=30) as client:
            await client.ping()
            for turn in range(TIMES):
                end_unseen(proxy)
                assert await client.pipeline().incr("n").echo("x").execute() == [turn + 1, b"x"]

    run(main())


def test_a_write_over_tls_on_a_connection_that_has_ended_goes_out_on_another(run, server, tmp_path):
    certificate, key = make_certificate(tmp_path)

    async def main(proxy):
        url = f"rediss://127.0.0.1:{proxy.port}"
        async with AsyncRedis.from_url(url, ssl_ca_certs=str(certificate), socket_timeout=30) as client:
            await client.ping()
            for turn in range(TIMES):
                end_unseen(proxy)
                assert await client.incr("n") == turn + 1

    with TLSEnd(server.port, certificate, key) as end, Proxy(end.port) as proxy:
        run(main(proxy))


def commands_on_dedicated_connections(client):
    async def a_transaction_with_a_large_value():
        return (await client.pipeline().set("big", b"x" * 2_000_000).incr("n").execute())[1]

    async def a_pipeline_with_a_large_value():
        return (await client.pipeline(transaction=False).set("big", b"x" * 2_000_000).incr("n").execute())[1]

    async def a_large_value():
        await client.set("big", b"x" * 2_000_000)

    async def a_blocking_command():
        await client.rpush("list", "x")
        return (await client.blpop("list", 1))[1]

    return [a_transaction_with_a_large_value, a_pipeline_with_a_large_value, a_large_value, a_blocking_command]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", ["managed", "redis-py's pool"])
def test_a_command_on_a_dedicated_connection_that_has_ended_goes_out_on_another(
    run, proxy, pool_settings, kind, number
):
    manager = pool_settings(proxy.url, SOCKET_TIMEOUT=30)

    async def main():
        client = await manager.get_client() if kind == "managed" else AsyncRedis.from_url(proxy.url, socket_timeout=30)
        command = commands_on_dedicated_connections(client)[number]
        await command()
        for _ in range(TIMES):
            end_unseen(proxy)
            await command()
        await (manager.close() if kind == "managed" else client.aclose())

    run(main())


@pytest.mark.parametrize("kind", ["managed", "redis-py's pool"])
def test_a_transaction_whose_watching_connection_has_ended_was_not_carried_out(run, proxy, pool_settings, kind):
    manager = pool_settings(proxy.url, SOCKET_TIMEOUT=30)

    async def main():
        client = await manager.get_client() if kind == "managed" else AsyncRedis.from_url(proxy.url, socket_timeout=30)
        async with client.pipeline() as pipe:
            await pipe.watch("n")
            pipe.multi()
            pipe.incr("n")
            end_unseen(proxy)
            with pytest.raises(Exception, match=r"lost|watch") as raised:
                await pipe.execute()
            assert not isinstance(raised.value, OutcomeUnknown)
        assert await client.get("n") is None
        await (manager.close() if kind == "managed" else client.aclose())

    run(main())
