"""What the app does when Django starts: hooks and a singleton, and nothing that costs or binds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def start_django(body, **environment):
    """Run ``body`` in a process of its own right after ``django.setup()``; return what it prints."""
    source = """
        import asyncio, os, sys, threading
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        before = set(os.listdir("/proc/self/fd"))
        hooks = []
        os.register_at_fork = lambda **kwargs: hooks.append(kwargs)
        import django
        from django.conf import settings
        settings.REDIS_POOL = {"CONNECTION_URL": "redis://192.0.2.1:6379"}
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source) + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_starting_opens_nothing_and_binds_nothing():
    body = """
        import socket
        def refuse(*args): raise AssertionError("a socket was made")
        socket.socket.connect = refuse
        django.setup()
        from redispool_app.redis_pool import redis_connection_manager as manager
        assert threading.active_count() == 1
        assert asyncio._get_running_loop() is None
        assert manager._pool_set is None, "not even the settings were read"
        print(manager)
    """
    assert start_django(body) == "<RedisConnectionManager 'default': unused>\n"


def test_wrong_settings_do_not_keep_django_from_starting():
    body = """
        settings.REDIS_POOL = {"NONSENSE": object()}
        django.setup()
        print("started")
    """
    assert start_django(body) == "started\n"


def test_starting_builds_the_singleton_and_sets_every_hook_once():
    body = """
        django.setup()
        from django.apps import apps
        from django.core.checks.registry import registry
        from django.core.signals import setting_changed
        from redispool_app import redis_pool
        from redispool_app.engine.runtime import fork
        receivers = len(setting_changed.receivers)
        apps.get_app_config("redispool_app").ready()
        assert len(setting_changed.receivers) == receivers
        ours = [hook for hook in hooks if hook.get("after_in_child") is fork._after_fork_in_child]
        assert len(ours) == 1
        assert not any("redispool_app" in repr(hook) for hook in hooks if hook not in ours)
        assert list(redis_pool.RedisConnectionManager._instances.values()) == [redis_pool.redis_connection_manager]
        print(sorted({check.__name__ for check in registry.get_checks() if "redispool" in check.__module__}))
    """
    assert start_django(body) == "['check_compatibility', 'check_middleware', 'check_settings']\n"
