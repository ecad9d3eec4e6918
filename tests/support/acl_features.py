"""What docs/acl.md lists: each feature, used once, in every way that needs another command.

A feature raises where a command is denied to it. It is given an administrator's client, and the manager of the user.
"""

from __future__ import annotations

import io
import json
import time

from django.core.management import call_command

from redispool_app.cache import RedisPoolCache
from redispool_app.redis_base import RedisBase
from redispool_app.status_page import redis_details
from redispool_app.workers import keys, orders, publisher, roster, snapshot

from .servers import eventually

FEATURES = {}
KEYS = {}
"""More keys of REDIS_POOL that a feature wants."""


def feature(name, **keys):
    def register(function):
        FEATURES[name], KEYS[name] = function, keys
        return function

    return register


def cache(**options):
    return RedisPoolCache("", {"OPTIONS": options} if options else {})


class Carts(RedisBase):
    prefix = "acl-carts"
    default_ttl = 60
    serializer = "json"


@feature("a database other than 0", DB=1)
def database(admin, manager):
    manager.initialize_sync()


@feature("cache: `get`, `get_many`, `has_key`")
def reading(admin, manager):
    plain = cache()
    assert plain.get("a") is None
    assert plain.get_many(["a", "b"]) == {}
    assert not plain.has_key("a")


@feature("cache: `set`, `set_many`, `add`")
def writing(admin, manager):
    plain = cache()
    plain.set("a", 1, 60)
    plain.set("a", 2, None)
    plain.set_many({"c": 3, "d": 4}, 60)
    plain.set_many({"c": 3, "d": 4}, None)
    assert plain.add("e", 5, 60)


@feature("cache: `delete`, `delete_many`, `set` with a timeout of 0")
def deleting(admin, manager):
    plain = cache()
    admin.set(plain.make_key("a"), 1)
    assert plain.delete("a")
    plain.delete_many(["c", "d"])
    plain.set("a", 1, 0)


@feature("cache: `touch`, `expire`, `pexpire`, `expire_at`, `pexpire_at`, `persist`, `ttl`, `pttl`")
def lifetimes(admin, manager):
    plain, later = cache(), int(time.time()) + 60
    admin.set(plain.make_key("a"), 1)
    assert plain.ttl("a") is None
    assert plain.pttl("a") is None
    assert plain.touch("a", 60)
    assert plain.touch("a", None)
    assert plain.expire("a", 60)
    assert plain.pexpire("a", 60_000)
    assert plain.expire_at("a", later)
    assert plain.pexpire_at("a", later * 1000)
    assert plain.persist("a")


@feature("cache: `incr`, `decr`")
def counters(admin, manager):
    plain = cache()
    admin.set(plain.make_key("n"), 1)
    assert plain.incr("n") == 2


@feature("cache: `incr_version`, `decr_version`")
def versions(admin, manager):
    plain = cache()
    admin.set(plain.make_key("a"), 1)
    plain.incr_version("a")


@feature("cache: `keys`, `iter_keys`, `delete_pattern`, `clear`")
def patterns(admin, manager):
    plain = cache()
    admin.set(plain.make_key("a"), 1)
    assert plain.keys("*") == ["a"]
    assert plain.delete_pattern("a*") == 1
    plain.clear()


@feature("cache: `get_or_set` (stampede protection)")
def stampede(admin, manager):
    assert cache().get_or_set("a", lambda: 1, 60) == 1


@feature("cache: `get_or_set` with `STAMPEDE_WAIT: 0`")
def everyone_computes(admin, manager):
    assert cache(STAMPEDE_WAIT=0).get_or_set("a", lambda: 1, 60) == 1


@feature("cache with a `STALE_TIMEOUT`: `set`, `add`, `touch`, `delete`, `get_or_set`")
def stale(admin, manager):
    kept = cache(STALE_TIMEOUT=60)
    assert kept.get_or_set("a", lambda: 1, 60) == 1
    kept.set("b", 1, 60)
    kept.add("c", 1, 60)
    kept.touch("c", 60)
    kept.delete("b")


@feature("locks: `cache.lock`, `RedisBase.lock`")
def locks(admin, manager):
    with cache().lock("l", timeout=10) as lock:
        lock.extend(10)
        assert lock.owned()
    with Carts().lock_sync("l"):
        pass


@feature("`RedisBase`: `get`, `set`, `get_many`, `set_many`, `delete`, `exists`, `expire`, `ttl`, `scan`")
def store(admin, manager):
    carts = Carts()
    carts.set_sync("a", 1)
    assert carts.get_sync("a") == 1
    carts.set_many_sync({"b": 2})
    assert carts.get_many_sync(["a", "b"]) == {"a": 1, "b": 2}
    assert carts.exists_sync("a")
    assert carts.ttl_sync("a")
    assert carts.expire_sync("a", 60)
    assert list(carts.scan_sync())
    assert carts.delete_sync("a")
    carts.delete_many_sync(["b"])


@feature("`RedisBase`: `incr`")
def store_counters(admin, manager):
    assert Carts().incr_sync("n") == 1


@feature("`RedisBase`: `hset`, `hget`, `hgetall`, `hdel`, `hincr`")
def store_hashes(admin, manager):
    carts = Carts()
    carts.hset_sync("h", {"a": 1})
    assert carts.hget_sync("h", "a") == 1
    assert carts.hgetall_sync("h")
    carts.hincr_sync("h", "n")
    carts.hdel_sync("h", "a")


@feature("`client.pipeline()` with `INCR`, and with `WATCH`")
def transactions(admin, manager):
    client = manager.get_sync_client()
    assert client.pipeline().incr("n").execute() == [1]
    with client.pipeline() as pipe:
        pipe.watch("n")
        pipe.multi()
        assert pipe.incr("n").execute() == [2]


@feature("`client.pubsub()` and `client.publish()`")
def messages(admin, manager):
    client = manager.get_sync_client()
    with client.pubsub() as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("news.*")
        for _ in range(2):
            assert pubsub.get_message(timeout=5)
        assert client.publish("news", "x")
        assert pubsub.get_message(timeout=5)["data"] in ("x", b"x")
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        for _ in range(2):
            assert pubsub.get_message(timeout=5)


@feature("workers: being published", PUBLISH_INTERVAL=0.1)
def published(admin, manager):
    _wait_for(manager, "saying", lambda publication: publication.published)


@feature("workers: obeying orders", PUBLISH_INTERVAL=0.1)
def obeying(admin, manager):
    _wait_for(manager, "hearing", lambda publication: publication.recent()[1:])


def _wait_for(manager, half, is_done):
    manager.get_sync_client()
    publication = publisher.publication_of(manager)

    def ended():
        return getattr(publication, half).problem or is_done(publication)

    eventually(ended, 10)
    time.sleep(0.15)
    assert getattr(publication, half).problem is None


@feature("workers: sending orders (the admin's buttons, `redis_pool --all`)", PUBLISH_INTERVAL=60)
def sending(admin, manager):
    orders.send(manager, "resume")


@feature("workers: the list of all (the status page, `status/`, `redis_health --all`)", PUBLISH_INTERVAL=60)
def listing(admin, manager):
    said, index = snapshot.take(manager), keys.index("redispool", "default")
    admin.sadd(index, "gone:1", said["id"])
    admin.set(keys.worker("redispool", "default", said["id"]), snapshot.dump(said), px=keys.life_ms(said["interval"]))
    found = roster.read(manager)
    assert "denies" not in f"{found.problem} {found.differences}"
    assert [worker["seen_seconds"] < 60 for worker in found.workers] == [True]
    assert admin.smembers(index) == {said["id"].encode()}


@feature("the status page in the admin: the server, slow commands, clients")
def status_page(admin, manager):
    facts, problem = redis_details.facts(manager)
    assert (facts is not None, problem) == (True, None)
    details = redis_details.details(manager)
    assert (details.slowlog.problem, details.clients.problem) == (None, None)


@feature("`redis_health`: the server's name and version")
def health_command(admin, manager):
    out = io.StringIO()
    call_command("redis_health", "--json", stdout=out)
    (pool,) = json.loads(out.getvalue())["pools"]
    assert pool["is_healthy"]
    assert pool["server"] is not None
