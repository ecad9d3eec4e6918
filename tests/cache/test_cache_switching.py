"""A site switches while it runs: what one backend wrote the other reads, and both count on in the same counters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.http import HttpResponse
from django.test import Client

from redispool_app.cache import RedisPoolCache
from tests.support.cache_table import VALUES
from tests.support.twin_caches import close, django_redis, django_valkey, ours, ours_with, theirs

pytestmark = pytest.mark.usefixtures("manager")

READABLE = {name: value for name, value in VALUES.items() if name not in ("lambda", "generator")}
PLAIN = {name: READABLE[name] for name in ("None", "empty str", "digits as str", "zero", "negative", "True", "float")}
PLAIN |= {"unicode": "ä€😀", "nested": {"a": [1, "two", [3.5, None]]}, "large": "x" * 50_000}
"""Values that JSON and msgpack keep as they are."""


@pytest.fixture
def other(server):
    """Make one of the other backends; its connections are closed after the test."""
    made = []

    def make(kind, **options):
        made.append(kind(server, **options))
        return made[-1]

    yield make
    for cache in made:
        close(cache)


def key_of(way, name):
    return f"{way}-{name}".replace(" ", "-")


def write(cache, values):
    """Write by each of the ways there are."""
    for name, value in values.items():
        cache.set(key_of("set", name), value, 100)
        cache.add(key_of("add", name), value)
        cache.set_many({key_of("many", name): value}, 100)


def assert_finds(cache, values):
    """Read by each of the ways there are; every value must be the one written, with its type."""
    written = {key_of(way, name): value for way in ("set", "add", "many") for name, value in values.items()}
    ways = [{key: cache.get(key) for key in written}, cache.get_many(list(written))]
    if isinstance(cache, RedisPoolCache):
        ways += async_to_sync(found_by_async_methods)(cache, list(written))
    for found in ways:
        # repr and type, as == says nothing about NaN, and True == 1.
        assert [key for key, value in written.items() if repr(found.get(key, "missing")) != repr(value)] == []
        assert [key for key, value in written.items() if type(found[key]) is not type(value)] == []


async def found_by_async_methods(cache, keys):
    return [await cache.aget_many(keys), {key: await cache.aget(key) for key in keys}]


OTHERS = [theirs, django_redis, django_valkey]


def written_by(kind, values, serializer="pickle"):
    """Without what django-valkey writes in a way of its own: floats are text, NaN too, whatever the serializer."""
    kept = ("float",) if serializer != "msgpack" else ()
    floats = [name for name, value in values.items() if isinstance(value, float) and name not in kept]
    return {name: value for name, value in values.items() if kind is not django_valkey or name not in floats}


def read_by(kind, values):
    """Without what django-valkey reads wrongly, whoever wrote it: a negative integer comes back as a float."""
    return {name: value for name, value in values.items() if kind is not django_valkey or name != "negative"}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_another_backend_wrote_is_read(server, other, kind):
    write(other(kind), written_by(kind, READABLE))
    assert_finds(ours(server), written_by(kind, READABLE))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_we_wrote_is_read_by_another_backend(server, other, kind):
    write(ours(server), READABLE)
    assert_finds(other(kind), read_by(kind, READABLE))


COMPRESSED = [
    (django_redis, "zlib", "django_redis.compressors.zlib.ZlibCompressor"),
    (django_valkey, "zlib", "django_valkey.compressors.zlib.ZlibCompressor"),
    (django_valkey, "zstd", "django_valkey.compressors.zstd.ZStdCompressor"),
]
READ_ONLY = [
    (django_redis, None, "django_redis.compressors.gzip.GzipCompressor"),
    (django_redis, None, "django_redis.compressors.lzma.LzmaCompressor"),
    (django_valkey, None, "django_valkey.compressors.gzip.GzipCompressor"),
    (django_valkey, None, "django_valkey.compressors.lzma.LzmaCompressor"),
]
SERIALIZED = [
    (django_redis, "json", "django_redis.serializers.json.JSONSerializer"),
    (django_redis, "msgpack", "django_redis.serializers.msgpack.MSGPackSerializer"),
    (django_valkey, "json", "django_valkey.serializers.json.JSONSerializer"),
    (django_valkey, "msgpack", "django_valkey.serializers.msgpack.MSGPackSerializer"),
]


@pytest.mark.parametrize(("kind", "ours_is", "theirs_is"), COMPRESSED + READ_ONLY)
def test_what_another_backend_compressed_is_read_whatever_we_compress_with(server, other, kind, ours_is, theirs_is):
    write(other(kind, COMPRESSOR=theirs_is), written_by(kind, READABLE))
    for compressor in {None, ours_is, "zlib"}:
        assert_finds(ours_with(server, COMPRESSOR=compressor), written_by(kind, READABLE))


@pytest.mark.parametrize(("kind", "ours_is", "theirs_is"), COMPRESSED)
def test_what_we_compressed_is_read_by_another_backend(server, other, kind, ours_is, theirs_is):
    write(ours_with(server, COMPRESSOR=ours_is), READABLE)
    assert_finds(other(kind, COMPRESSOR=theirs_is), read_by(kind, READABLE))
    with server.client() as client:
        assert client.strlen(":1:set-large") < 2_000, "it is compressed"


@pytest.mark.parametrize(("kind", "ours_is", "theirs_is"), SERIALIZED)
def test_what_another_serializer_wrote_is_read_and_the_other_way_round(server, other, kind, ours_is, theirs_is):
    plain = written_by(kind, PLAIN, ours_is)
    there, here = other(kind, SERIALIZER=theirs_is), ours_with(server, SERIALIZER=ours_is)
    write(there, plain)
    assert_finds(here, plain)
    here.clear()
    write(here, PLAIN)
    assert_finds(there, read_by(kind, PLAIN))


@pytest.mark.parametrize("kind", OTHERS)
def test_both_backends_count_on_in_one_counter_and_keep_its_lifetime(server, other, kind):
    there, here = other(kind), ours(server)
    there.set("hits", 0, 100)
    counted = []
    for _ in range(3):
        counted += [there.incr("hits"), here.incr("hits"), async_to_sync(here.aincr)("hits", 3), there.decr("hits")]
    assert counted == [1, 2, 5, 4, 5, 6, 9, 8, 9, 10, 13, 12]
    assert here.get("hits") == there.get("hits") == 12
    with server.client() as client:
        assert 90 < client.ttl(":1:hits") <= 100


@pytest.mark.parametrize("kind", OTHERS)
def test_no_increment_is_lost_while_both_backends_count_at_once(server, other, kind):
    there, here = other(kind), ours(server)
    here.set("hits", 0, None)
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda number: (here, there)[number % 2].incr("hits"), range(400)))
    assert sorted(counted) == list(range(1, 401))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_one_backend_deletes_and_touches_the_other_sees_so(server, other, kind):
    there, here = other(kind), ours(server)
    there.set("k", "v", 100)
    assert here.add("k", "w") is False
    assert here.touch("k", 500) is True
    with server.client() as client:
        assert 490 < client.ttl(":1:k") <= 500
    assert here.incr_version("k") == 2
    assert there.get("k", version=2) == "v"
    assert there.delete("k", version=2) is True
    assert not here.has_key("k", version=2)
    assert here.get_or_set("k", "new", 100) == there.get_or_set("k", "other") == "new"


BACKENDS = {
    "Django": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
    "django-valkey": "django_valkey.cache.ValkeyCache",
    "ours": "redispool_app.cache.RedisPoolCache",
}


@pytest.mark.parametrize("before", [name for name in BACKENDS if name != "ours"])
def test_visitors_keep_their_session_and_pages_stay_cached_while_the_site_switches(server, settings, before):
    """There and back: two deployments with one server behind them, and one visitor who meets both."""
    settings.ROOT_URLCONF = "tests.sites.cache_urls"
    settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    # django-valkey's sync backend has no async methods, so its sites have sync views only.
    views = ["/visits/", "/visits/" if before == "django-valkey" else "/visits-async/"]
    visitor, visits, pages, fragments = Client(), [], set(), set()
    for name in (before, "ours", before, "ours"):
        settings.CACHES = {"default": {"BACKEND": BACKENDS[name], "LOCATION": server.url, "KEY_PREFIX": "site"}}
        visits += [visitor.get(view).content for view in views]
        pages.add(visitor.get("/page/").content)
        fragments.add(visitor.get("/fragment/ada/").content.split(b",")[0])
        if name != "ours":
            close(caches["default"])
    assert visits == [b"%d" % number for number in range(1, 9)]
    assert len(pages) == 1
    assert len(fragments) == 1


def test_a_whole_response_survives_the_switch(server, other):
    there, here = other(theirs), ours(server)
    there.set("page", HttpResponse("hello", headers={"X-Kind": "page"}))
    found = here.get("page")
    assert (found.content, found.headers["X-Kind"]) == (b"hello", "page")


@pytest.mark.parametrize("kind", [django_redis, django_valkey])
def test_a_lock_holds_against_the_other_backend(server, other, kind):
    there, here = other(kind), ours(server)
    with there.lock("job", timeout=30):
        assert here.lock("job", timeout=30).acquire(blocking=False) is False
    with here.lock("job", timeout=30):
        assert there.lock("job", timeout=30).acquire(blocking=False) is False
    assert there.lock("job", timeout=30).acquire(blocking=False) is True
