"""``REDIS_POOL``: read from the settings as they are now, and never shown with its secrets."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from redispool_app.conf import KEYS, RedisPoolConfig, get_aliases, get_config, get_problems
from redispool_app.conf import config as conf
from redispool_app.redis_pool import RedisConnectionManager, redis_connection_manager

SECRET = "hunter2"


def config(**keys):
    with override_settings(REDIS_POOL=keys):
        return get_config()


def refusal(pool, alias="default"):
    """The one line that says what is wrong with a setting."""
    with override_settings(REDIS_POOL=pool), pytest.raises(ImproperlyConfigured) as caught:
        get_config(alias)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    return message


# Reading.


def test_without_a_setting_the_pool_is_the_local_server(settings):
    del settings.REDIS_POOL
    assert get_config().where == "localhost:6379"
    assert get_aliases() == ["default"]


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_empty_setting_means_all_defaults(nothing):
    with override_settings(REDIS_POOL=nothing):
        assert get_config() == RedisPoolConfig()
        assert get_problems() == []


def test_a_dict_of_keys_is_the_default_pool():
    assert config(MAX_CONNECTIONS=7).max_connections == 7


def test_a_config_object_is_the_default_pool():
    with override_settings(REDIS_POOL=RedisPoolConfig(max_connections=7)):
        assert get_config().max_connections == 7
        assert get_aliases() == ["default"]
        assert get_problems() == []


def test_aliases_have_a_dict_or_a_config_object_each_and_default_comes_first():
    with override_settings(REDIS_POOL={"a": {"DB": 1}, "default": {}, "b": RedisPoolConfig(db=2)}):
        assert get_aliases() == ["default", "a", "b"]
        assert [get_config(alias).database for alias in get_aliases()] == [0, 1, 2]
        assert get_problems() == []


def test_the_setting_is_read_anew_each_time():
    with override_settings(REDIS_POOL={"DB": 1}):
        assert get_config().database == 1
        with override_settings(REDIS_POOL={"DB": 2}):
            assert get_config().database == 2
        assert get_config().database == 1


def test_the_manager_follows_an_overridden_setting_and_comes_back(server, manager):
    manager.get_sync_client().set("key", "database 0")
    with override_settings(REDIS_POOL={"CONNECTION_URL": server.url.removesuffix("/0") + "/1"}):
        assert manager.get_sync_client().get("key") is None
        assert manager.get_pool_info()["config"]["CONNECTION_URL"].endswith("/1")
    assert manager.get_sync_client().get("key") == b"database 0"


def test_a_wrong_setting_harms_nobody_until_it_is_used():
    with override_settings(REDIS_POOL={"DB": "zero"}):
        assert RedisConnectionManager() is redis_connection_manager
        assert redis_connection_manager.get_pool_info()["state"] == "misconfigured"
        with pytest.raises(ImproperlyConfigured):
            redis_connection_manager.get_sync_client()


def test_a_config_is_frozen_compared_by_value_and_survives_copies():
    first = RedisPoolConfig(connection_url=f"redis://:{SECRET}@host:1/2?timeout=3")
    second = RedisPoolConfig(connection_url=f"redis://:{SECRET}@host:1/2?timeout=3")
    assert first.where == "host:1"
    assert first == second
    assert hash(first) == hash(second)
    assert copy.deepcopy(first) == pickle.loads(pickle.dumps(first)) == first
    assert dataclasses.replace(first, db=2).database == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.db = 3


def test_every_key_has_a_field_of_its_name():
    assert KEYS["SOCKET_TIMEOUT"] == "socket_timeout"
    assert set(KEYS.values()) == {item.name for item in dataclasses.fields(RedisPoolConfig)}


# Credential providers.


class Vault(CredentialProvider):
    def get_credentials(self):
        return ("user", SECRET)


def make_vault():
    return Vault()


def make_nothing():
    return None


def fail():
    raise RuntimeError(f"the vault says {SECRET}")


@pytest.mark.parametrize("provider", [Vault(), f"{__name__}.Vault", f"{__name__}.make_vault"])
def test_a_provider_may_be_an_instance_or_the_path_of_a_class_or_function(provider):
    kwargs = config(CREDENTIAL_PROVIDER=provider).connection_kwargs()
    assert kwargs["credential_provider"].get_credentials() == ("user", SECRET)
    assert "password" not in kwargs


@pytest.mark.parametrize(
    ("name", "fault"),
    [("fail", "raises RuntimeError"), ("make_nothing", "gives a NoneType"), ("missing", "raises ImportError")],
)
def test_a_provider_that_gives_none_is_a_fault_in_the_settings(name, fault):
    with pytest.raises(ImproperlyConfigured, match=f"CREDENTIAL_PROVIDER {fault}: name a redis") as caught:
        config(CREDENTIAL_PROVIDER=f"{__name__}.{name}").connection_kwargs()
    assert SECRET not in str(caught.value)


def test_a_provider_is_imported_on_first_use_and_no_earlier():
    assert RedisPoolConfig(credential_provider="no.such.module").masked()["CREDENTIAL_PROVIDER"] == conf.MASK


# What redis-py gets.


def test_the_url_s_user_name_and_password_reach_redis_py_decoded():
    kwargs = config(CONNECTION_URL="redis://us%65r:p%40ss%2F%20%C3%A4@host:6380/2").connection_kwargs()
    assert (kwargs["username"], kwargs["password"]) == ("user", "p@ss/ ä")
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("host", 6380, 2)


def test_a_password_of_the_query_reaches_redis_py():
    kwargs = config(CONNECTION_URL="unix:///run/redis.sock?password=p%40ss&username=me").connection_kwargs()
    assert (kwargs["username"], kwargs["password"], kwargs["path"]) == ("me", "p@ss", "/run/redis.sock")


def test_unverified_tls_does_not_check_the_host_name_either():
    kwargs = config(CONNECTION_URL="rediss://host", SSL_CERT_REQS="none").connection_kwargs()
    assert (kwargs["ssl_cert_reqs"], kwargs["ssl_check_hostname"]) == ("none", False)


def test_certificates_may_be_path_objects():
    found = config(CONNECTION_URL="rediss://host", SSL_CA_CERTS=Path("/etc/ca.pem"))
    assert type(found.connection_kwargs()["ssl_ca_certs"]) is str
    assert json.loads(json.dumps(found.masked()))["SSL_CA_CERTS"] == "/etc/ca.pem"


def test_the_embedded_server_s_socket_is_where_it_is_told_to_be():
    assert config(CONNECTION_URL="embedded://").connection_kwargs("/tmp/x.sock")["path"] == "/tmp/x.sock"


def test_every_argument_is_spelled_out_so_that_no_default_of_redis_py_counts():
    given = config().connection_kwargs()
    assert given["socket_timeout"] == given["socket_connect_timeout"] == 2.0
    assert (given["protocol"], given["health_check_interval"], given["socket_keepalive"]) == (2, 0, True)


# Secrets.

HIDING_PLACES = [
    {"PASSWORD": SECRET},
    {"CONNECTION_URL": f"redis://:{SECRET}@host"},
    {"CONNECTION_URL": f"rediss://user:{SECRET}@host/3"},
    {"CONNECTION_URL": f"unix://:{SECRET}@/run/redis.sock"},
    {"CONNECTION_URL": f"unix:///run/redis.sock?password={SECRET}"},
    {"CONNECTION_URL": f"redis://host/0?password={SECRET}&username=me"},
    {"CREDENTIAL_PROVIDER": UsernamePasswordCredentialProvider("me", SECRET)},
]


@pytest.mark.parametrize("keys", HIDING_PLACES, ids=[str(number) for number in range(len(HIDING_PLACES))])
def test_a_password_is_in_no_text_about_a_configuration(keys):
    for found in (config(**keys), RedisPoolConfig(**{KEYS[key]: value for key, value in keys.items()})):
        texts = [repr(found), str(found), f"{found}", json.dumps(found.masked()), found.masked_url, found.where]
        assert not [text for text in texts if SECRET in text]
        assert SECRET not in repr(found._url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host:port/0",
        f"redis://:{SECRET}@[::1/0",
        f"redis://:{SECRET}@\u2100host/0",
        f"redis://:{SECRET}@host/zero",
        f"redis://:{SECRET}@host?db=x",
        f"redis://:{SECRET}@host?nonsense=1",
        f"redis://:{SECRET}@host#x",
        f"http://:{SECRET}@host",
        f"redis://{SECRET}",
        f"redis://:{SECRET}/more@host",
        f"redis://:12?{SECRET}&more@host",
        f"redis://user?{SECRET}@host",
        f"redis://:{SECRET}%FF@host",
        f"unix:///run/redis.sock?password={SECRET}&nonsense=1",
        f"unix:///run/redis.sock?password={SECRET}&password={SECRET}",
        f"unix:///run/redis.sock?pasword={SECRET}",
        f"embedded://:{SECRET}@name",
        f"redis://:{SECRET}@ho st",
    ],
)
def test_a_faulty_url_is_refused_without_being_repeated(url):
    with override_settings(REDIS_POOL={"CONNECTION_URL": url}):
        assert not [problem for problem in get_problems() if SECRET in str(problem)]
        if url == f"redis://{SECRET}":
            return  # a host name like any other
        with pytest.raises(ImproperlyConfigured) as caught:
            get_config()
    with pytest.raises(ImproperlyConfigured) as caught_directly:
        RedisPoolConfig(connection_url=url)
    for error in (caught.value, caught_directly.value):
        assert SECRET not in str(error)
        # Nor in what a traceback prints above it.
        assert (error.__cause__, error.__context__) == (None, None)


def test_a_password_under_the_wrong_key_is_not_repeated():
    url = f"redis://:{SECRET}@host/0"
    for pool in (url, {"LOCATION": url}, {url: {}}, {"CLIENT_NAME": f"{url} x"}, {"default": url, "a": {}}):
        with override_settings(REDIS_POOL=pool):
            assert get_problems()
            assert SECRET not in "".join(map(str, get_problems()))
