"""docs/switching.md says what the other backends and this one do, and forgets none of their options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.cache.backends.base import CacheKeyWarning

from project import settings as demo
from redispool_app.conf import KEYS
from redispool_app.conf.cache_options import NAMES, find_problems
from redispool_app.exceptions import RedisUnavailable
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.servers import RedisServer
from tests.support.twin_caches import close, django_redis, django_valkey, ours, ours_with, theirs

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "switching.md").read_text()
NAMED = set(re.findall(r"[A-Z][A-Z_]+[A-Z*]", " ".join(re.findall(r"`([^`]*)`", GUIDE))))
PoolSettings = Callable[..., RedisConnectionManager]
OPTION = re.compile(
    r"""(?:options|params|_options)\.get\(\s*["']([A-Z_]+)["']|["']((?:DJANGO|CACHE|COMPRESS)_[A-Z_]+)["']"""
)


def sources(package: str) -> Iterator[tuple[Path, str]]:
    for path in Path(find_spec(package).origin).parent.rglob("*.py"):
        yield path, path.read_text()


def options_of(package: str) -> set[str]:
    """The options, and global settings, that a backend's source asks for."""
    return {name for _, text in sources(package) for pair in OPTION.findall(text) for name in pair if name}


def is_named(name: str) -> bool:
    """Whether the guide has it, by itself or as one of a family."""
    return name in NAMED or any(each.endswith("*") and name.startswith(each[:-1]) for each in NAMED)


@pytest.mark.parametrize("package", ["django_redis", "django_valkey"])
def test_every_option_of_the_others_is_in_a_table(package: str) -> None:
    options = options_of(package)
    assert len(options) > 15
    # The guide has django-redis's settings once for both; decompression goes with compression.
    said = {name.replace("DJANGO_VALKEY", "DJANGO_REDIS") for name in options}
    # A parser class by another name, in one place of django-valkey; families that the guide calls kin.
    kin = {"PARSER_CLS"} | {name for name in said if name.startswith(("COMPRESS_BROTLI", "COMPRESS_LZ"))}
    assert {name for name in said - kin if not is_named(name)} == set()


def test_every_option_of_ours_that_the_guide_names_exists() -> None:
    theirs = options_of("django_redis") | options_of("django_valkey")
    rows = [line for line in GUIDE.splitlines() if line.startswith("| ")]
    here = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+[A-Z])`", row.split(" | ", 1)[-1])}
    others = {"BACKEND", "LOCATION", "OPTIONS", "CACHES", "REDIS_POOL", "KEY_PREFIX", "KEY_FUNCTION", "VERSION"}
    assert {"COMPRESS_MIN_SIZE", "PICKLE_PROTOCOL", "STALE_TIMEOUT", "LOG_IGNORED_EXCEPTIONS"} <= here & set(NAMES)
    assert here - theirs - set(NAMES) - set(KEYS) - others <= {"VALKEY", "REDIS"}


@pytest.mark.parametrize("package", ["django_redis", "django_valkey"])
def test_every_option_of_the_others_that_is_none_of_ours_is_refused_with_what_to_do_instead(package: str) -> None:
    options = {name for name in options_of(package) if not name.startswith("DJANGO_")} - {"OPTIONS"}
    cures = {
        name: problem.cure
        for name in options - set(NAMES) - set(KEYS)
        for problem in find_problems({"OPTIONS": {name: None}}, "CACHES")
    }
    assert len(cures) > 10
    assert {name for name, cure in cures.items() if cure == "remove it."} == set()
    # What only looks alike is no answer.
    meant = {cure.split("'")[1] for cure in cures.values() if cure.startswith("did you mean")}
    assert meant <= {"COMPRESS_LEVEL", "COMPRESS_MIN_SIZE", "LOG_IGNORED_EXCEPTIONS"}


def stored(cache: Any) -> Any:
    return cache.set("k", 1)


def stored_for_half_a_second(cache: Any) -> Any:
    cache.set("k", 1, 0.5)
    return cache.has_key("k")


def deleted(cache: Any) -> Any:
    cache.set("k", 1)
    return cache.delete_many(["k", "missing"])


def stored_many(cache: Any) -> Any:
    return cache.set_many({"k": 1})


def counted_up_from_one_and_a_half(cache: Any) -> Any:
    cache.set("k", 1.5)
    return cache.incr("k")


def moved_none(cache: Any) -> Any:
    cache.set("k", None)
    return cache.incr_version("k")


def lifetime_after_a_move(cache: Any) -> Any:
    cache.set("k", 1, 50)
    cache.incr_version("k")
    return cache.pttl("k", version=2) <= 50_000


def created_by_counting(cache: Any) -> Any:
    return cache.incr("k", ignore_key_check=True)


def created_by_the_recipe_for_that(cache: Any) -> Any:
    cache.add("k", 0, None)
    return cache.incr("k"), cache.ttl("k")


def outcome(call: Callable[[Any], Any], cache: Any) -> Any:
    try:
        return call(cache)
    except Exception as error:
        return type(error)


@pytest.mark.usefixtures("manager")
@pytest.mark.parametrize("kind", [django_redis, django_valkey])
@pytest.mark.parametrize(
    ("call", "there", "here"),
    [
        (stored, True, None),
        (stored_for_half_a_second, True, False),
        (deleted, 1, None),
        (stored_many, None, []),
        (counted_up_from_one_and_a_half, 2.5, ValueError),
        (moved_none, ValueError, 2),
        (lifetime_after_a_move, True, True),
        (created_by_counting, 1, TypeError),
        (created_by_the_recipe_for_that, (1, None), (1, None)),
    ],
)
def test_what_behaves_differently_is_as_the_guide_says(
    server: RedisServer, kind: Callable[..., Any], call: Callable[[Any], Any], there: Any, here: Any
) -> None:
    other = kind(server)
    found = outcome(call, other)
    close(other)
    assert found == there
    with server.client() as client:
        client.flushall()
    assert outcome(call, ours(server)) == here


@pytest.mark.usefixtures("manager")
@pytest.mark.parametrize("kind", [django_redis, django_valkey])
@pytest.mark.parametrize("key", ["two words", "k" * 251])
def test_only_ours_warns_about_keys_as_django_does(server: RedisServer, kind: Callable[..., Any], key: str) -> None:
    other = kind(server)
    other.set(key, 1)
    close(other)
    with pytest.warns(CacheKeyWarning):
        assert ours(server).get(key) == 1


@pytest.mark.parametrize(("kind", "answer"), [(django_redis, None), (django_valkey, True), (ours, True)])
def test_clear_answers_as_the_guide_says(
    server: RedisServer, manager: RedisConnectionManager, kind: Callable[..., Any], answer: Any
) -> None:
    cache = kind(server)
    assert cache.clear() is answer
    close(cache)


@pytest.mark.parametrize("kind", [theirs, django_redis, django_valkey])
def test_clear_of_the_others_empties_the_database_and_ours_does_so_only_when_asked(
    server: RedisServer, manager: RedisConnectionManager, kind: Callable[..., Any]
) -> None:
    with server.client() as client:
        for cache, left in [(ours(server), 1), (ours_with(server, CLEAR_FLUSHES_DB=True), 0), (kind(server), 0)]:
            client.set("another's", 1)
            cache.set("k", 1)
            cache.clear()
            assert client.dbsize() == left
    close(cache)


def test_an_ignored_outage_looks_like_an_empty_cache_but_locks_are_never_pretended(
    own_server: RedisServer, pool_settings: PoolSettings
) -> None:
    pool_settings(own_server.url)
    cache = ours_with(own_server, IGNORE_EXCEPTIONS=True, LOG_IGNORED_EXCEPTIONS=False)
    cache.set("k", 1)
    own_server.kill()
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k"]) == {}
    assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
    assert cache.get_or_set("k", lambda: "computed") == "computed"
    with pytest.raises(ValueError, match="not found"):
        cache.incr("k")
    with pytest.raises(RedisUnavailable):
        cache.lock("k").acquire()
    with pytest.raises(RedisUnavailable):
        ours(own_server).get("k")


def test_the_demo_keeps_its_sessions_as_the_guide_says() -> None:
    assert "the demo project has it on" in GUIDE
    assert demo.SESSION_ENGINE.endswith(".cached_db")
    assert demo.SESSION_CACHE_ALIAS != "default"
    assert demo.CACHES[demo.SESSION_CACHE_ALIAS]["OPTIONS"]["IGNORE_EXCEPTIONS"] is True
