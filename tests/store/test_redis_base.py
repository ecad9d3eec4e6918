"""A project's own store: its definition, its keys, and what it says when Redis is away.

Most tests run twice, through the async methods and through their blocking twins.
"""

from __future__ import annotations

import gc

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import exceptions as redis_exceptions

from redispool_app.engine import SyncRedis
from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.redis_base import RedisBase
from redispool_app.redis_pool import RedisConnectionManager
from tests.support import stores
from tests.support.stores import Carts, Visits

twin, at_redis = stores.twin, stores.at_redis


# Definition: what cannot be meant is refused when the class is defined.


@pytest.mark.parametrize("prefix", ["", "a:b", "a*", "a b", "ü", "x" * 65, 7, b"carts", ["carts"], "trailing\n"])
def test_a_prefix_that_could_contain_another_or_a_pattern_is_refused(prefix):
    with pytest.raises(ImproperlyConfigured, match=r"Bad: prefix must be 1 to 64 letters, digits"):
        type("Bad", (RedisBase,), {"prefix": prefix})


@pytest.mark.parametrize("alias", ["", None, 3, "a b"])
def test_an_alias_that_no_setting_can_have_is_refused(alias):
    with pytest.raises(ImproperlyConfigured, match=r"Bad: alias must be"):
        type("Bad", (RedisBase,), {"prefix": "bad-alias", "alias": alias})


@pytest.mark.parametrize("seconds", [0, -1, True, "60", float("nan"), float("inf"), 10**13])
def test_a_default_time_to_live_that_is_no_positive_number_is_refused(seconds):
    with pytest.raises(ImproperlyConfigured, match=r"Bad: default_ttl must be"):
        type("Bad", (RedisBase,), {"prefix": "bad-ttl", "default_ttl": seconds})


def test_a_time_to_live_given_under_the_name_of_the_method_is_pointed_out():
    with pytest.raises(ImproperlyConfigured, match=r"Bad: ttl is a method; name the time to live default_ttl"):
        type("Bad", (RedisBase,), {"prefix": "bad-name", "ttl": 60})


def test_two_classes_cannot_have_one_prefix():
    with pytest.raises(ImproperlyConfigured) as caught:
        type("Other", (RedisBase,), {"prefix": "carts"})
    assert str(caught.value) == (
        f"{__name__}.Other: prefix 'carts' on 'default' belongs to {Carts.__module__}.Carts; set another one."
    )


def test_a_subclass_of_a_concrete_store_needs_a_prefix_of_its_own():
    with pytest.raises(ImproperlyConfigured, match=r"prefix 'carts' on 'default' belongs to .*Carts; set another one"):
        type("BiggerCarts", (Carts,), {})
    own = type("BiggerCarts", (Carts,), {"prefix": "bigger-carts"})()
    assert own.key("a") == "bigger-carts:v:a"
    assert Carts().key("a") == "carts:v:a"


def test_one_prefix_on_two_aliases_is_two_stores():
    elsewhere = type("CartsElsewhere", (RedisBase,), {"prefix": "carts", "alias": "elsewhere"})()
    assert elsewhere.manager is RedisConnectionManager("elsewhere")
    assert Carts().manager is RedisConnectionManager("default")


def test_the_same_class_may_be_defined_again_as_on_a_reload():
    def define(ttl):
        class Reloaded(RedisBase):
            prefix = "reloaded"
            default_ttl = ttl

        return Reloaded

    first, second = define(1), define(2)
    assert first is not second
    with pytest.raises(ImproperlyConfigured):
        type("Third", (RedisBase,), {"prefix": "reloaded"})


def test_a_class_that_is_gone_frees_its_prefix():
    gc.disable()  # the store itself must find out that nobody can use the class any more
    try:
        type("Gone", (RedisBase,), {"prefix": "freed"})
        assert type("Heir", (RedisBase,), {"prefix": "freed"})().key("a") == "freed:v:a"
    finally:
        gc.enable()


def test_a_refused_class_does_not_keep_the_prefix():
    refused = []
    try:
        type("Refused", (RedisBase,), {"prefix": "kept-free", "default_ttl": -1})
    except ImproperlyConfigured as error:
        refused.append(error)  # its traceback keeps the class alive
    assert refused
    assert type("Accepted", (RedisBase,), {"prefix": "kept-free"}).prefix == "kept-free"


def test_a_class_without_a_prefix_is_abstract_and_hands_its_settings_down():
    class Daily(RedisBase):
        default_ttl = 86400
        serializer = "bytes"

    class Weather(Daily):
        prefix = "weather"

    with pytest.raises(ImproperlyConfigured, match=r"Daily has no prefix: subclass it and set one"):
        Daily()
    with pytest.raises(ImproperlyConfigured, match=r"RedisBase has no prefix"):
        RedisBase()
    assert Weather().default_ttl == 86400
    assert repr(Weather()).endswith("Weather 'weather' on 'default'>")


# Keys.


def test_the_layout_of_keys_is_as_documented():
    assert Carts().key("ada") == "carts:v:ada"
    assert Carts().key("a:b c\n", "z") == "carts:z:a:b c\n"


@pytest.mark.parametrize("kind", ["", "a:b", "*", "x" * 65, None])
def test_a_kind_that_could_reach_into_another_is_refused(kind):
    with pytest.raises(ValueError, match=r"Carts: a kind is"):
        Carts().key("a", kind)


BAD_KEYS = [
    (None, TypeError, "Carts: a key must be a str, not NoneType"),
    (7, TypeError, "Carts: a key must be a str, not int"),
    (b"a", TypeError, "Carts: a key must be a str, not bytes"),
    ("", ValueError, "Carts: a key must not be empty"),
    ("\ud800", ValueError, "Carts: the key .* has a surrogate"),
]


@pytest.mark.parametrize(("key", "error", "message"), BAD_KEYS)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get", ()),
        ("set", (1,)),
        ("delete", ()),
        ("exists", ()),
        ("expire", (1,)),
        ("ttl", ()),
        ("incr", ()),
        ("hset", ({"f": 1},)),
        ("hget", ("f",)),
        ("hgetall", ()),
        ("hdel", ("f",)),
        ("hincr", ("f",)),
    ],
)
async def test_a_key_that_is_no_text_is_refused_before_anything_is_sent(
    manager, twin, method, arguments, key, error, message
):
    with pytest.raises(error, match=message):
        await getattr(twin(Carts), method)(key, *arguments)
    assert manager.get_pool_info()["connections_opened_total"] == 0


@pytest.mark.parametrize(("key", "error", "message"), BAD_KEYS)
async def test_bad_keys_are_refused_in_collections_locks_and_fields_too(manager, twin, key, error, message):
    store = twin(Carts)
    for call in (
        store.get_many(["fine", key]),
        store.delete_many(["fine", key]),
        store.set_many({"fine": 1, key: 2}),
    ):
        with pytest.raises(error, match=message):
            await call
    with pytest.raises(error, match=message):
        async with store.lock(key):
            pytest.fail("the lock was taken")
    field_message = message.replace("key", "field")
    for call in (
        store.hset("h", {"fine": 1, key: 2}),
        store.hget("h", key),
        store.hdel("h", "fine", key),
        store.hincr("h", key),
    ):
        with pytest.raises(error, match=field_message):
            await call
    assert manager.get_pool_info()["connections_opened_total"] == 0


async def test_one_text_where_many_keys_belong_is_refused(manager, twin):
    with pytest.raises(TypeError, match=r"Carts: keys must be a collection of str, not one str"):
        await twin(Carts).get_many("abc")
    with pytest.raises(TypeError, match=r"Carts: keys must be a collection of str, not one bytes"):
        await twin(Carts).delete_many(b"abc")


STRANGE_KEYS = ["a b", "a:b", "new\nline\r\n", "Grüße 🦆", "\x00", "*", "[a]?\\", "{tag}", " ", "x" * 5000]


async def test_any_text_is_a_key_of_its_own(manager, twin):
    store = twin(Carts)
    for number, key in enumerate(STRANGE_KEYS):
        await store.set(key, number)
        await store.hset(key, {key: number})
    for number, key in enumerate(STRANGE_KEYS):
        assert await store.get(key) == number
        assert await store.hgetall(key) == {key: number}
        async with store.lock(key, blocking_timeout=0):
            pass
    assert sorted(await store.scan()) == sorted(STRANGE_KEYS)


async def test_keys_are_utf_8_whatever_the_encoding_of_the_pool(server, pool_settings, twin, at_redis):
    pool_settings(server.url, ENCODING="latin-1", DECODE_RESPONSES=True)
    store = twin(Carts)
    await store.set("🦆", "Grüße 🦆")
    async with store.lock("🦆"):
        assert at_redis.exists("carts:lock:🦆".encode())
    assert at_redis.get("carts:v:🦆".encode()) == '"Grüße 🦆"'.encode()
    assert await store.get("🦆") == "Grüße 🦆"
    assert await store.scan() == ["🦆"]


async def test_the_kinds_of_one_key_do_not_touch_each_other(manager, twin, at_redis):
    store = twin(Carts)
    await store.set("same", "value")
    await store.hset("same", {"field": "hash"})
    at_redis.zadd(store.store.key("same", "z"), {"member": 1})
    async with store.lock("same"):
        assert await store.get("same") == "value"
        assert await store.hgetall("same") == {"field": "hash"}
        assert sorted(at_redis.keys()) == [b"carts:h:same", b"carts:lock:same", b"carts:v:same", b"carts:z:same"]
    assert await store.delete("same")
    assert await store.hget("same", "field") == "hash"
    assert await store.delete("same", kind="h")
    assert at_redis.keys() == [b"carts:z:same"]


@settings(deadline=None, database=None)
@given(key=st.text(min_size=1))
def test_a_full_key_leads_back_to_its_store_kind_and_key(key):
    assert Carts().key(key).split(":", 2) == ["carts", "v", key]


# Scanning.


async def test_scan_finds_all_keys_of_its_own_store_and_no_other(manager, twin, at_redis):
    store, other = twin(Carts), twin(Visits)
    await store.set_many({f"k{number}": number for number in range(250)})
    await other.set_many({f"k{number}": number for number in range(50)})
    await store.hset("hash", {"f": 1})
    at_redis.mset({"carts": 1, "cartsX:v:k1": 1, "xcarts:v:k1": 1, "carts:w:k1": 1})
    assert set(await store.scan()) == {f"k{number}" for number in range(250)}
    assert set(await store.scan(count=10)) == {f"k{number}" for number in range(250)}
    assert set(await other.scan(match="k1?")) == {f"k1{digit}" for digit in range(10)}
    assert await store.scan(kind="h") == ["hash"]
    async with store.lock("job"):
        assert await store.scan(kind="lock") == ["job"]
    assert await store.scan(match="nothing*") == []


async def test_a_dot_in_a_prefix_matches_only_itself_when_scanning(manager, twin, at_redis):
    class Dotted(RedisBase):
        prefix = "dot.ted_-"

    await twin(Dotted).set("a", 1)
    at_redis.set("dotXted_-:v:b", 1)
    assert await twin(Dotted).scan() == ["a"]


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
async def test_a_page_size_below_one_is_refused(manager, twin, count):
    with pytest.raises(ValueError, match=r"Carts: count must be a whole number"):
        await twin(Carts).scan(count=count)


# Outages.


async def test_an_outage_is_redis_unavailable_from_every_method(own_server, pool_settings, twin):
    manager = pool_settings(own_server.url)
    store = twin(Visits)
    await store.set("a", 1)
    own_server.kill()
    with pytest.raises(redis_exceptions.ConnectionError):  # the connection that it kills
        await store.get("a")
    assert not manager._is_healthy
    for call in (
        store.get("a"),
        store.set("a", 1),
        store.get_many(["a"]),
        store.set_many({"a": 1, "b": 2}),
        store.delete("a"),
        store.delete_many(["a"]),
        store.exists("a"),
        store.expire("a", 1),
        store.ttl("a"),
        store.incr("a"),
        store.scan(),
        store.hset("a", {"f": 1}),
        store.hget("a", "f"),
        store.hgetall("a"),
        store.hdel("a", "f"),
        store.hincr("a", "f"),
    ):
        with pytest.raises(RedisUnavailable, match="Nothing listens at"):
            await call
    with pytest.raises(RedisUnavailable, match="Nothing listens at"):
        async with store.lock("job"):
            pytest.fail("the lock was taken")


async def test_a_store_of_a_closed_pool_says_so(manager, twin):
    store = twin(Carts)
    await store.set("a", 1)
    await manager.close()
    with pytest.raises(PoolClosed):
        await store.get("a")
    await manager.initialize()
    assert await store.get("a") == 1


def test_a_store_of_an_alias_that_is_not_configured_names_the_alias(manager):
    class Lost(RedisBase):
        prefix = "lost"
        alias = "nowhere"

    with pytest.raises(ImproperlyConfigured, match=r"REDIS_POOL has no alias 'nowhere'"):
        Lost().get_sync("a")


def test_every_async_method_has_a_blocking_twin():
    public = {name for name in vars(RedisBase) if not name.startswith("_")}
    blocking = {name for name in public if name.endswith("_sync")}
    apart = {"prefix", "default_ttl", "serializer", "alias", "manager", "key"}
    assert {name.removesuffix("_sync") for name in blocking} == public - blocking - apart


BLOCKING = {
    "get_sync": ("a",),
    "set_sync": ("a", 1),
    "get_many_sync": (["a"],),
    "set_many_sync": ({"a": 1, "b": 2},),
    "delete_sync": ("a",),
    "delete_many_sync": (["a"],),
    "exists_sync": ("a",),
    "expire_sync": ("a", 5),
    "ttl_sync": ("a",),
    "incr_sync": ("n",),
    "scan_sync": (),
    "hset_sync": ("a", {"f": 1}),
    "hget_sync": ("a", "f"),
    "hgetall_sync": ("a",),
    "hdel_sync": ("a", "f"),
    "hincr_sync": ("h", "f"),
    "lock_sync": ("job",),
}


def test_every_blocking_method_speaks_through_the_managers_blocking_client(manager, monkeypatch):
    assert set(BLOCKING) == {name for name in vars(RedisBase) if name.endswith("_sync") and name[0] != "_"}
    used = []

    def noted(method):
        def call(self, *args, **kwargs):
            used.append(self)
            return method(self, *args, **kwargs)

        return call

    for name in ("execute_command", "execute_raw", "pipeline"):
        monkeypatch.setattr(SyncRedis, name, noted(getattr(SyncRedis, name)))
    for name, args in BLOCKING.items():
        used.clear()
        returned = getattr(Visits(), name)(*args)
        if name == "scan_sync":
            list(returned)
        elif name == "lock_sync":
            with returned:
                pass
        assert used, name
        assert all(client is manager.get_sync_client() for client in used), name
    assert type(manager.get_sync_client()) is SyncRedis
    assert manager.get_pool_info()["loops"] == 0, "no asyncio client has been built"
