"""What INFO says, as facts: read from samples, and fetched from a real server."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError

from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.introspection import info as server_facts

VALKEY = {
    "redis_version": "7.2.4",
    "server_name": "valkey",
    "valkey_version": "9.1.2",
    "server_mode": "standalone",
    "process_id": 4711,
    "uptime_in_seconds": 86400,
    "connected_clients": 12,
    "maxclients": 10000,
    "used_memory": 1048576,
    "maxmemory": 0,
    "instantaneous_ops_per_sec": 250,
    "keyspace_hits": 75,
    "keyspace_misses": 25,
    "role": "master",
    "db0": "keys=3,expires=1,avg_ttl=0",
    "db2": "keys=9,expires=0,avg_ttl=0",
}


def info(**fields):
    """Word fields as a server does."""
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()


def test_every_fact_is_read_from_its_field():
    facts = server_facts.parse(info(**VALKEY), 0)
    assert facts == server_facts.ServerFacts(
        product="Valkey",
        version="9.1.2",
        role="primary",
        mode="standalone",
        uptime=86400,
        clients=12,
        clients_max=10000,
        memory_used=1048576,
        memory_max=0,
        ops_per_second=250,
        hit_rate=0.75,
        keys=3,
        process_id=4711,
    )


def test_redis_is_told_from_valkey():
    facts = server_facts.parse(info(redis_version="8.2.1", redis_mode="cluster", role="slave"), 0)
    assert (facts.product, facts.version) == ("Redis", "8.2.1")
    assert (facts.mode, facts.role) == ("cluster", "replica")


def test_a_version_that_looks_like_a_number_stays_text():
    assert server_facts.parse(b"redis_version:8.2", 0).version == "8.2"


def test_keys_are_those_of_the_database_asked_about():
    assert server_facts.parse(info(**VALKEY), 2).keys == 9


def test_a_database_that_is_not_listed_has_no_keys():
    assert server_facts.parse(info(**VALKEY), 7).keys == 0


def test_before_the_first_look_up_there_is_no_hit_rate():
    assert server_facts.parse(info(keyspace_hits=0, keyspace_misses=0), 0).hit_rate is None


def test_only_misses_are_a_hit_rate_of_zero():
    assert server_facts.parse(info(keyspace_hits=0, keyspace_misses=4), 0).hit_rate == 0.0


@pytest.mark.parametrize("odd", ["", "-1", "1.5", "²", "9" * 5000, "keys=,=3,,", "none"])
def test_fields_that_are_missing_or_odd_raise_nothing(odd):
    facts = server_facts.parse(info(first=1, **dict.fromkeys(VALKEY, odd)), 0)
    assert (facts.uptime, facts.memory_used, facts.hit_rate, facts.keys) == (None, None, None, 0)


@pytest.mark.parametrize("reply", [None, 5, [], {}, b"", b"OK", "txt:", NoPermissionError("redis_version:8")])
def test_a_reply_without_fields_is_not_one_to_info(reply):
    with pytest.raises(ValueError, match="INFO was not answered as a Redis server does"):
        server_facts.parse(reply, 0)
    assert server_facts.sections(reply) == {}


@pytest.mark.parametrize("prefix", ["", "txt:"], ids=["RESP2", "RESP3"])
def test_fields_are_kept_by_section_as_the_server_words_them(prefix):
    lines = ["# Server", "redis_version:8.2", "listener0:name=tcp,bind=::1", "", "# Empty", "# Clients", "maxclients:9"]
    expected = {"Server": {"redis_version": "8.2", "listener0": "name=tcp,bind=::1"}, "Clients": {"maxclients": "9"}}
    assert server_facts.sections((prefix + "\r\n".join(lines)).encode()) == expected


@pytest.mark.parametrize("keys", [{}, {"PROTOCOL": 3}, {"DECODE_RESPONSES": True}])
def test_a_real_server_is_asked_about_its_own_database(server, pool_settings, keys):
    manager = pool_settings(server.url, DB=0, **keys)
    with server.client() as client:
        client.mset({"one": 1, "two": 2})
        client.select(1)
        client.set("elsewhere", 1)
    facts = server_facts.fetch(manager)
    said = server.info("server")
    assert facts.process_id == said["process_id"]
    assert (facts.product, facts.version) == ("Valkey", said["valkey_version"])
    assert (facts.role, facts.mode, facts.keys) == ("primary", "standalone", 2)
    assert facts.clients >= 1
    assert facts.memory_used > 0


def test_one_fetch_is_one_info(server, manager):
    before = server.calls("info")
    server_facts.fetch(manager)
    # Looking costs one itself.
    assert server.calls("info") - before == 2


def test_a_confirmed_outage_is_not_asked_again(own_server, pool_settings, monkeypatch):
    manager = pool_settings(own_server.url)
    own_server.kill()
    with pytest.raises(RedisUnavailable):
        server_facts.fetch(manager)
    monkeypatch.setattr(manager, "_health_check_sync", None)
    with pytest.raises(RedisUnavailable, match="Nothing listens"):
        server_facts.fetch(manager)


def test_a_closed_manager_stays_closed(manager):
    manager.close_sync()
    with pytest.raises(PoolClosed):
        server_facts.fetch(manager)


def test_a_user_without_the_right_to_info_is_told_so(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    with own_server.client() as client:
        client.acl_setuser("default", enabled=True, commands=["-info"])
        try:
            with pytest.raises(NoPermissionError):
                server_facts.fetch(manager)
        finally:
            client.acl_setuser("default", enabled=True, commands=["+info"])
