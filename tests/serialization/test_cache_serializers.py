"""What is stored: integers as digits, pickle as Django writes it, JSON, msgpack, own objects; all that compressed."""

from __future__ import annotations

import datetime
import gzip
import json
import lzma
import pickle
import zlib

import msgpack
import pytest
from django.core.cache.backends.redis import RedisCache, RedisSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from redispool_app.cache.serializers import find
from redispool_app.serialization import compression
from redispool_app.serialization.codec import Codec
from tests.support import cache_faces
from tests.support.cache_faces import new_cache

face, at_redis = cache_faces.face, cache_faces.at_redis

pytestmark = pytest.mark.usefixtures("manager")

VALUES = [
    None,
    True,
    False,
    0,
    -7,
    2**70,
    1.5,
    "",
    "text",
    "123",
    b"",
    b"\x80",
    (1, 2),
    {1},
    {"a": [1, None]},
    "x" * 5000,
]


def codec(serializer="pickle", compressor=None, min_size=0):
    compress = None if compressor is None else compression.compressor(compressor, None)
    return Codec(find(serializer), compress, min_size, own=not isinstance(serializer, str))


# Pickle: interchangeable with Django's own.


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_is_written_is_byte_for_byte_djangos(at_redis, value):
    new_cache().set("k", value)
    stored = RedisSerializer().dumps(value)
    assert at_redis.get(":1:k") == (b"%d" % stored if isinstance(stored, int) else stored)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
async def test_every_protocol_of_pickle_is_read_and_any_can_be_written(face, at_redis, protocol):
    value = {"a": [1, "two", (3.0, None)]}
    at_redis.set(":1:k", pickle.dumps(value, protocol))
    assert await face().get("k") == value
    await face(PICKLE_PROTOCOL=protocol).set("k", value)
    assert at_redis.get(":1:k") == pickle.dumps(value, protocol)


@pytest.mark.parametrize(
    ("stored", "value"), [(b"42", 42), (b" 42\n", 42), (b"-1", -1), (b"1.5", 1.5), (b"-2e3", -2000.0)]
)
async def test_numbers_that_others_wrote_as_text_are_read(face, at_redis, stored, value):
    at_redis.set(":1:k", stored)
    found = await face().get("k")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("stored", [b"", b"\x80\x05\x95", b"text", b"12 apples", b"-"])
async def test_what_nobody_can_read_is_an_error_and_not_a_miss(face, at_redis, stored):
    at_redis.set(":1:k", stored)
    for call in (face().get, lambda key: face().get_many([key])):
        with pytest.raises((EOFError, pickle.UnpicklingError, ValueError)):
            await call("k")


# JSON and msgpack.


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize(
    "value", [None, True, 0, -7, 1.5, "", "123", "ä€😀", [], {}, {"a": [1, None]}, "x" * 5000], ids=str
)
async def test_a_value_survives(face, name, value):
    cache = face(SERIALIZER=name)
    await cache.set("k", value)
    found = await cache.get("k")
    assert (found, type(found)) == (value, type(value))


async def test_each_writes_its_own_format(face, at_redis):
    await face(SERIALIZER="json").set("k", {"a": "ä"})
    assert at_redis.get(":1:k") == '{"a":"ä"}'.encode()
    await face(SERIALIZER="msgpack").set("k", {"a": "ä"})
    assert msgpack.unpackb(at_redis.get(":1:k")) == {"a": "ä"}
    for name in ("json", "msgpack", "pickle"):
        await face(SERIALIZER=name).set("n", 41)
        assert at_redis.get(":1:n") == b"41"
        assert await face(SERIALIZER=name).incr("n") == 42


async def test_json_writes_dates_as_django_does(face):
    cache = face(SERIALIZER="json")
    await cache.set("k", [datetime.date(2026, 2, 3)])
    assert await cache.get("k") == ["2026-02-03"]
    with pytest.raises(TypeError):
        await cache.set("k", object())


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize("compress", [bytes, zlib.compress], ids=["plain", "compressed"])
async def test_a_cache_that_is_not_set_to_pickle_never_unpickles(face, at_redis, name, compress):
    at_redis.set(":1:k", compress(pickle.dumps(Bomb())))
    with pytest.raises(
        ValueError, match=rf"is a pickle, not {name}: give this cache a KEY_PREFIX or VERSION of its own"
    ):
        await face(SERIALIZER=name).get("k")
    assert not Bomb.exploded


# Own serializers.


class Shouting:
    def dumps(self, value):
        return str(value).upper()

    def loads(self, data):
        return data.decode()


class Raw:
    def dumps(self, value):
        return value

    def loads(self, data):
        return data


@pytest.mark.parametrize("choice", [Shouting(), Shouting, f"{__name__}.Shouting"], ids=["object", "class", "path"])
async def test_a_serializer_of_the_projects_own(face, at_redis, choice):
    cache = face(SERIALIZER=choice)
    await cache.set("k", "äb")
    assert at_redis.get(":1:k") == "ÄB".encode()
    assert await cache.get("k") == "ÄB"
    await cache.set("n", 5)
    assert await cache.incr("n") == await cache.get("n") == 6


def test_djangos_own_serializer_class_works():
    cache = new_cache(SERIALIZER="django.core.cache.backends.redis.RedisSerializer")
    for value in VALUES:
        cache.set("k", value)
        assert cache.get("k") == value


# Compression.


@pytest.mark.parametrize("name", compression.CHOICES)
@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
async def test_what_is_large_is_compressed_and_read_again_without_the_option(face, at_redis, name, serializer):
    cache = face(COMPRESSOR=name, SERIALIZER=serializer)
    await cache.set_many({"small": "x" * 100, "large": "x" * 5000, "number": 10**2000})
    assert at_redis.strlen(":1:large") < 200
    assert at_redis.strlen(":1:small") >= 100
    assert at_redis.get(":1:number") == b"%d" % 10**2000
    for reader in (
        cache,
        face(SERIALIZER=serializer),
        face(SERIALIZER=serializer, COMPRESSOR="zlib", COMPRESS_MIN_SIZE=1),
    ):
        assert await reader.get("large") == "x" * 5000
        assert await reader.get_many(["small", "large"]) == {"small": "x" * 100, "large": "x" * 5000}


@pytest.mark.parametrize("name", compression.CHOICES)
async def test_the_level_and_the_least_size_count(face, at_redis, name):
    text = " ".join(str(number * 7919) for number in range(5000))
    pickled = pickle.dumps(text, pickle.HIGHEST_PROTOCOL)
    for level in (1, 9):
        await face(COMPRESSOR=name, COMPRESS_LEVEL=level).set("k", text)
        assert at_redis.get(":1:k") == compression.compressor(name, level)(pickled)
    assert len({compression.compressor(name, level)(pickled) for level in (1, 9)}) == 2
    await face(COMPRESSOR=name, COMPRESS_MIN_SIZE=10**6).set("k", text)
    assert at_redis.strlen(":1:k") > len(text)


async def test_what_compression_would_make_larger_stays_as_it_is(face, at_redis):
    await face(COMPRESSOR="zlib", COMPRESS_MIN_SIZE=0).set("k", "x")
    assert at_redis.get(":1:k") == pickle.dumps("x", pickle.HIGHEST_PROTOCOL)


@pytest.mark.parametrize(
    "compress", [zlib.compress, gzip.compress, lzma.compress, compression.compressor("zstd", None)]
)
async def test_values_that_django_redis_compressed_are_read(face, at_redis, compress):
    at_redis.set(":1:k", compress(pickle.dumps({"a": 1})))
    assert await face().get("k") == {"a": 1}
    at_redis.set(":1:j", compress(json.dumps({"a": 1}).encode()))
    assert await face(SERIALIZER="json").get("j") == {"a": 1}


def test_what_only_begins_like_zlib_is_not_compressed():
    assert compression.is_compressed(zlib.compress(b""))
    assert [compression.is_compressed(data) for data in (b"", b"x", b"xylophone", b"\x80")] == [False] * 4


async def test_a_damaged_value_is_named_as_such(face, at_redis):
    at_redis.set(":1:k", zlib.compress(b"x" * 1000)[:-5])
    with pytest.raises(ValueError, match=r"a compressed value is damaged \(error\): delete it"):
        await face().get("k")


async def test_without_the_package_a_zstd_value_names_the_cure(face, at_redis, monkeypatch):
    at_redis.set(":1:k", compression.compressor("zstd", None)(b"x"))
    monkeypatch.setattr(compression, "_has_zstd", lambda: False)
    with pytest.raises(Exception, match=r"pip install backports\.zstd"):
        await face().get("k")


def test_djangos_own_backend_reads_what_is_not_compressed(server):
    cache, theirs = new_cache(), RedisCache(server.url, {})
    for value in VALUES:
        cache.set("k", value)
        assert theirs.get("k") == value
    theirs._cache._get_connection_pool(True).disconnect()


# Whatever the value and the options, it comes back.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=JSON, writer=st.sampled_from(["zlib", "zstd", None]), reader=st.sampled_from(["zlib", "zstd", None]))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
def test_any_value_is_read_as_it_was_written(serializer, value, writer, reader):
    found = codec(serializer, reader).loads(codec(serializer, writer).dumps(value))
    assert (found, repr(found)) == (value, repr(value))


@pytest.mark.parametrize("writer", [None, "zlib", "zstd"])
@pytest.mark.parametrize("size", [0, 10_000])
@pytest.mark.parametrize(
    "compress", [zlib.compress, gzip.compress, lzma.compress, compression.compressor("zstd", None)]
)
def test_archives_that_an_own_serializer_stores_come_back_as_archives(writer, size, compress):
    archive = compress(b"a page")
    own = codec(Raw(), writer, size)
    assert own.loads(own.dumps(archive)) == archive


HEADS = st.sampled_from([b"", b"x\x9c", b"x\x01", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x80"])


@given(
    data=st.builds(bytes.__add__, HEADS, st.binary()),
    compressor=st.sampled_from(["zlib", "zstd", None]),
    size=st.integers(0, 50),
)
@settings(max_examples=250, deadline=None)
def test_bytes_of_an_own_serializer_are_never_taken_for_what_they_look_like(data, compressor, size):
    if data.strip().lstrip(b"+-").replace(b"_", b"").isdigit():
        return  # digits are numbers, whoever writes them
    own = codec(Raw(), compressor, size)
    assert own.loads(own.dumps(data)) == data
    if compressor is not None:
        # Written before compression was switched on.
        earlier = codec(Raw()).dumps(data)
        assert own.loads(earlier) == data or compression.is_compressed(earlier)
