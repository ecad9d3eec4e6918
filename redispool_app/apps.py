"""The app: builds the singleton, sets the hooks. No I/O, and nothing that belongs to an event loop."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.utils.translation import gettext_lazy as _


class RedisPoolAppConfig(AppConfig):
    name = "redispool_app"
    label = "redispool_app"
    verbose_name = _("Redis")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401 (registers them)
        from .redis_pool import RedisConnectionManager

        RedisConnectionManager()
        self._publish()
        self._export_metrics()
        setting_changed.connect(_on_setting_changed, dispatch_uid="redispool_app")

    @staticmethod
    def _publish() -> None:
        from . import redis_pool
        from .workers import publisher

        for hooks, hook in (
            (redis_pool.on_pool_built, publisher.ensure),
            (redis_pool.on_connection_opened, publisher.opened),
            (redis_pool.on_settings_reloaded, publisher.forget),
        ):
            if hook not in hooks:
                hooks.append(hook)

    @staticmethod
    def _export_metrics() -> None:
        if find_spec("prometheus_client") is None:
            return
        from .engine.topology import standalone
        from .metrics import multiprocess, prometheus

        prometheus.register()
        if multiprocess.serve not in standalone.on_client_built:
            standalone.on_client_built.append(multiprocess.serve)


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("REDIS_POOL", "BASE_DIR"):
        from .redis_pool import reload_all_settings

        reload_all_settings()
