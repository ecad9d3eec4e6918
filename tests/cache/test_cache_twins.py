"""The whole cache API on Django's Redis backend and on ours: the same answers, errors, warnings, keys and lifetimes."""

from __future__ import annotations

import inspect
import threading

import django
import pytest
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache

from redispool_app.cache import RedisPoolCache
from tests.support.cache_table import APART, SAME
from tests.support.twin_caches import Call, case, do, ours, outcome, result, theirs
from tests.support.twin_clients import described

pytestmark = pytest.mark.usefixtures("manager")

DJANGO_STRAYS = django.VERSION < (6, 1)
"""Until then Django made each async method of others; since, it runs the sync one in a thread."""


_of_django = {}


async def of_django(server, each):
    """What comes of a case on Django's backend, called synchronously; asked once for all tests that compare with it."""
    if each.name not in _of_django:
        _of_django[each.name] = await result(theirs, server, each, False)
    return _of_django[each.name]


def test_every_case_has_a_name_of_its_own():
    names = [each.name for each in (*SAME, *APART)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("each", SAME, ids=str)
async def test_a_sync_call_does_what_it_does_on_djangos_backend(server, each):
    assert await result(ours, server, each, False) == await of_django(server, each)


@pytest.mark.parametrize("each", [each for each in SAME if not each.sync_only], ids=str)
async def test_an_async_call_does_the_same_even_where_djangos_own_strays_from_its_sync_twin(server, each):
    expected = await of_django(server, each)
    assert await result(ours, server, each, True) == expected
    if not each.strays:
        assert await result(theirs, server, each, True) == expected
    elif DJANGO_STRAYS:
        assert await result(theirs, server, each, True) != expected


@pytest.mark.parametrize("each", APART, ids=str)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_where_ours_differs_from_djangos_backend_on_purpose(server, each, is_async):
    expected = await of_django(server, each)
    found = await result(ours, server, each, is_async)
    assert found != expected, "no longer a difference: the case belongs to SAME"
    assert found.answers[-1] == (described(each.ours), [])
    if each.lifetimes is not None:
        assert {key: lifetime for key, (_, lifetime) in found.keys.items()} == each.lifetimes


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_set_many_stores_nothing_with_a_timeout_that_the_server_refuses_where_djangos_stores_for_ever(
    server, is_async
):
    refused = case("refused", do("set_many", {"a": 1, "b": "2"}, 10**18))
    stored = await result(theirs, server, refused, False)
    assert {lifetime for _, lifetime in stored.keys.values()} == {None}
    found = await result(ours, server, refused, is_async)
    assert found.keys == {}
    [(failure, _)] = found.answers
    assert failure.kind == "redis.exceptions.ResponseError"
    assert "invalid expire time" in failure.text


METHODS = sorted(name for name in dir(RedisCache) if not name.startswith("_") and callable(getattr(RedisCache, name)))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_the_same_arguments(name):
    theirs = inspect.signature(getattr(RedisCache, name)).parameters.values()
    ours = inspect.signature(getattr(RedisPoolCache, name)).parameters.values()
    same = [(each.name, each.kind, each.default) for each in theirs]
    assert [(each.name, each.kind, each.default) for each in ours][: len(same)] == same
    assert inspect.iscoroutinefunction(getattr(RedisPoolCache, name)) is inspect.iscoroutinefunction(
        getattr(RedisCache, name)
    )


def test_the_table_calls_every_method_of_the_cache_api():
    called = {step.name for each in (*SAME, *APART) for step in each.steps if isinstance(step, Call)}
    assert {name for name in METHODS if f"a{name}" in METHODS} <= called
    assert len(SAME) > 150


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("a") and name != "add"])
def test_no_async_method_is_djangos_own_which_runs_in_a_thread(name):
    assert getattr(RedisPoolCache, name) is not getattr(BaseCache, name)


async def test_no_async_call_needs_a_thread(server, monkeypatch):
    handed_over = []
    monkeypatch.setattr(
        "asgiref.sync.SyncToAsync.__call__", lambda self, *args, **kwargs: handed_over.append(self.func)
    )
    cache = ours(server)
    before = set(threading.enumerate())
    for each in SAME:
        for step in each.steps:
            if isinstance(step, Call) and not each.sync_only:
                await outcome(cache, step, True)
    assert handed_over == []
    assert set(threading.enumerate()) <= before
