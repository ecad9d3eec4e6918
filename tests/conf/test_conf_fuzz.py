"""Whatever REDIS_POOL holds, a configuration that redis-py takes or a refusal of one line comes out, quickly."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

from redispool_app.conf import KEYS, get_aliases, get_config, get_problems

from .test_conf import SECRET

CLASSES = {
    "tcp": (redis.Connection, redis.asyncio.Connection),
    "tls": (redis.SSLConnection, redis.asyncio.SSLConnection),
    "unix": (redis.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection),
}

text = strategies.text(max_size=20)
junk = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(),
    strategies.sampled_from([10**25, -(10**6000), 2**63]),
    strategies.floats(),
    strategies.complex_numbers(),
    text,
    strategies.binary(max_size=5),
    strategies.lists(strategies.integers(), max_size=2),
    strategies.dictionaries(text, text, max_size=2),
    strategies.builds(object),
)
keys = strategies.one_of(
    strategies.sampled_from(sorted(KEYS)), text, strategies.integers(), strategies.none(), strategies.tuples(text)
)
names = strategies.sampled_from([key.lower() for key in KEYS])
hosts = strategies.sampled_from(
    ["localhost", "127.0.0.1", "[::1]", "[", "::1", "bücher.example", "a..b", "%00", "%ff", ""]
)
rough_urls = strategies.one_of(
    text,
    strategies.builds(
        "{}{}{}{}{}{}".format,
        strategies.sampled_from(["redis://", "rediss://", "unix://", "embedded://", "redis:", "http://", ""]),
        strategies.one_of(strategies.just(""), strategies.builds("{}:{}@".format, text, text)),
        strategies.one_of(hosts, text),
        strategies.one_of(strategies.sampled_from(["", ":", ":0", ":6379", ":65536", ":\u0663"]), text),
        strategies.one_of(strategies.sampled_from(["", "/", "/0", "/a.sock", "/" + "9" * 5000, "/%00"]), text),
        strategies.one_of(strategies.just(""), strategies.builds("?{}={}".format, names, text), text),
    ),
)
quoted = strategies.builds(quote, text, safe=strategies.just(""))
plausible_urls = strategies.one_of(
    strategies.builds(
        "{}://{}:{}@{}:{}/{}".format,
        strategies.sampled_from(["redis", "rediss"]),
        quoted,
        quoted,
        strategies.sampled_from(["localhost", "127.0.0.1", "[::1]", "[fe80::1%25eth0]", "b%C3%BCcher.example"]),
        strategies.integers(1, 65535),
        strategies.integers(0, 2**31 - 1),
    ),
    strategies.builds("unix:///{}?password={}".format, quoted, quoted),
    strategies.builds("embedded://{}".format, strategies.from_regex(r"[a-z0-9_-]{0,8}", fullmatch=True)),
)
plausible = strategies.fixed_dictionaries(
    {"CONNECTION_URL": plausible_urls},
    optional={
        "TIMEOUT": strategies.floats(0.001, 1_000_000),
        "MAX_CONNECTIONS": strategies.integers(1, 2**31 - 1),
        "PROTOCOL": strategies.sampled_from([2, 3]),
        "DECODE_RESPONSES": strategies.booleans(),
        "ENCODING": strategies.sampled_from(["utf-8", "latin-1", "ascii"]),
        "ENCODING_ERRORS": strategies.sampled_from(["strict", "surrogateescape", "replace"]),
        "CLIENT_NAME": strategies.from_regex(r"[!-~]{1,9}", fullmatch=True),
        "SOCKET_KEEPALIVE": strategies.booleans(),
    },
)
# Loose: a hang, or a parser whose time explodes, is a fault; a slow machine is not.
fuzz = hypothesis_settings(max_examples=150, deadline=timedelta(seconds=5), database=None)


def use(pool):
    """Read a setting by every way there is; return its configurations, or None when it is refused."""
    with override_settings(REDIS_POOL=pool):
        problems = [str(problem) for problem in get_problems()]
        assert all(problem.isprintable() and len(problem) < 400 for problem in problems)
        if problems:
            with pytest.raises(ImproperlyConfigured) as caught:
                [get_config(alias) for alias in get_aliases()]
            assert str(caught.value) in problems
            return None
        found = [get_config(alias) for alias in get_aliases()]
    for each in found:
        json.dumps(each.masked())
        assert repr(each)
        assert each.where.isprintable()
        if not isinstance(each.credential_provider, str):
            kwargs = each.connection_kwargs("/tmp/x.sock" if each.is_embedded else None)
            for connection_class in CLASSES[each.kind]:
                connection_class(**kwargs)
    return found


@fuzz
@given(rough_urls)
def test_any_url_is_read_or_refused(url):
    use({"CONNECTION_URL": url})


@fuzz
@given(strategies.one_of(junk, strategies.dictionaries(keys, junk, max_size=4)))
def test_any_setting_is_read_or_refused(pool):
    use(pool)


@fuzz
@given(
    strategies.dictionaries(keys, strategies.one_of(junk, plausible, strategies.dictionaries(keys, junk)), max_size=3)
)
def test_any_dict_of_aliases_is_read_or_refused(pools):
    use(pools)


@fuzz
@given(plausible)
def test_what_is_taken_makes_a_connection_in_redis_py(pool):
    use(pool)


@fuzz
@given(quoted, quoted, strategies.integers(1, 65535), strategies.integers(0, 2**31 - 1))
def test_credentials_of_any_characters_arrive_as_they_were_written(username, password, port, database):
    found = use({"CONNECTION_URL": f"redis://{username}:{password}@host:{port}/{database}"})
    plain = redis.connection.parse_url(f"redis://{username}:{password}@host:{port}/{database}")
    kwargs = found[0].connection_kwargs()
    assert (kwargs["username"] or "") == plain.get("username", "")
    assert (kwargs["password"] or "") == plain.get("password", "")
    assert (kwargs["port"], kwargs["db"]) == (port, database)


@fuzz
@given(rough_urls, strategies.integers(0, 60))
def test_a_password_anywhere_in_a_url_is_in_no_message(url, position):
    hidden = url[:position] + f":{SECRET}@" + url[position:]
    with override_settings(REDIS_POOL={"CONNECTION_URL": hidden}):
        assert not [problem for problem in get_problems() if SECRET in str(problem)]
