"""``CONNECTION_URL``: every form that works, and the cure for those that do not."""

from __future__ import annotations

import pytest

from redispool_app.conf import RedisPoolConfig

from .test_conf import config, refusal


@pytest.mark.parametrize(
    ("url", "kind", "where", "masked"),
    [
        ("redis://localhost", "tcp", "localhost:6379", "redis://localhost:6379/0"),
        ("redis://LOCALHOST:1/", "tcp", "localhost:1", "redis://localhost:1/0"),
        ("REDIS://host:65535/15/", "tcp", "host:65535", "redis://host:65535/15"),
        ("redis://host:/3", "tcp", "host:6379", "redis://host:6379/3"),
        ("rediss://user:pw@host:6380/2", "tls", "host:6380", "rediss://host:6380/2"),
        ("redis://:p%40ss%2Fword@host", "tcp", "host:6379", "redis://host:6379/0"),
        ("redis://[::1]:6380", "tcp", "[::1]:6380", "redis://[::1]:6380/0"),
        ("redis://[FE80::1%25eth0]", "tcp", "[fe80::1%eth0]:6379", "redis://[fe80::1%eth0]:6379/0"),
        ("redis://my_host.example.", "tcp", "my_host.example.:6379", "redis://my_host.example.:6379/0"),
        ("redis://b%C3%BCcher.example", "tcp", "bücher.example:6379", "redis://bücher.example:6379/0"),
        ("redis://host?db=4", "tcp", "host:6379", "redis://host:6379/4"),
        ("unix:///run/redis.sock", "unix", "/run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/a%20b.sock?db=3", "unix", "/run/a b.sock", "unix:///run/a b.sock"),
        ("unix://user:pw@/run/redis.sock", "unix", "/run/redis.sock", "unix:///run/redis.sock"),
        ("embedded://", "unix", "embedded://", "embedded://"),
        ("embedded://test-1", "unix", "embedded://test-1", "embedded://test-1"),
    ],
)
def test_a_url_is_read_and_shown_without_its_credentials(url, kind, where, masked):
    found = config(CONNECTION_URL=url)
    assert (found.kind, found.where, found.masked_url) == (kind, where, masked)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("", "a URL that starts with redis://"),
        ("localhost:6379", "a URL that starts with redis://"),
        ("http://localhost", "a URL that starts with redis://"),
        ("redis://", "names a host"),
        ("redis:///0", "names a host"),
        ("redis://:6379/0", "names a host"),
        ("redis://::1", "in brackets"),
        ("redis://[::1", "in brackets"),
        ("redis://[::1]x:6379", "in brackets"),
        ("redis://[v1.x]", "in brackets"),
        ("redis://[fe80::1%25a%0Ab]", "names a host"),
        ("redis://a..b", "names a host"),
        (f"redis://{'a' * 64}.example", "names a host"),
        (f"redis://{'a.' * 200}", "names a host"),
        ("redis://a%20b", "names a host"),
        ("redis://a%00b", "names a host"),
        ("redis://%2Frun%2Fredis.sock", "names a host"),
        ("redis://.", "names a host"),
        ("redis://host:port", "port is a number from 1 to 65535"),
        ("redis://host:0", "port is a number from 1 to 65535"),
        ("redis://host:65536", "port is a number from 1 to 65535"),
        ("redis://host:-1", "port is a number from 1 to 65535"),
        ("redis://host:9" + "9" * 5000, "port is a number from 1 to 65535"),
        ("redis://host:\u0663", "port is a number from 1 to 65535"),
        ("redis://host/zero", "path is a database number"),
        ("redis://host/-1", "path is a database number"),
        ("redis://host/0/1", "path is a database number"),
        ("redis://host/\u0663", "path is a database number"),
        ("redis://host/9999999999", "path is a database number"),
        ("redis://host/" + "9" * 5000, "path is a database number"),
        ("redis://:pa/ss@host:6379/0", "percent-encoded"),
        ("redis://:pa?ss@host", "percent-encoded"),
        ("redis://:pa#ss@host", "percent-encoded"),
        ("redis://:12/34@host", "percent-encoded"),
        ("redis://host#part", "write '#' as %23"),
        ("redis://host#", "write '#' as %23"),
        ("redis://:%FF@host", "percent-encoded bytes are UTF-8"),
        ("redis://host?password=%FF", "percent-encoded bytes are UTF-8"),
        ("redis://ho st", "without spaces and control characters"),
        ("redis://host\n", "without spaces and control characters"),
        ("redis://host/0?client_name=\ud800", "without spaces and control characters"),
        ("redis://host?db=1&db=2", "gives each option once"),
        ("unix://run/redis.sock", "after three slashes"),
        ("unix://", "after three slashes"),
        ("unix:///run/", "after three slashes"),
        ("unix:redis.sock", "after three slashes"),
        ("unix:///a%00b", "no control characters"),
        ("unix:///" + "a" * 107, "at most 107 bytes"),
        ("embedded://a/b", "embedded:// with nothing, or a plain name"),
        ("embedded://user:pw@name", "embedded:// with nothing, or a plain name"),
        ("embedded://../etc", "embedded:// with nothing, or a plain name"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_cure(url, cure):
    message = refusal({"CONNECTION_URL": url})
    assert message.startswith("REDIS_POOL['CONNECTION_URL'] cannot be used: use ")
    assert cure in message


def test_the_longest_socket_path_is_taken():
    assert config(CONNECTION_URL="unix:///" + "a" * 106).where == "/" + "a" * 106


def test_options_of_the_url_override_keys_and_have_the_type_of_their_key():
    found = config(
        CONNECTION_URL="redis://host?socket_timeout=3&max_connections=9&decode_responses=Yes&client_name=me&db=4",
        SOCKET_TIMEOUT=1,
        MAX_CONNECTIONS=1,
    )
    assert (found.socket_timeout, found.max_connections) == (3, 9)
    assert (found.decode_responses, found.client_name, found.database) == (True, "me", 4)
    assert "?" not in found.connection_url


def test_options_of_the_url_hold_for_a_config_object_too():
    found = RedisPoolConfig(connection_url="redis://host?socket_timeout=3&db=4")
    assert (found.database, found.connection_kwargs()["db"]) == (4, 4)
    assert found.connection_kwargs()["socket_timeout"] == 3
    assert found.effective().socket_timeout == 3
    assert (once := found.effective()).effective() is once


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("sockt_timeout=3", "unknown option 'sockt_timeout': did you mean 'socket_timeout'?"),
        ("zzz=3", "unknown option 'zzz': remove it."),
        ("credential_provider=os.system", "unknown option 'credential_provider'"),
        ("connection_url=redis:", "unknown option 'connection_url'"),
        ("socket_timeout=soon", "option 'socket_timeout' cannot be used: use a number of seconds above 0"),
        ("socket_timeout=nan", "a number of seconds above 0"),
        ("socket_timeout=", "a number of seconds above 0"),
        ("socket_timeout=" + "9" * 5000, "a number of seconds above 0"),
        ("max_connections=1.5", "a whole number from 1"),
        ("decode_responses=maybe", "True or False"),
        ("protocol=4", "2 or 3"),
    ],
)
def test_a_faulty_option_of_the_url_is_named(option, cure):
    assert cure in refusal({"CONNECTION_URL": f"redis://host/0?{option}"})
