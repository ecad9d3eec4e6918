"""Text that is not ASCII has the same bytes in the sync and the async client: those of the configured encoding."""

from __future__ import annotations

import pytest

from redispool_app.engine import AsyncRedis, SyncRedis
from tests.support.servers import RedisServer

ENCODINGS = {"utf-8": "ä€", "utf8": "ä€", "latin-1": "äé", "cp1252": "ä€"}
LARGE = 2_000_000


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


async def test_both_clients_find_the_same_keys(server, encoding):
    text = ENCODINGS[encoding]
    options = {"port": server.port, "encoding": encoding, "decode_responses": True}
    with SyncRedis(**options) as blocking:
        async with AsyncRedis(**options) as client:
            await client.set(text, text)
            assert blocking.get(text) == text
            assert blocking.get_raw(text) == text.encode(encoding)
            assert blocking.execute_raw("ECHO", text) == await client.execute_raw("ECHO", text)
            blocking.pipeline().set(f"{text}2", text).rpush(f"{text}q", text).execute()
            assert await client.get(f"{text}2") == text
            # A blocking pop and a large value travel on connections of their own.
            assert list(blocking.blpop(f"{text}q", timeout=1)) == [f"{text}q", text]
            blocking.set(text, text * LARGE)
            assert await client.strlen(text) == len((text * LARGE).encode(encoding))
            assert await client.get(text) == text * LARGE
            with server.client() as admin:
                assert sorted(admin.keys()) == sorted([text.encode(encoding), f"{text}2".encode(encoding)])


async def test_so_do_the_clients_of_a_manager(server, pool_settings):
    manager = pool_settings(server.url, ENCODING="latin-1", DECODE_RESPONSES=True)
    client = await manager.get_client()
    blocking = manager.get_sync_client()
    assert blocking.set("Grüße", "für Käthe")
    assert await client.get("Grüße") == "für Käthe"
    assert blocking.lpush("öl", "ü") == 1
    assert list(blocking.brpop("öl", timeout=1)) == ["öl", "ü"]
    with server.client() as admin:
        assert admin.keys() == ["Grüße".encode("latin-1")]


@pytest.mark.parametrize("make", [SyncRedis, AsyncRedis])
async def test_a_client_of_a_single_connection_uses_it_too(server: RedisServer, make):
    client = make(port=server.port, encoding="latin-1", single_connection_client=True)
    try:
        answer = client.set("ä", "ö")
        assert await answer if make is AsyncRedis else answer
    finally:
        closed = client.aclose() if make is AsyncRedis else client.close()
        if closed is not None:
            await closed
    with server.client() as admin:
        assert admin.get(b"\xe4") == b"\xf6"
