"""What a store does with values, times to live, counters and hashes, through async methods and blocking twins."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.redis_base import DEFAULT_TTL
from tests.support import stores
from tests.support.stores import Carts, Visits

twin, at_redis = stores.twin, stores.at_redis


# Values.


async def test_a_value_is_written_read_and_deleted(manager, twin):
    store = twin(Carts)
    assert await store.get("ada") is None
    assert await store.get("ada", "nothing") == "nothing"
    assert await store.exists("ada") is False
    assert await store.set("ada", {"tea": 2}) is True
    assert await store.get("ada") == {"tea": 2}
    assert await store.exists("ada") is True
    assert await store.delete("ada") is True
    assert await store.delete("ada") is False


async def test_a_stored_none_is_not_a_missing_key(manager, twin):
    store = twin(Carts)
    await store.set("ada", None)
    assert await store.get("ada", "nothing") is None
    assert await store.get_many(["ada", "missing"]) == {"ada": None}
    await store.hset("h", {"f": None})
    assert await store.hget("h", "f", "nothing") is None


async def test_nx_writes_only_what_is_missing_and_xx_only_what_is_there(manager, twin):
    store = twin(Carts)
    assert await store.set("ada", 1, xx=True) is False
    assert await store.set("ada", 1, nx=True) is True
    assert await store.set("ada", 2, nx=True) is False
    assert await store.get("ada") == 1
    assert await store.set("ada", 3, xx=True) is True
    assert await store.get("ada") == 3
    with pytest.raises(ValueError, match=r"Carts: nx .* and xx .* exclude each other"):
        await store.set("ada", 4, nx=True, xx=True)


async def test_many_values_are_written_read_and_deleted_at_once(manager, twin, server):
    store = twin(Carts)
    await store.set_many({"a": 1, "b": [2], "c": "3"})
    assert await store.get_many(["a", "missing", "c", "a"]) == {"a": 1, "c": "3"}
    assert await store.get_many(key for key in ("b",)) == {"b": [2]}
    assert await store.delete_many(["a", "b", "missing"]) == 2
    assert await store.scan() == ["c"]
    assert server.calls("mset") == 1
    assert server.calls("set") == 0


async def test_many_values_with_a_time_to_live_are_one_transaction(manager, twin, server):
    store = twin(Visits)
    await store.set_many({"a": 1, "b": 2})
    await store.set_many({"c": 3, "d": 4}, ttl=None)
    assert 99 < await store.ttl("a") <= 100
    assert 99 < await store.ttl("b") <= 100
    assert await store.ttl("c") is None
    assert server.calls("exec") == 1


async def test_nothing_to_do_sends_nothing(manager, twin):
    store = twin(Carts)
    assert await store.get_many([]) == {}
    assert await store.set_many({}) is None
    assert await store.delete_many([]) == 0
    assert await store.hset("h", {}) == 0
    assert await store.hdel("h") == 0
    assert manager.get_pool_info()["connections_opened_total"] == 0


async def test_names_that_are_not_utf_8_are_an_error_that_leaves_the_pool_healthy(manager, twin, at_redis):
    store = twin(Carts)
    at_redis.set(b"carts:v:\xff", b"1")
    at_redis.hset("carts:h:odd", b"\xff", b"1")
    for call in (store.scan(), store.hgetall("odd")):
        with pytest.raises(ValueError, match=r"Carts: b'\\xff' is not UTF-8, so this store did not write it"):
            await call
    assert manager._is_healthy


async def test_an_error_that_redis_answers_with_reaches_the_caller_and_leaves_the_pool_healthy(manager, twin):
    for cls in (Carts, Visits):  # with and without a transaction
        store = twin(cls)
        await store.set("text", "not a number")
        await store.hset("text", {"f": "not a number"})
        for call in (store.incr("text"), store.hincr("text", "f")):
            with pytest.raises(redis_exceptions.ResponseError, match="not an integer"):
                await call
            assert manager._is_healthy


# Times to live.


async def test_writing_sets_the_default_time_to_live_unless_told_otherwise(manager, twin):
    store = twin(Visits)
    await store.set("a", 1)
    assert 99 < await store.ttl("a") <= 100
    await store.set("a", 1, ttl=50.5)
    assert 49 < await store.ttl("a") <= 50.5
    await store.set("a", 1, ttl=None)
    assert await store.ttl("a") is None
    await store.set("a", 1, ttl=DEFAULT_TTL)
    assert 99 < await store.ttl("a") <= 100


async def test_a_store_without_a_default_keeps_its_keys(manager, twin):
    store = twin(Carts)
    await store.set("a", 1, ttl=50)
    await store.set("a", 1)
    assert await store.ttl("a") is None


async def test_a_missing_key_has_no_seconds_left(manager, twin):
    assert await twin(Carts).ttl("missing") == 0.0


async def test_a_time_to_live_below_a_second_is_kept_in_milliseconds(manager, twin, at_redis):
    store = twin(Carts)
    await store.set("short", 1, ttl=0.2)
    assert at_redis.pttl("carts:v:short") <= 200
    await store.set("shorter", 1, ttl=0.00001)
    await asyncio.sleep(0.3)
    assert not await store.exists("short")
    assert not await store.exists("shorter")


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        *((seconds, ValueError) for seconds in (0, -5, float("nan"), float("inf"), 10**13)),
        *((seconds, TypeError) for seconds in (True, "60")),
    ],
)
async def test_a_time_to_live_that_is_no_positive_number_is_refused(manager, twin, ttl, error):
    store = twin(Carts)
    for call in (
        store.set("a", 1, ttl),
        store.set_many({"a": 1}, ttl),
        store.expire("a", ttl),
        store.hset("a", {"f": 1}, ttl),
    ):
        with pytest.raises(error, match=r"Carts: ttl must be"):
            await call
    assert manager.get_pool_info()["connections_opened_total"] == 0


async def test_the_longest_time_to_live_is_one_that_redis_takes(manager, twin):
    store = twin(Carts)
    assert await store.set("a", 1, ttl=10**12)
    assert await store.expire("a", 10**12)
    assert await store.ttl("a") > 10**11


async def test_expire_sets_the_time_to_live_and_says_whether_the_key_exists(manager, twin):
    store = twin(Visits)
    assert await store.expire("missing", 5) is False
    assert await store.expire("missing", None) is False
    await store.set("a", 1, ttl=None)
    assert await store.expire("a", None) is True
    assert await store.expire("a", 50) is True
    assert 49 < await store.ttl("a") <= 50
    assert await store.expire("a") is True
    assert 99 < await store.ttl("a") <= 100
    assert await store.expire("a", None) is True
    assert await store.ttl("a") is None
    await store.hset("a", {"f": 1}, ttl=None)
    assert await store.expire("a", 50, kind="h") is True
    assert 49 < await store.ttl("a", kind="h") <= 50
    assert await store.ttl("a") is None


# Counters.


async def test_a_new_counter_gets_the_default_time_to_live_once(manager, twin, at_redis):
    store = twin(Visits)
    assert await store.incr("a") == 1
    assert 99 < await store.ttl("a") <= 100
    at_redis.pexpire("visits:v:a", 50_000)
    assert await store.incr("a", 10) == 11
    assert await store.ttl("a") <= 50
    at_redis.persist("visits:v:a")
    assert await store.incr("a", -1) == 10
    assert await store.ttl("a") is None


async def test_a_counter_of_a_store_without_a_default_never_expires(manager, twin):
    store = twin(Carts)
    assert await store.incr("a", 5) == 5
    assert await store.ttl("a") is None
    assert await store.hincr("h", "f", 5) == 5
    assert await store.ttl("h", kind="h") is None


async def test_a_new_hash_of_counters_gets_the_default_time_to_live_once(manager, twin, at_redis):
    store = twin(Visits)
    assert await store.hincr("a", "f") == 1
    assert 99 < await store.ttl("a", kind="h") <= 100
    at_redis.pexpire("visits:h:a", 50_000)
    assert await store.hincr("a", "f", 10) == 11
    assert await store.hincr("a", "g") == 1
    assert await store.ttl("a", kind="h") <= 50
    at_redis.persist("visits:h:a")
    assert await store.hincr("a", "f") == 12
    assert await store.ttl("a", kind="h") is None


async def test_big_counters_are_exact(manager, twin):
    for cls in (Carts, Visits):
        store = twin(cls)
        assert await store.incr("a", 2**63 - 2) == 2**63 - 2
        assert await store.incr("a") == 2**63 - 1
        assert await store.hincr("a", "f", 2**63 - 2) == 2**63 - 2
        assert await store.hincr("a", "f") == 2**63 - 1
        assert await store.hincr("low", "f", -(2**63)) == -(2**63)


@pytest.mark.parametrize(
    ("amount", "error"), [(True, TypeError), (1.5, TypeError), ("1", TypeError), (2**63, ValueError)]
)
async def test_an_amount_that_is_no_64_bit_int_is_refused(manager, twin, amount, error):
    store = twin(Carts)
    for call in (store.incr("a", amount), store.hincr("a", "f", amount)):
        with pytest.raises(error, match=r"Carts: amount must"):
            await call


async def test_increments_of_many_tasks_add_up(manager):
    store = Visits()
    totals = await asyncio.gather(*(store.incr("a") for _ in range(200)), *(store.hincr("a", "f") for _ in range(200)))
    assert sorted(totals[:200]) == sorted(totals[200:]) == list(range(1, 201))


# Hashes.


async def test_fields_of_a_hash_are_written_read_and_deleted(manager, twin):
    store = twin(Carts)
    assert await store.hgetall("ada") == {}
    assert await store.hget("ada", "tea") is None
    assert await store.hget("ada", "tea", 0) == 0
    assert await store.hset("ada", {"tea": 1, "milk": [2]}) == 2
    assert await store.hset("ada", {"tea": 3, "sugar": None}) == 1
    assert await store.hget("ada", "tea") == 3
    assert await store.hgetall("ada") == {"tea": 3, "milk": [2], "sugar": None}
    assert await store.hdel("ada", "tea", "milk", "missing") == 2
    assert await store.exists("ada", kind="h") is True
    assert await store.hdel("ada", "sugar") == 1
    assert await store.exists("ada", kind="h") is False
    await store.hset("ada", {"tea": 1})
    assert await store.delete_many(["ada", "bob"], kind="h") == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_hash_is_read_in_either_protocol(server, pool_settings, twin, protocol):
    pool_settings(server.url, PROTOCOL=protocol)
    store = twin(Carts)
    await store.hset("ada", {"tea": 1, "milk": [2]})
    assert await store.hgetall("ada") == {"tea": 1, "milk": [2]}
    assert await store.hgetall("missing") == {}
    assert await store.set("a", 1) is True
    assert await store.scan() == ["a"]


async def test_writing_fields_sets_the_time_to_live_of_the_whole_hash(manager, twin):
    store = twin(Visits)
    await store.hset("a", {"f": 1})
    assert 99 < await store.ttl("a", kind="h") <= 100
    await store.hset("a", {"g": 1}, ttl=50)
    assert 49 < await store.ttl("a", kind="h") <= 50
    await store.hset("a", {"g": 2}, ttl=None)
    assert await store.ttl("a", kind="h") is None
