"""The check for django-health-check, through its own view and on its own."""

from __future__ import annotations

import asyncio
import datetime
import sys
import types

import pytest
from django.test import AsyncClient
from django.urls import path
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable
from health_check.views import HealthCheckView

from redispool_app.health_check import RedisPool

from .support.servers import free_port


def check(**kwargs):
    return asyncio.run(RedisPool(**kwargs).run())


@pytest.fixture
def checked(settings, monkeypatch):
    """The JSON of django-health-check's view with this app's check for these aliases."""

    def get(*aliases):
        view = HealthCheckView.as_view(
            checks=[("redispool_app.health_check.RedisPool", {"alias": alias}) for alias in aliases]
        )
        module = types.ModuleType("urls_of_the_test")
        module.urlpatterns = [path("check/", view)]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        settings.ROOT_URLCONF = module.__name__
        response = asyncio.run(AsyncClient().get("/check/", {"format": "json"}))
        return response.status_code, response.json()

    return get


def test_a_pool_that_answers_passes(manager, checked):
    assert checked("default") == (200, {"RedisPool(alias='default')": "OK"})


def test_it_asks_through_the_applications_own_pool(server, manager):
    async def twice():
        client = await manager.get_client()
        await client.get("k")
        before = server.connections(), server.calls("ping")
        await RedisPool().run()
        assert (server.connections(), server.calls("ping")) == (before[0], before[1] + 1)

    asyncio.run(twice())


def test_an_outage_is_named_by_its_kind_and_tells_no_address(server, pools, checked):
    gone = free_port()
    pools(default={"CONNECTION_URL": server.url}, gone={"CONNECTION_URL": f"redis://:s3cr3t@127.0.0.1:{gone}/0"})
    status, told = checked("default", "gone")
    assert status == 500
    assert told["RedisPool(alias='default')"] == "OK"
    assert told["RedisPool(alias='gone')"] == "Unavailable: Redis pool 'gone' is refused."
    assert "s3cr3t" not in str(told)
    assert str(gone) not in str(told)


def test_a_check_may_take_as_long_as_the_pool_s_own(pools):
    pools(default={"HEALTH_CHECK_TIMEOUT": 20.0}, sessions={"HEALTH_CHECK_TIMEOUT": 0.5})
    assert RedisPool().timeout.total_seconds() == 20
    assert RedisPool(alias="sessions").timeout.total_seconds() == 0.5
    assert RedisPool(alias="elsewhere").timeout.total_seconds() > 0


def test_a_server_that_answers_late_but_in_time_passes(own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(HealthCheck, "timeout", datetime.timedelta(seconds=-0.9))  # plus a second: cut after 0.1 s
    manager = pool_settings(own_server.url, HEALTH_CHECK_TIMEOUT=30.0, SOCKET_TIMEOUT=30.0)
    manager.get_sync_client().ping()
    own_server.pause()

    async def answered_late():
        asyncio.get_running_loop().call_later(0.4, own_server.resume)
        return await RedisPool().get_result()

    assert asyncio.run(answered_late()).error is None


def test_a_paused_pool_passes(manager, checked):
    manager.get_sync_client().ping()
    manager.pause(60)
    try:
        assert checked("default") == (200, {"RedisPool(alias='default')": "OK"})
    finally:
        manager.resume()


def test_a_closed_pool_is_unavailable(manager):
    manager.get_sync_client().ping()
    manager.close_sync()
    with pytest.raises(ServiceUnavailable, match="'default' is closed"):
        check()


def test_an_alias_that_is_not_configured_is_unavailable(manager):
    with pytest.raises(ServiceUnavailable, match="no alias 'elsewhere'"):
        check(alias="elsewhere")


@pytest.mark.parametrize("wrong", [5, {"MAX_CONECTIONS": 3}])
def test_wrong_settings_are_unavailable(pool_settings, settings, wrong):
    pool_settings("redis://unused")
    settings.REDIS_POOL = wrong
    with pytest.raises(ServiceUnavailable, match=r"manage\.py check"):
        check()
