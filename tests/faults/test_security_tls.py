"""TLS proves who answers, unless the settings say otherwise: a wrong name and an unknown issuer are refused."""

from __future__ import annotations

import asyncio

import pytest
import redis
from django.core.cache import caches

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.exceptions import RedisUnavailable
from tests.support.faulty_servers import listening
from tests.support.servers import eventually
from tests.support.tls import TLSEnd, make_certificate

# CPython leaves an SSLSocket to its finaliser whose peer resets it between connecting and the handshake
# (SSLSocket._create), as this end does to the recovery's last probe when a test is over.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

HOST = "127.0.0.1"
WRONG = "localhost"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """A certificate for 127.0.0.1, which does not name localhost; to be trusted by those who are told to."""
    return make_certificate(tmp_path_factory.mktemp("trusted"), "elsewhere.example")


@pytest.fixture
def tls(server, trusted):
    with TLSEnd(server.port, *trusted) as end:
        yield end


# Each returns what a PING was answered with, on a client of its own.


def by_manager_sync(manager, **keys):
    return manager.get_sync_client().ping()


def by_manager_async(manager, **keys):
    async def ping():
        return await (await manager.get_client()).ping()

    return asyncio.run(ping())


def by_cache(manager, **keys):
    cache = caches.create_connection("default")
    cache.set("a", 1)
    return cache.get("a") == 1


def by_cache_async(manager, **keys):
    async def ask():
        cache = caches.create_connection("default")
        await cache.aset("a", 1)
        return await cache.aget("a") == 1

    return asyncio.run(ask())


MANAGED = [by_manager_sync, by_manager_async, by_cache, by_cache_async]


def use(ask, pool_settings, settings, url, **keys):
    settings.CACHES = {"default": {"BACKEND": "redispool_app.cache.RedisPoolCache"}}
    return ask(pool_settings(url, **{"SOCKET_TIMEOUT": 5, "HEALTH_CHECK_TIMEOUT": 5, **keys}))


@pytest.mark.parametrize("ask", MANAGED)
def test_a_known_issuer_and_the_right_name_are_accepted(ask, tls, trusted, pool_settings, settings):
    assert use(ask, pool_settings, settings, f"rediss://{HOST}:{tls.port}", SSL_CA_CERTS=trusted[0])


@pytest.mark.parametrize("ask", MANAGED)
def test_an_unknown_issuer_is_refused_by_default(ask, tls, pool_settings, settings, server):
    with pytest.raises(RedisUnavailable, match="certificate") as caught:
        use(ask, pool_settings, settings, f"rediss://{HOST}:{tls.port}", PASSWORD="never to be sent")
    assert caught.value.kind == "tls"
    assert server.calls("auth") == server.calls("ping") == 0


@pytest.mark.parametrize("ask", MANAGED)
def test_a_wrong_name_is_refused_by_default(ask, tls, trusted, pool_settings, settings, server):
    with pytest.raises(RedisUnavailable, match="match") as caught:
        use(ask, pool_settings, settings, f"rediss://{WRONG}:{tls.port}", SSL_CA_CERTS=trusted[0])
    assert caught.value.kind == "tls"
    assert server.calls("ping") == 0


@pytest.mark.parametrize("ask", MANAGED)
@pytest.mark.parametrize("keys", [{"SSL_CHECK_HOSTNAME": False}, {"SSL_CERT_REQS": "none"}])
def test_only_the_settings_can_give_that_up(ask, keys, tls, trusted, pool_settings, settings):
    trust = {} if "SSL_CERT_REQS" in keys else {"SSL_CA_CERTS": trusted[0]}
    assert use(ask, pool_settings, settings, f"rediss://{WRONG}:{tls.port}", **trust, **keys)


@pytest.mark.parametrize("ask", [by_cache, by_cache_async])
def test_a_cache_with_a_url_of_its_own_refuses_an_unknown_issuer_too(ask, tls, pool_settings, settings):
    pool_settings("redis://unused")
    settings.CACHES = {
        "default": {
            "BACKEND": "redispool_app.cache.RedisPoolCache",
            "LOCATION": f"rediss://{HOST}:{tls.port}/3",
            "OPTIONS": {"SOCKET_TIMEOUT": 5, "HEALTH_CHECK_TIMEOUT": 5},
        }
    }
    manager = caches.create_connection("default").manager
    try:
        with pytest.raises(RedisUnavailable, match="certificate"):
            ask(manager)
    finally:
        manager.close_sync()
        manager.reload_settings()


# Clients without a manager.


def sync_ping(**options):
    with SyncRedis(**options) as client:
        return client.ping()


def async_ping(**options):
    async def ping():
        client = AsyncRedis(**options)
        try:
            return await client.ping()
        finally:
            await client.aclose()

    return asyncio.run(ping())


@pytest.mark.parametrize("ping", [sync_ping, async_ping])
def test_a_client_without_a_manager_verifies_by_default(ping, tls, trusted):
    ca = str(trusted[0])
    options = {"port": tls.port, "ssl": True, "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
    if ping is async_ping:
        options["retry"] = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
    assert ping(host=HOST, ssl_ca_certs=ca, **options)
    with pytest.raises(redis.ConnectionError, match="verify failed"):
        ping(host=HOST, **options)
    with pytest.raises(redis.ConnectionError, match="match"):
        ping(host=WRONG, ssl_ca_certs=ca, **options)


@pytest.mark.parametrize("ask", MANAGED)
def test_nothing_is_sent_in_the_clear_to_whoever_begins_no_handshake(ask, pool_settings, settings):
    heard = []
    with listening(lambda connection: heard.append(connection.recv(1000)) or connection.recv(1000)) as address:
        with pytest.raises((RedisUnavailable, redis.exceptions.TimeoutError)):
            use(ask, pool_settings, settings, f"rediss://{address}", SOCKET_TIMEOUT=0.3, HEALTH_CHECK_TIMEOUT=0.3)
        eventually(lambda: heard)  # the listener may be slower than a caller's patience
    # 22: a record of TLS's handshake.
    assert {said[:1] for said in heard} <= {b"\x16", b""}
