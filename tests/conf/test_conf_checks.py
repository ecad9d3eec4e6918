"""What each key of ``REDIS_POOL`` may hold, and the line that tells a fault and its cure."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from redispool_app.conf import KEYS, RedisPoolConfig, get_aliases, get_config, get_problems

from .test_conf import SECRET, config, refusal

WRONG = {
    "CONNECTION_URL": [None, 5, b"redis://host", {}],
    "DB": [-1, "0", 1.0, True, 2**31, 10**6000],
    "USERNAME": ["", 5],
    "PASSWORD": ["", 5, b"secret"],
    "CREDENTIAL_PROVIDER": [5, "", "nodots", "a..b", "a.b c"],
    "MAX_CONNECTIONS": [0, -1, "50", 1.5, None, True, 2**31],
    "TIMEOUT": [0, -1, "2", None, float("nan"), float("inf"), True, 10**400, 1_000_001],
    "MAX_WAITING": [-1, None, 0.5],
    "MAX_IDLE_TIME": [0, None],
    "MAX_LIFETIME": [0, "1h"],
    "MAX_IN_FLIGHT": [0, None],
    "MAX_IN_FLIGHT_BYTES": [0, "64M"],
    "MAX_SHARED_CONNECTIONS": [-1, 1.5, "4"],
    "RETRY_WRITES": [1, None],
    "SOCKET_TIMEOUT": [0, None, timedelta(seconds=1)],
    "SOCKET_CONNECT_TIMEOUT": [0, None],
    "SOCKET_KEEPALIVE": [1, None, "yes"],
    "HEALTH_CHECK_INTERVAL": [0, -5],
    "HEALTH_CHECK_TIMEOUT": [0, []],
    "RETRY_BACKOFF_BASE": [0],
    "RETRY_BACKOFF_CAP": [0],
    "CLOSE_TIMEOUT": [-0.1, None],
    "PROTOCOL": [1, "2", True, 2.0, None],
    "DECODE_RESPONSES": [0, "False"],
    "ENCODING": [
        "",
        None,
        5,
        "utf-9",
        "hex",
        "utf-16",
        "utf-8-sig",
        "cp037",
        "shift_jis_2004",
        "undefined",
        "\0",
        "\ud800",
    ],
    "ENCODING_ERRORS": ["loud", None],
    "CLIENT_NAME": ["", "two words", "naïve", "line\n", 5],
    "SSL_CA_CERTS": ["", 5, b"/ca.pem", "a\0b"],
    "SSL_CERTFILE": ["", "a\nb"],
    "SSL_KEYFILE": ["", False],
    "SSL_CERT_REQS": ["REQUIRED", None, 0],
    "SSL_CHECK_HOSTNAME": [0, None],
    "SERVER_TIMING": [1, "on"],
    "SLOW_COMMAND": [0, None, "0.1"],
    "PUBLISH_INTERVAL": [0, 0.05, 301, "5", True],
    "PUBLISH_PREFIX": ["", None, "a b", "{a}", "x" * 65],
}


def test_every_key_has_examples_of_wrong_values():
    assert set(WRONG) == set(KEYS)


@pytest.mark.parametrize(("key", "value"), [pytest.param(key, value, id=key) for key in WRONG for value in WRONG[key]])
def test_a_wrong_value_is_refused_under_the_name_of_its_key(key, value):
    message = refusal({key: value})
    assert message.startswith(f"REDIS_POOL[{key!r}] ")
    assert ": use " in message
    with pytest.raises(ImproperlyConfigured) as caught:
        RedisPoolConfig(**{KEYS[key]: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "keys",
    [
        {"DB": 2**31 - 1},
        {"TIMEOUT": 1_000_000},
        {"CLOSE_TIMEOUT": 0},
        {"MAX_WAITING": 0},
        {"ENCODING": "latin-1"},
        {"CLIENT_NAME": "a-b_c.d:e"},
        {"PUBLISH_INTERVAL": None},
        {"PUBLISH_INTERVAL": 300, "PUBLISH_PREFIX": "shop:pools"},
        {"CREDENTIAL_PROVIDER": "package.module.provider"},
        {"CONNECTION_URL": "rediss://host", "SSL_CA_CERTS": Path("/etc/ca.pem"), "SSL_CERT_REQS": "optional"},
    ],
)
def test_values_at_the_edge_are_taken(keys):
    assert config(**keys)


def test_a_number_is_shown_and_anything_that_could_be_a_secret_is_not():
    assert refusal({"DB": -1}).startswith("REDIS_POOL['DB'] is -1: use a whole number from 0 to")
    assert refusal({"TIMEOUT": "2"}).startswith("REDIS_POOL['TIMEOUT'] is '2': use a number of seconds")
    assert refusal({"TIMEOUT": {"a": SECRET}}).startswith("REDIS_POOL['TIMEOUT'] is of type dict: use")
    assert refusal({"TIMEOUT": f"redis://:{SECRET}@host"}).startswith("REDIS_POOL['TIMEOUT'] cannot be used: use")
    assert "more than 20 digits" in refusal({"DB": 10**6000})


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("SOCKET_TIMOUT", "SOCKET_TIMEOUT"),
        ("socket_timeout", "SOCKET_TIMEOUT"),
        ("MAX_CONNECTION", "MAX_CONNECTIONS"),
        ("LOCATION", "CONNECTION_URL"),
        ("url", "CONNECTION_URL"),
        ("HOST", "CONNECTION_URL"),
        ("POOL_SIZE", "MAX_CONNECTIONS"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(key, suggestion):
    assert refusal({"DB": 1, key: 1}) == f"REDIS_POOL has an unknown key {key!r}: did you mean {suggestion!r}?"


@pytest.mark.parametrize("key", ["ZZZZ", "", 5, None, ("a", "b"), b"DB", "X" * 100_000, "\ud800", f"a@{SECRET}"])
def test_an_unknown_key_without_a_near_one_is_to_be_removed(key):
    message = refusal({"DB": 1, key: 1})
    assert message.startswith("REDIS_POOL has an unknown key")
    assert message.endswith("remove it (RedisPoolConfig lists the keys).")
    assert len(message) < 200
    assert SECRET not in message


def test_keys_and_aliases_in_one_dict_are_told_apart():
    assert "give every pool a dict of its own" in refusal({"DB": 1, "sessions": {"DB": 2}})


def test_an_unknown_alias_is_answered_with_the_nearest_one():
    pools = {"default": {}, "sessions": {}}
    assert refusal(pools, "sesions") == "REDIS_POOL has no alias 'sesions': did you mean 'sessions'?"
    assert refusal(pools, "zzz") == "REDIS_POOL has no alias 'zzz': use 'default' or 'sessions'."
    assert refusal({"sessions": {}}) == "REDIS_POOL has no alias 'default': use 'sessions'."


@pytest.mark.parametrize("alias", ["", "a b", "a/b", "x" * 65, 5, None, "ä", "redis://:hunter2@host"])
def test_an_alias_that_cannot_be_one_is_refused(alias):
    with override_settings(REDIS_POOL={"default": {}, alias: {}}):
        with pytest.raises(ImproperlyConfigured, match=r"^an alias in REDIS_POOL ") as caught:
            get_aliases()
        assert [str(problem) for problem in get_problems()] == [str(caught.value)]
    assert SECRET not in str(caught.value)


def test_a_fault_names_the_alias_it_stands_under():
    assert refusal({"default": {}, "a": {"DB": -1}}, "a").startswith("REDIS_POOL['a']['DB'] is -1")
    assert refusal({"default": {}, "a": {"DBB": 1}}, "a").startswith("REDIS_POOL['a'] has an unknown key 'DBB'")
    assert refusal({"default": {}, "a": "redis://host"}, "a").startswith("REDIS_POOL['a'] cannot be used: use a dict")


def test_a_fault_under_one_alias_leaves_the_others_usable():
    with override_settings(REDIS_POOL={"default": {"DB": 1}, "a": {"DB": -1}}):
        assert get_config().database == 1


@pytest.mark.parametrize("pool", ["redis://localhost", 5, [], {"a": 1}.items(), object()])
def test_a_setting_of_another_type_is_refused(pool):
    assert refusal(pool).endswith("use a dict of keys or a RedisPoolConfig.")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"CONNECTION_URL": "redis://:a@host", "PASSWORD": "b"}, "PASSWORD and a password in CONNECTION_URL"),
        ({"CONNECTION_URL": "redis://:a@host?password=b"}, "PASSWORD and a password in CONNECTION_URL"),
        ({"CONNECTION_URL": "redis://a@host", "USERNAME": "b"}, "USERNAME and a user name in CONNECTION_URL"),
        ({"CREDENTIAL_PROVIDER": "a.b", "PASSWORD": "b"}, "CREDENTIAL_PROVIDER and a user name or password"),
        ({"CREDENTIAL_PROVIDER": "a.b", "CONNECTION_URL": "redis://:a@host"}, "CREDENTIAL_PROVIDER and a user name"),
        ({"CONNECTION_URL": "embedded://", "PASSWORD": "a"}, "the embedded server knows no user names and passwords"),
        ({"PASSWORD": "pässword", "ENCODING": "ascii"}, "PASSWORD has characters that ENCODING cannot write"),
        ({"PASSWORD": "\ud800"}, "PASSWORD has characters that ENCODING cannot write"),
        ({"CONNECTION_URL": "redis://%C3%A4@host", "ENCODING": "ascii"}, "USERNAME has characters that ENCODING"),
        ({"CONNECTION_URL": "redis://host/1", "DB": 2}, "DB is 2 and CONNECTION_URL says 1"),
        ({"CONNECTION_URL": "redis://host/0", "DB": 2}, "DB is 2 and CONNECTION_URL says 0"),
        ({"CONNECTION_URL": "redis://host/1?db=2"}, "DB is 2 and CONNECTION_URL says 1"),
        ({"RETRY_BACKOFF_BASE": 2, "RETRY_BACKOFF_CAP": 1}, "RETRY_BACKOFF_CAP is below RETRY_BACKOFF_BASE"),
        ({"CONNECTION_URL": "rediss://host", "SSL_KEYFILE": "/key.pem"}, "SSL_KEYFILE is given without SSL_CERTFILE"),
        ({"SSL_CA_CERTS": "/ca.pem"}, "SSL_CA_CERTS is given, yet CONNECTION_URL is not encrypted"),
        ({"CONNECTION_URL": "redis://host?ssl_cert_reqs=none"}, "SSL_CERT_REQS is given, yet CONNECTION_URL is not"),
    ],
)
def test_values_that_contradict_each_other_are_refused(keys, fault):
    message = refusal(keys)
    assert message.startswith(f"REDIS_POOL: {fault}")
    with override_settings(REDIS_POOL=keys):
        assert [str(problem) for problem in get_problems()] == [message]


@pytest.mark.parametrize("keys", [{"DB": 1}, {"DB": 1, "CONNECTION_URL": "redis://host/1"}])
def test_saying_the_same_twice_is_no_contradiction(keys):
    assert config(**keys).database == 1


def test_every_fault_is_found_at_once():
    pools = {"default": {"DB": -1, "TIMOUT": 2, "PROTOCOL": 4}, "a": {"RETRY_BACKOFF_CAP": 0.01}, "b": 5}
    with override_settings(REDIS_POOL=pools):
        faults = [problem.fault for problem in get_problems()]
    assert faults == [
        "REDIS_POOL['default'] has an unknown key 'TIMOUT'",
        "REDIS_POOL['default']['DB'] is -1",
        "REDIS_POOL['default']['PROTOCOL'] is 4",
        "REDIS_POOL['a']: RETRY_BACKOFF_CAP is below RETRY_BACKOFF_BASE",
        "REDIS_POOL['b'] is 5",
    ]
