"""The model that gives the admin's status page its place and its permissions. It has no table and no rows."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class NoRows(models.Manager["RedisPool"]):
    """Always empty, without a query, so that ``dumpdata`` and its like find nothing instead of failing."""

    def get_queryset(self) -> models.QuerySet[RedisPool]:
        return super().get_queryset().none()


class RedisPool(models.Model):
    """One pool of ``settings.REDIS_POOL``, by its alias."""

    alias = models.CharField(_("alias"), max_length=64, primary_key=True)

    objects = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = [
            ("check_redispool", "Can have Redis pools checked at once"),
            ("reset_redispool", "Can reset Redis pools"),
            ("pause_redispool", "Can pause and resume Redis pools"),
            # A scope: a user with it who may reset or pause may do so in every worker.
            ("order_redispool", "Can give orders to the Redis pools of all workers"),
        ]
        verbose_name = _("Redis pool")
        verbose_name_plural = _("Redis pools")

    def __str__(self) -> str:
        return self.alias
