"""Values come back as they were, and what cannot be written or read says so."""

from __future__ import annotations

import json
import pickle
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redispool_app.redis_base import RedisBase
from redispool_app.serializers import JSONSerializer
from tests.support import stores
from tests.support.stores import Blobs, Carts, Packs

twin, at_redis = stores.twin, stores.at_redis


VALUES = {
    Carts: {"text": "Grüße\n", "list": [1, 2.5, None, True, {"a": []}], "null": None, "int": -7, "flag": True},
    Blobs: {"bytes": bytes(range(256)), "empty": b"", "not utf-8": b"\xff\xfe"},
    Packs: {"bytes": b"\xff\x00", "map": {1: "one", "two": 2}, "null": None, "int": 2**80, "digits": "5", "flag": True},
}


@pytest.mark.parametrize("serializer", ["jsn", "", None, 5, object(), JSONSerializer, "x" * 10_000])
def test_an_unknown_serializer_is_refused_in_one_short_line(serializer):
    with pytest.raises(ImproperlyConfigured, match=r"Bad: serializer must be 'json', 'bytes', 'msgpack'") as caught:
        type("Bad", (RedisBase,), {"prefix": "bad-serializer", "serializer": serializer})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_misspelt_serializer_is_told_its_name():
    with pytest.raises(ImproperlyConfigured, match=r"did you mean 'msgpack'"):
        type("Bad", (RedisBase,), {"prefix": "bad-serializer", "serializer": "MessagePack"})


class PickleSerializer:
    dumps, loads = staticmethod(pickle.dumps), staticmethod(pickle.loads)


@pytest.mark.parametrize("serializer", ["pickle", "Pickle", pickle, PickleSerializer()])
def test_pickle_is_refused_by_name_and_as_an_object(serializer):
    with pytest.raises(ImproperlyConfigured, match=r"Bad: pickle lets whoever writes to Redis run code"):
        type("Bad", (RedisBase,), {"prefix": "bad-pickle", "serializer": serializer})


def test_msgpack_without_its_package_names_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImproperlyConfigured, match=r"Bad: serializer 'msgpack' needs .* pip install msgpack\."):
        type("Bad", (RedisBase,), {"prefix": "bad-msgpack", "serializer": "msgpack"})


async def test_a_value_that_cannot_be_serialized_is_refused_before_anything_is_sent(manager, twin):
    cyclic = []
    cyclic.append(cyclic)
    for cls, value in [
        (Carts, object()),
        (Carts, float("nan")),
        (Carts, float("inf")),
        (Carts, b"bytes"),
        (Carts, "\ud800"),
        (Carts, {(1, 2): 3}),
        (Carts, cyclic),
        (Blobs, "text"),
        (Blobs, 5),
        (Packs, object()),
        (Packs, [2**80]),
    ]:
        store = twin(cls)
        for call in (store.set("key-1", value), store.set_many({"fine": b"", "key-1": value})):
            with pytest.raises(TypeError, match=rf"{cls.__name__}: the value for '(key-1|fine)' cannot be serialized"):
                await call
        with pytest.raises(TypeError, match=rf"{cls.__name__}: the value for 'key-1\[f\]' cannot be serialized"):
            await store.hset("key-1", {"f": value})
    assert manager.get_pool_info()["connections_opened_total"] == 0


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (Carts, b"{secret"),
        (Carts, b"\xff"),
        (Carts, b""),
        (Carts, '"a"'.encode("utf-16")),
        (Packs, b""),
        (Packs, b"\x93\x01"),
        (Packs, b"\x0a5"),
    ],
)
async def test_stored_data_that_cannot_be_read_is_an_error_that_leaves_the_pool_healthy(
    manager, twin, at_redis, cls, data
):
    store = twin(cls)
    at_redis.set(store.store.key("odd"), data)
    at_redis.hset(store.store.key("odd", "h"), "f", data)
    message = rf"{cls.__name__}: the value at 'odd(\[f\])?' is not what this store's serializer writes: delete it"
    for call in (store.get("odd"), store.get_many(["odd"]), store.hget("odd", "f"), store.hgetall("odd")):
        with pytest.raises(ValueError, match=message) as caught:
            await call
        assert "secret" not in str(caught.value)
        assert manager._is_healthy


POOLS = [
    {"DECODE_RESPONSES": decode, "PROTOCOL": protocol} for decode in (False, True) for protocol in (2, 3)
]  # fmt: skip


@pytest.mark.parametrize("keys", POOLS, ids=lambda keys: "-".join(map(str, keys.values())))
@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
async def test_values_come_back_as_they_were_whatever_the_pool_decodes(server, pool_settings, twin, cls, keys):
    pool_settings(server.url, **keys)
    store, values = twin(cls), VALUES[cls]
    for name, value in values.items():
        assert await store.set(name, value)
        assert _same(await store.get(name), value)
    await store.set_many({f"{name}-many": value for name, value in values.items()}, ttl=50)
    many = await store.get_many([f"{name}-many" for name in values])
    assert all(_same(many[f"{name}-many"], value) for name, value in values.items())
    assert await store.hset("hash", values) == len(values)
    assert all([_same(await store.hget("hash", name), value) for name, value in values.items()])
    everything = await store.hgetall("hash")
    assert everything.keys() == values.keys()
    assert all(_same(everything[name], value) for name, value in values.items())
    assert sorted(await store.scan()) == sorted([*values, *many])


def _same(found, value):
    """Equal and of one type: True is not 1."""
    return found == value and type(found) is type(value)


@pytest.mark.parametrize("keys", POOLS, ids=lambda keys: "-".join(map(str, keys.values())))
async def test_counters_are_values_that_every_serializer_reads(server, pool_settings, twin, keys):
    pool_settings(server.url, **keys)
    for cls, start, end in ((Carts, 40, 42), (Packs, 40, 42), (Blobs, b"40", b"42")):
        store = twin(cls)
        await store.set("n", start)
        assert await store.incr("n", 2) == 42
        assert await store.get("n") == end
        await store.hset("h", {"n": start})
        assert await store.hincr("h", "n", 2) == 42
        assert await store.hgetall("h") == {"n": end}
        assert await store.incr("new", -3) == -3
        assert await store.get("new") == (b"-3" if cls is Blobs else -3)


def test_a_serializer_of_the_projects_own_may_write_text(manager):
    class Plain(RedisBase):
        prefix = "plain"
        serializer = json  # a module with dumps and loads

    Plain().set_sync("a", {"b": "ü"})
    assert Plain().get_sync("a") == {"b": "ü"}


def test_a_serializer_that_makes_neither_bytes_nor_text_is_named(manager):
    class Odd(RedisBase):
        prefix = "odd"
        serializer = type("Listing", (), {"dumps": lambda self, value: [value], "loads": lambda self, data: data})()

    with pytest.raises(TypeError, match=r"Odd: the serializer made list of 'a', not bytes"):
        Odd().set_sync("a", 1)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


PACKED_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)


PACKED_VALUES = st.integers() | st.recursive(
    PACKED_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(("cls", "values"), [(Carts, JSON_VALUES), (Packs, PACKED_VALUES), (Blobs, st.binary())])
def test_any_value_of_a_serializer_comes_back_from_redis(manager, cls, values):
    store = cls()

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(value=values)
    def check(value):
        store.set_sync("any", value)
        assert _same(store.get_sync("any"), value)
        store.hset_sync("any", {"field": value})
        assert _same(store.hgetall_sync("any")["field"], value)

    check()
