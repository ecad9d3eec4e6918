"""LOCATION and OPTIONS: which pool a cache is on, and one clear line for what cannot be meant."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
from django.core.cache import caches
from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError

from redispool_app import checks
from redispool_app.cache import RedisPoolCache
from redispool_app.conf import KEYS, get_aliases, get_config
from redispool_app.conf.cache_options import NAMES, find_problems
from redispool_app.redis_pool import RedisConnectionManager, get_managers
from redispool_app.serialization import compression
from tests.support import cache_faces
from tests.support.cache_faces import new_cache

face, url_pools = cache_faces.face, cache_faces.url_pools

BACKEND = "redispool_app.cache.RedisPoolCache"
SECRET = "hunter2"


class OwnCache(RedisPoolCache):
    """A project's own version."""


def refusal(location="", options=(), **beside):
    """The one line that says what is wrong with a cache, at its first use."""
    cache = RedisPoolCache(location, {"OPTIONS": dict(options), **beside})
    with pytest.raises(ImproperlyConfigured) as caught:
        cache.get("k")
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert SECRET not in message
    return message


# OPTIONS.


class Nothing:
    """No serializer, and the same name in every process."""

    def __repr__(self):
        return "Nothing"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"SERIALISER": "json"}, "CACHES['OPTIONS'] has an unknown key 'SERIALISER': did you mean 'SERIALIZER'?"),
        ({"serializer": "json"}, "CACHES['OPTIONS'] has an unknown key 'serializer': did you mean 'SERIALIZER'?"),
        (
            {"MAX_CONECTIONS": 5},
            "CACHES['OPTIONS'] has an unknown key 'MAX_CONECTIONS': did you mean 'MAX_CONNECTIONS'?",
        ),
        ({"db": 1}, "CACHES['OPTIONS'] has an unknown key 'db': did you mean 'DB'?"),
        ({"banana": 1}, "CACHES['OPTIONS'] has an unknown key 'banana': remove it."),
        ({5: 1}, "CACHES['OPTIONS'] has an unknown key 5: remove it."),
        (
            {"MAX_ENTRIES": 9},
            "CACHES['OPTIONS'] has an unknown key 'MAX_ENTRIES': "
            "remove it; the server evicts as its maxmemory-policy says.",
        ),
        ({"CLIENT_CLASS": "x"}, "CACHES['OPTIONS'] has an unknown key 'CLIENT_CLASS': remove it; there is one client."),
        (
            {"CONNECTION_URL": f"redis://:{SECRET}@h"},
            "CACHES['OPTIONS'] has an unknown key 'CONNECTION_URL': write it as LOCATION, beside OPTIONS.",
        ),
        (
            {"SERIALIZER": "yaml"},
            "CACHES['OPTIONS']['SERIALIZER'] is 'yaml': use 'pickle' or 'json' or 'msgpack' or a dotted path.",
        ),
        ({"SERIALIZER": "pikle"}, "CACHES['OPTIONS']['SERIALIZER'] is 'pikle': use 'pickle'."),
        (
            {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
            "CACHES['OPTIONS']['SERIALIZER'] is 'django_redis.serializers.json.JSONSerializer': use 'json'.",
        ),
        (
            {"SERIALIZER": "nowhere.Thing"},
            "CACHES['OPTIONS']['SERIALIZER'] is 'nowhere.Thing': "
            "use the dotted path of something that can be imported.",
        ),
        (
            {"SERIALIZER": Nothing()},
            "CACHES['OPTIONS']['SERIALIZER'] is of type Nothing: "
            "use 'pickle' or 'json' or 'msgpack' or an object with dumps and loads.",
        ),
        ({"COMPRESSOR": "gzip"}, "CACHES['OPTIONS']['COMPRESSOR'] is 'gzip': use 'zlib' or 'zstd' or None."),
        (
            {"COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor"},
            "CACHES['OPTIONS']['COMPRESSOR'] is 'django_redis.compressors.zlib.ZlibCompressor': use 'zlib'.",
        ),
        (
            {"COMPRESS_MIN_SIZE": -1},
            "CACHES['OPTIONS']['COMPRESS_MIN_SIZE'] is -1: use a whole number from 0 to 2147483647.",
        ),
        (
            {"COMPRESSOR": "zlib", "COMPRESS_LEVEL": 12},
            "CACHES['OPTIONS'] cannot be used: COMPRESS_LEVEL of zlib must be from -1 to 9.",
        ),
        *(
            (
                {"PICKLE_PROTOCOL": wrong},
                f"CACHES['OPTIONS']['PICKLE_PROTOCOL'] is {wrong}: "
                f"use a protocol of pickle, from 0 to {pickle.HIGHEST_PROTOCOL}, or None for the highest.",
            )
            for wrong in (99, -1, 4.0, True)
        ),
        (
            {"PICKLE_VERSION": 4},
            "CACHES['OPTIONS'] has an unknown key 'PICKLE_VERSION': did you mean 'PICKLE_PROTOCOL'?",
        ),
        (
            {"CLOSE_CONNECTION": True},
            "CACHES['OPTIONS'] has an unknown key 'CLOSE_CONNECTION': "
            "remove it; connections are shared, and stay open from request to request.",
        ),
        (
            {"SENTINELS": [("h", 26379)]},
            "CACHES['OPTIONS'] has an unknown key 'SENTINELS': remove it and let LOCATION, "
            "or the pool's CONNECTION_URL, name the primary, or a proxy that follows it.",
        ),
        (
            {"COMPRESS_ZLIB_WBITS": 15},
            "CACHES['OPTIONS'] has an unknown key 'COMPRESS_ZLIB_WBITS': "
            "remove it; COMPRESS_LEVEL is the only argument that compressors take.",
        ),
        (
            {"REVERSE_KEY_FUNCTION": "nowhere.reverse"},
            "CACHES['OPTIONS']['REVERSE_KEY_FUNCTION'] is 'nowhere.reverse': "
            "use the dotted path of something that can be imported.",
        ),
        (
            {"REVERSE_KEY_FUNCTION": "os.sep"},
            "CACHES['OPTIONS']['REVERSE_KEY_FUNCTION'] is 'os.sep': use a function, its dotted path, or None.",
        ),
        ({"IGNORE_EXCEPTIONS": 1}, "CACHES['OPTIONS']['IGNORE_EXCEPTIONS'] is 1: use True or False."),
        (
            {"STAMPEDE_WAIT": None},
            "CACHES['OPTIONS']['STAMPEDE_WAIT'] is None: use a number of seconds from 0 to 1000000.",
        ),
        (
            {"MAX_CONNECTIONS": 5},
            "CACHES['OPTIONS'] has 'MAX_CONNECTIONS', yet LOCATION names a pool of REDIS_POOL: "
            "write it into REDIS_POOL, or give LOCATION a URL.",
        ),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_meant_is_refused_in_one_line(options, message):
    assert refusal(options=options) == message


def test_options_that_are_no_dict_are_refused():
    for options in ("json", ["json"], 5):
        cache = RedisPoolCache("", {"OPTIONS": options})
        with pytest.raises(ImproperlyConfigured, match=r"CACHES\['OPTIONS'\] is .*: use a dict of keys\.$"):
            cache.get("k")


@pytest.mark.parametrize("key", ["KEY_FUNCTION", "REVERSE_KEY_FUNCTION"])
@pytest.mark.parametrize(
    ("function", "fault", "wanted"),
    [
        ("nowhere.function", "'nowhere.function'", "the dotted path of something that can be imported"),
        ("os.path.nowhere", "'os.path.nowhere'", "the dotted path of something that can be imported"),
        ("function", "'function'", "the dotted path of something that can be imported"),
        (
            "tests.fails_itself.f",
            "'tests.fails_itself.f'",
            "the dotted path of something that can be imported (this raises ZeroDivisionError)",
        ),
        ("os.sep", "'os.sep'", "a function, its dotted path, or None"),
        ([], "of type list", "a function, its dotted path, or None"),
    ],
)
def test_a_function_that_cannot_be_had_is_refused_in_one_line(key, function, fault, wanted, monkeypatch):
    class FailingFinder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return 1 / 0 if name == "tests.fails_itself" else None

    monkeypatch.setattr(sys, "meta_path", [FailingFinder, *sys.meta_path])
    assert refusal(**{key: function}) == f"CACHES['{key}'] is {fault}: use {wanted}."


@pytest.mark.parametrize(
    "params",
    [{"OPTIONS": {"PICKLE_VERSION": 4}}, {"KEY_FUNCTION": "nowhere.f"}, {"REVERSE_KEY_FUNCTION": "nowhere.f"}],
    ids=str,
)
async def test_a_faulty_cache_can_be_made_and_whatever_is_asked_of_it_is_refused(face, params):
    cache = face(**params)
    assert cache.cache.default_timeout == 300
    calls = [
        ("get", "k"),
        ("set", "k", 1),
        ("add", "k", 1),
        ("touch", "k"),
        ("delete", "k"),
        ("has_key", "k"),
        ("incr", "k"),
        ("incr_version", "k"),
        ("get_many", ["k"]),
        ("set_many", {"k": 1}),
        ("delete_many", ["k"]),
        ("get_or_set", "k", 1),
        ("ttl", "k"),
        ("keys",),
        ("delete_pattern", "*"),
        ("clear",),
        ("get_client",),
    ]
    for name, *args in calls:
        with pytest.raises(ImproperlyConfigured, match=r"PICKLE_VERSION|nowhere\.f"):
            await getattr(cache, name)(*args)
    with pytest.raises(ImproperlyConfigured):
        assert cache.cache.manager


ODD = [
    5,
    -1,
    True,
    float("nan"),
    "",
    ".",
    "a..b",
    "ä\n",
    f"redis://:{SECRET}@h",
    b"pickle",
    ["zlib"],
    {"a": 1},
    {1},
    object(),
    int,
    lambda: 1 / 0,
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_whatever_stands_in_an_entry_is_accepted_or_refused_in_one_line(value):
    beside = [{key: value} for key in ("LOCATION", "OPTIONS", "KEY_FUNCTION", "REVERSE_KEY_FUNCTION")]
    inside = [
        {"LOCATION": url, "OPTIONS": {key: value}} for key in [*NAMES, *KEYS, "SENTINELS"] for url in ("", "redis://h")
    ]
    refused = 0
    for entry in beside + inside:
        for problem in find_problems(entry, "CACHES"):
            assert str(problem).isprintable()
            assert SECRET not in str(problem)
            refused += 1
        params = {key: given for key, given in entry.items() if key != "LOCATION"}
        assert RedisPoolCache(entry.get("LOCATION", ""), params).key_prefix == ""
    assert refused > len(inside) / 4


def test_no_key_is_made_without_the_function_that_makes_it():
    cache = new_cache(KEY_FUNCTION="nowhere.f")
    with pytest.raises(ImproperlyConfigured, match=r"'nowhere\.f'"):
        cache.make_key("k")


def test_what_can_be_imported_by_the_time_it_is_used_is_no_fault(monkeypatch):
    module = types.ModuleType("late_module")
    monkeypatch.setitem(sys.modules, "late_module", module)
    cache = new_cache(KEY_FUNCTION="late_module.make", REVERSE_KEY_FUNCTION="late_module.reverse")
    module.make, module.reverse = (lambda key, prefix, version: f"late-{key}"), str.upper
    assert cache.make_key("k") == "late-k"
    assert cache._setup.reverse is str.upper


def test_without_its_package_a_choice_names_the_cure(monkeypatch):
    monkeypatch.setattr(compression, "_has_zstd", lambda: False)
    assert refusal(options={"COMPRESSOR": "zstd"}).endswith(
        "zstd needs Python 3.14 or a package: pip install backports.zstd."
    )
    monkeypatch.setitem(sys.modules, "msgpack", None)
    assert "pip install msgpack" in refusal(options={"SERIALIZER": "msgpack"})


# LOCATION.


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (
            ["redis://a", "redis://b"],
            "CACHES['LOCATION'] names several servers: name one; the cache reads from where it writes.",
        ),
        (
            "redis://a;redis://b",
            "CACHES['LOCATION'] names several servers: name one; the cache reads from where it writes.",
        ),
        (
            f"valkey://:{SECRET}@h",
            "CACHES['LOCATION'] starts with valkey://: write redis://, which speaks to the same servers.",
        ),
        (
            f"valkeys://:{SECRET}@h",
            "CACHES['LOCATION'] starts with valkeys://: write rediss://, which speaks to the same servers.",
        ),
        ("a:1,b:2", "CACHES['LOCATION'] names several servers: name one; the cache reads from where it writes."),
        ("127.0.0.1:6379", "CACHES['LOCATION'] is an address, not a URL: put redis:// in front of it."),
        (
            "a b",
            "CACHES['LOCATION'] is 'a b': use an alias of REDIS_POOL, or a URL such as 'redis://localhost:6379/0'.",
        ),
        (5, "CACHES['LOCATION'] is 5: use an alias of REDIS_POOL, or a URL such as 'redis://localhost:6379/0'."),
        (
            f"rediss//:{SECRET}@h",
            "CACHES['LOCATION'] cannot be used: "
            "use an alias of REDIS_POOL, or a URL such as 'redis://localhost:6379/0'.",
        ),
        (
            f"http://:{SECRET}@h",
            "CACHES['LOCATION'] cannot be used: "
            "use a URL that starts with redis:// or rediss:// or unix:// or embedded://.",
        ),
    ],
    ids=str,
)
def test_a_location_that_cannot_be_meant_is_refused_in_one_line(location, message):
    assert refusal(location) == message


def test_an_alias_that_does_not_exist_is_named_at_first_use(settings):
    settings.REDIS_POOL = {"default": {}, "sessions": {}}
    with pytest.raises(ImproperlyConfigured, match="REDIS_POOL has no alias 'sesions': did you mean 'sessions'"):
        new_cache("sesions").get("k")


@pytest.mark.parametrize("location", ["", None, "default", ["default"], ("",)])
def test_nothing_is_the_default_pool(location):
    assert new_cache(location).manager is RedisConnectionManager()


def test_an_alias_is_that_pool(server, pools):
    pools(default={"CONNECTION_URL": "redis://unused"}, pages={"CONNECTION_URL": server.url})
    cache = new_cache("pages")
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.manager is RedisConnectionManager("pages")


def test_a_url_of_the_setting_is_that_pool(server, pools, url_pools):
    pools(
        default={"CONNECTION_URL": "redis://h:1/2", "PASSWORD": SECRET, "MAX_CONNECTIONS": 7},
        pages={"CONNECTION_URL": "redis://localhost"},
    )
    assert new_cache("redis://h:1/2").manager.alias == "default"
    assert new_cache("redis://H:1/2/", MAX_CONNECTIONS=7).manager.alias == "default"
    assert new_cache(f"redis://:{SECRET}@h:1/2?max_connections=7").manager.alias == "default"
    assert new_cache("redis://localhost:6379/0").manager.alias == "pages"
    for other in ("redis://h:1/3", "redis://h:2/2", "rediss://h:1/2", "redis://i:1/2", "redis://:other@h:1/2"):
        assert new_cache(other).manager.alias.startswith("cache-")
    assert new_cache("redis://h:1/2", MAX_CONNECTIONS=8).manager.alias.startswith("cache-")


def test_another_url_is_a_pool_of_its_own_that_its_caches_share(server, settings, pool_settings, url_pools):
    pool_settings("redis://unused")
    url = server.url.replace("/0", "/3")
    caches_of = [new_cache(url), new_cache(url + "/"), new_cache(url, KEY_PREFIX="b"), new_cache([url])]
    assert len({cache.manager for cache in caches_of}) == 1
    caches_of[0].set("k", 1)
    with server.client() as client:
        client.select(3)
        assert client.keys() == [b":1:k"]
    larger = new_cache(url, MAX_CONNECTIONS=3, SOCKET_TIMEOUT=0.7)
    assert larger.manager is not caches_of[0].manager
    assert (larger.manager._config.max_connections, larger.manager._config.socket_timeout) == (3, 0.7)
    assert larger.get("k") == 1


def test_the_pool_of_a_url_is_shown_wherever_pools_are(server, settings, pool_settings, url_pools, capsys):
    pool_settings(server.url)
    settings.CACHES = {
        "default": {"BACKEND": BACKEND},
        "same": {"BACKEND": BACKEND, "LOCATION": server.url},
        "pages": {"BACKEND": BACKEND, "LOCATION": f"redis://:{SECRET}@127.0.0.1:{server.port}/5"},
        "more": {"BACKEND": f"{__name__}.OwnCache", "LOCATION": "redis://h:1/1", "OPTIONS": {"DB": 1}},
        "wrong": {"BACKEND": BACKEND, "LOCATION": "redis://h:1/1", "OPTIONS": {"DB": -1}},
        "theirs": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://theirs"},
        "gone": {"BACKEND": "nowhere.Cache", "LOCATION": "redis://gone"},
    }
    aliases = ["default", f"cache-redis-127.0.0.1-{server.port}-5", "cache-redis-h-1-1"]
    assert get_aliases() == [manager.alias for manager in get_managers()] == aliases
    assert caches["pages"].manager.alias == aliases[1]
    assert get_config(aliases[1]).connection_url.endswith("/5")
    assert SECRET not in str(RedisConnectionManager(aliases[1]).get_pool_info())
    with pytest.raises(CommandError, match="2 of 3"):
        call_command("redis_health")
    shown = capsys.readouterr().out
    assert all(alias in shown for alias in aliases)
    assert SECRET not in shown


def test_a_project_with_nothing_but_a_cache_has_no_pool_that_nobody_uses(settings, url_pools):
    settings.REDIS_POOL = None
    settings.CACHES = {"default": {"BACKEND": BACKEND, "LOCATION": "redis://h:1/1"}}
    assert get_aliases() == ["cache-redis-h-1-1"]
    settings.CACHES = {**settings.CACHES, "more": {"BACKEND": BACKEND}}
    assert get_aliases() == ["default", "cache-redis-h-1-1"]
    assert get_config("default").where == "localhost:6379"


def test_pools_that_differ_in_what_an_alias_must_not_show_are_numbered_in_the_order_of_the_settings(
    settings, url_pools
):
    settings.REDIS_POOL = {}
    urls = {name: f"redis://{name}:{SECRET}@h:1/1" for name in "abc"}
    settings.CACHES = {name: {"BACKEND": BACKEND, "LOCATION": url} for name, url in urls.items()}
    assert caches["c"].manager.alias == "cache-redis-h-1-1-3"
    assert caches["a"].manager.alias == "cache-redis-h-1-1"
    assert get_config("cache-redis-h-1-1-2").connection_kwargs()["username"] == "b"


def test_a_cache_follows_when_the_setting_moves_its_pool(server, settings, pool_settings, url_pools):
    pool_settings(server.url)
    cache = new_cache(server.url)
    assert cache.manager.alias == "default"
    settings.REDIS_POOL = {"default": {"CONNECTION_URL": "redis://unused"}, "pages": {"CONNECTION_URL": server.url}}
    assert cache.manager.alias == "pages"


# System checks.


def found(settings, **entries):
    settings.CACHES = {name: {"BACKEND": BACKEND, **entry} for name, entry in entries.items()}
    return [message for message in run_checks(tags=[checks.TAG]) if message.id == "redispool_app.E005"]


def test_every_fault_of_every_cache_is_an_error_with_its_cure(settings, url_pools):
    settings.REDIS_POOL = {}
    messages = found(
        settings,
        default={"OPTIONS": {"SERIALIZER": "yaml", "COMPRESOR": "zlib"}},
        several={"LOCATION": ["redis://a", "redis://b"]},
        lost={"LOCATION": "defualt"},
        pool={"LOCATION": "redis://h", "OPTIONS": {"SOCKET_TIMEOUT": -1}},
        both={"LOCATION": "valkey://h", "OPTIONS": {"COMPRESSOR": "zlib", "COMPRESS_LEVEL": 12, "DB": -1}},
        more={"LOCATION": "defualt", "OPTIONS": {"TIMEOUT": 1}, "KEY_FUNCTION": "nowhere.f", "REVERSE_KEY_FUNCTION": 5},
        fine={"LOCATION": "redis://h", "OPTIONS": {"SOCKET_TIMEOUT": 1}},
    )
    assert all(message.level == ERROR for message in messages)
    assert [(message.msg, message.hint) for message in messages] == [
        (
            "CACHES['default']['OPTIONS']['SERIALIZER'] is 'yaml'.",
            "Use 'pickle' or 'json' or 'msgpack' or a dotted path.",
        ),
        ("CACHES['default']['OPTIONS'] has an unknown key 'COMPRESOR'.", "Did you mean 'COMPRESSOR'?"),
        ("CACHES['several']['LOCATION'] names several servers.", "Name one; the cache reads from where it writes."),
        ("CACHES['lost']['LOCATION'] names an unknown pool 'defualt'.", "Did you mean 'default'?"),
        (
            "CACHES['pool']['OPTIONS']['SOCKET_TIMEOUT'] is -1.",
            "Use a number of seconds above 0, at most 1000000.",
        ),
        ("CACHES['both']['LOCATION'] starts with valkey://.", "Write redis://, which speaks to the same servers."),
        ("CACHES['both']['OPTIONS'] cannot be used.", "COMPRESS_LEVEL of zlib must be from -1 to 9."),
        ("CACHES['both']['OPTIONS']['DB'] is -1.", "Use a whole number from 0 to 2147483647, or None."),
        ("CACHES['more']['KEY_FUNCTION'] is 'nowhere.f'.", "Use the dotted path of something that can be imported."),
        ("CACHES['more']['REVERSE_KEY_FUNCTION'] is 5.", "Use a function, its dotted path, or None."),
        (
            "CACHES['more']['OPTIONS'] has 'TIMEOUT', yet LOCATION names a pool of REDIS_POOL.",
            "Write it into REDIS_POOL, or give LOCATION a URL.",
        ),
        ("CACHES['more']['LOCATION'] names an unknown pool 'defualt'.", "Did you mean 'default'?"),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"OPTIONS": {"PICKLE_VERSION": 4}},
        {"OPTIONS": "json"},
        {"OPTIONS": {"SERIALIZER": "nowhere.Thing"}},
        {"OPTIONS": {"REVERSE_KEY_FUNCTION": "nowhere.f"}},
        {"KEY_FUNCTION": "nowhere.f"},
        {"REVERSE_KEY_FUNCTION": []},
        {"LOCATION": ["redis://a", "redis://b"]},
        {"LOCATION": {"a": 1}},
    ],
    ids=str,
)
def test_the_whole_check_command_ends_with_our_error_and_no_traceback(settings, url_pools, entry):
    settings.REDIS_POOL = {}
    settings.CACHES = {"default": {"BACKEND": BACKEND, **entry}}
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    assert str(caught.value).count("redispool_app.E005") == 1


def test_a_fault_of_the_pools_is_told_at_first_use_of_a_cache_with_a_url(settings, url_pools):
    settings.REDIS_POOL = {"no alias!": {}, "default": {}}
    cache = new_cache("redis://h:1/1")
    with pytest.raises(ImproperlyConfigured, match="an alias in REDIS_POOL"):
        cache.get("k")
    settings.REDIS_POOL = {}
    assert cache.manager.alias == "cache-redis-h-1-1"


def test_sound_caches_and_those_of_others_are_no_fault(settings, url_pools):
    settings.REDIS_POOL = {"default": {}, "pages": {}}
    assert found(settings, default={}, pages={"LOCATION": "pages"}, url={"LOCATION": "unix:///run/x.sock"}) == []
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"x": 1}}}
    assert run_checks(tags=[checks.TAG]) == []


def test_the_pool_of_a_cache_is_checked_before_deployment(settings, url_pools):
    settings.REDIS_POOL = {}
    settings.CACHES = {"default": {"BACKEND": BACKEND, "LOCATION": "redis://far.example/1"}}
    messages = run_checks(tags=[checks.TAG], include_deployment_checks=True)
    assert [(message.id, message.msg) for message in messages] == [
        (
            "redispool_app.W002",
            "CACHES: redis://far.example:6379/1: the connection to far.example:6379 is not encrypted.",
        )
    ]


def test_a_cache_reads_no_settings_when_it_is_made(settings):
    settings.REDIS_POOL = {"NONSENSE": object()}
    cache = new_cache()
    with pytest.raises(ImproperlyConfigured, match="NONSENSE"):
        cache.get("k")


@pytest.mark.parametrize("location", ["", "sessions", ["sessions"], ("redis://localhost:6379/1",)])
def test_options_are_read_once_for_all_instances(location):
    params = {"OPTIONS": {"PICKLE_PROTOCOL": pickle.HIGHEST_PROTOCOL}}
    others = {"OPTIONS": dict(params["OPTIONS"])}
    assert RedisPoolCache(location, params)._setup is RedisPoolCache(location, dict(params))._setup
    assert RedisPoolCache(location, params)._setup is not RedisPoolCache(location, others)._setup
