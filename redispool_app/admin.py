"""The admin's status page: how each pool of the process that answers is doing, and a button to reset it.

Works with any ``AdminSite``: ``site.register(RedisPool, RedisPoolAdmin)``. The page never fails because Redis does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe
from redis import exceptions as redis_exceptions

from . import server_facts
from .conf import get_aliases
from .engine.faults import classify
from .exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable
from .models import RedisPool
from .redis_pool import RedisConnectionManager, get_managers
from .server_facts import ServerFacts

if TYPE_CHECKING:
    Base = admin.ModelAdmin[RedisPool]
else:
    Base = admin.ModelAdmin

# A sign and a word for each state, so that colour is not the only difference.
_STATES = {
    "healthy": ("✓", gettext_lazy("Healthy")),
    "unhealthy": ("✕", gettext_lazy("Unhealthy")),
    "unknown": ("?", gettext_lazy("Not checked yet")),
    "closed": ("■", gettext_lazy("Closed")),
    "misconfigured": ("!", gettext_lazy("Misconfigured")),
}
_OWN_ERRORS = (RedisUnavailable, PoolClosed, PoolTimeout, PoolQueueFull)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStatus:
    """What the page shows of one pool. ``server`` is None when ``server_error`` says why."""

    info: dict[str, Any]
    server: ServerFacts | None
    server_error: str | None
    reset_url: str | None
    """None when this user may not, or this pool cannot, be reset."""

    @property
    def state(self) -> str:
        return str(self.info["state"])

    @property
    def sign(self) -> str:
        return _STATES[self.state][0]

    @property
    def label(self) -> str:
        return str(_STATES[self.state][1])

    @property
    def since(self) -> datetime | None:
        return _moment(self.info.get("since"))

    @property
    def last_check(self) -> datetime | None:
        return _moment(self.info.get("last_health_check"))

    @property
    def started(self) -> datetime | None:
        """When the server started."""
        if self.server is None or self.server.uptime is None:
            return None
        return _moment(datetime.now(UTC).timestamp() - self.server.uptime)

    @property
    def hit_percentage(self) -> float | None:
        if self.server is None or self.server.hit_rate is None:
            return None
        return self.server.hit_rate * 100


@admin.register(RedisPool)
class RedisPoolAdmin(Base):
    """The list of pools is the status page; there is nothing to add, change or delete."""

    change_list_template = "admin/redispool_app/status.html"

    def get_urls(self) -> list[URLPattern]:
        info = self.opts.app_label, self.opts.model_name
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="{}_{}_changelist".format(*info)),
            path("<str:alias>/reset/", view(self.reset_view), name="{}_{}_reset".format(*info)),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RedisPool | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RedisPool | None = None) -> bool:
        return False

    def has_reset_permission(self, request: HttpRequest) -> bool:
        codename = get_permission_codename("reset", self.opts)
        user: Any = request.user
        return bool(user.has_perm(f"{self.opts.app_label}.{codename}"))

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show every configured pool."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        pools, problem = [], None
        try:
            pools = list(self._pools(request))
        except ImproperlyConfigured as error:
            problem = str(error)
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(str(self.opts.verbose_name_plural)),
            "opts": self.opts,
            "pid": os.getpid(),
            "pools": pools,
            "problem": problem,
            "may_reset": self.has_reset_permission(request),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.change_list_template, context)

    @method_decorator(require_POST)
    def reset_view(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Drop this process's connections of one pool, connect anew, and go back to the page."""
        if not self.has_reset_permission(request):
            raise PermissionDenied
        try:
            if alias not in get_aliases():
                raise Http404
            error = self._reset(RedisConnectionManager(alias))
        except (ImproperlyConfigured, PoolClosed) as refusal:
            self.message_user(request, str(refusal), messages.ERROR)
        else:
            self.log_change(request, RedisPool(alias=alias), "Reset.")
            if error is None:
                text = _("The pool “%(alias)s” was reset, and Redis answers.") % {"alias": alias}
                self.message_user(request, text, messages.SUCCESS)
            else:
                text = _("The pool “%(alias)s” was reset, but Redis cannot be used: %(fault)s")
                self.message_user(request, text % {"alias": alias, "fault": error}, messages.ERROR)
        name = "redispool_app_redispool_changelist" if self.has_view_permission(request) else "index"
        return HttpResponseRedirect(self._url(name))

    def _reset(self, manager: RedisConnectionManager) -> RedisUnavailable | None:
        """Reset; return why Redis cannot be used afterwards. Raises what says that nothing was reset."""
        try:
            manager.reset_sync()
        except RedisUnavailable as error:
            return error
        return None

    def _pools(self, request: HttpRequest) -> Iterator[PoolStatus]:
        managers = get_managers()
        may_reset = self.has_reset_permission(request)
        # Side by side, so that several servers that hang cost no more time than one.
        with ThreadPoolExecutor(max_workers=max(1, len(managers))) as executor:
            answers = list(executor.map(_ask, managers))
        for manager, (server, server_error) in zip(managers, answers, strict=True):
            info = manager.get_pool_info()
            can_reset = may_reset and info["state"] not in ("closed", "misconfigured")
            reset_url = self._url("redispool_app_redispool_reset", manager.alias) if can_reset else None
            yield PoolStatus(info=info, server=server, server_error=server_error, reset_url=reset_url)

    def _url(self, name: str, *args: str) -> str:
        return reverse(f"admin:{name}", args=args, current_app=self.admin_site.name)


def _ask(manager: RedisConnectionManager) -> tuple[ServerFacts | None, str | None]:
    """Return the server's facts, or one line that says why there are none."""
    try:
        return server_facts.fetch(manager), None
    except (*_OWN_ERRORS, ImproperlyConfigured) as error:
        return None, str(error)
    except (redis_exceptions.RedisError, OSError) as error:
        return None, classify(error, manager._config.where).message


def _moment(timestamp: float | None) -> datetime | None:
    if timestamp is None:
        return None
    try:
        return datetime.fromtimestamp(timestamp, UTC if settings.USE_TZ else None)
    except (OSError, OverflowError, ValueError):
        return None  # a server's own idea of its age
