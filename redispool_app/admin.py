"""The admin's status page: how each pool is doing in every worker, live, and buttons for users with the permission.

Works with any ``AdminSite``: ``site.register(RedisPool, RedisPoolAdmin)``. The page never fails because Redis does.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.text import capfirst
from django.views.decorators.http import require_POST, require_safe

from .conf.registry import get_aliases
from .models import RedisPool
from .redis_pool import RedisConnectionManager
from .status_page import document, stream, tables
from .status_page.actions import ACTIONS, PAUSE_SECONDS, PAUSE_SECONDS_MAX, Action, RefusedError, perform, seconds_of
from .status_page.document import Watch
from .status_page.strings import charts, strings
from .status_page.tables import STATES, Table
from .workers.snapshot import interval_of

if TYPE_CHECKING:
    Base = admin.ModelAdmin[RedisPool]
else:
    Base = admin.ModelAdmin


class PoolStatus:
    """What the page shows of one pool when it is opened; from then on its script does, from the same documents."""

    def __init__(self, watch: Watch, actions: dict[str, str]) -> None:
        self.actions = actions
        """The URLs of what this user may do, by the action's name with ``_`` for ``-``."""
        self.document = document.in_the_current_language(watch.document())
        self.info = {**watch.manager.get_pool_info(), **self.document["pool"]}
        self.server = self.document["server"]
        self.worker = self.document["worker"]
        self.server_rows = tables.server_rows(self.server)
        self.figures = tables.figures(self.document["workers"])
        self.workers = self._table(tables.WORKERS)
        self.timeline = self._table(tables.TIMELINE)
        self.slow_ours = self._table(tables.SLOW_OURS)
        self.slow_server = self._table(tables.SLOW_SERVER)
        self.clients = self._table(tables.CLIENTS)

    def _table(self, table: Table) -> tuple[Table, list[Any]]:
        rows = table.rows(self.document)
        # The newest change is what a person looks for.
        return table, rows[::-1] if table is tables.TIMELINE else rows

    @property
    def state(self) -> str:
        return "paused" if self.info.get("paused") else str(self.info["state"])

    @property
    def sign(self) -> str:
        return STATES[self.state][0]

    @property
    def label(self) -> str:
        return str(STATES[self.state][1])

    @property
    def since(self) -> datetime | None:
        return tables.moment(self.info.get("since"))

    @property
    def last_check(self) -> datetime | None:
        return tables.moment(self.info.get("last_health_check"))


@admin.register(RedisPool)
class RedisPoolAdmin(Base):
    """The list of pools is the status page; there is nothing to add, change or delete."""

    change_list_template = "admin/redispool_app/status.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        named = partial("{}_{}_{}".format, self.opts.app_label, self.opts.model_name)
        return [
            path("", view(self.changelist_view), name=named("changelist")),
            path("live/", view(self.live_view), name=named("live")),
            path("stream/", view(self.stream_view), name=named("stream")),
            *(
                path(
                    f"<str:alias>/{name}/", view(self.action_view), {"action": name}, name=named(name.replace("-", "_"))
                )
                for name in ACTIONS
            ),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RedisPool | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RedisPool | None = None) -> bool:
        return False

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show every configured pool."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        pools, problem = [], None
        try:
            watches = document.watches()
        except ImproperlyConfigured as error:
            problem = str(error)
        else:
            # Somebody who opens the page wants to know what is so now.
            document.refresh_all(watches, max_age=0.0)
            pools = [PoolStatus(watch, self._actions(request, watch.manager)) for watch in watches]
        streams = stream.can_stream(request)
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(str(self.opts.verbose_name_plural)),
            "opts": self.opts,
            "pools": pools,
            "problem": problem,
            "charts": charts(),
            "pause_seconds": PAUSE_SECONDS,
            "pause_seconds_max": PAUSE_SECONDS_MAX,
            "live": {
                "url": self._url("live"),
                "stream": self._url("stream") if streams else "",
                "interval": int(stream.INTERVAL * 1000),
                "strings": json.dumps(strings()),
                "states": json.dumps({name: [sign, str(label)] for name, (sign, label) in STATES.items()}),
                "time_zone": timezone.get_current_timezone_name(),
            },
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.change_list_template, context)

    @method_decorator(require_safe)
    def live_view(self, request: HttpRequest) -> HttpResponse:
        """Answer with the documents of all pools, as JSON."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return stream.poll_response(with_history="history" in request.GET)

    @method_decorator(require_safe)
    def stream_view(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a stream of the documents; under WSGI, where it would hold a thread, with 404."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if not stream.can_stream(request):
            raise Http404
        return stream.stream_response()

    @method_decorator(require_POST)
    def action_view(self, request: HttpRequest, alias: str, action: str) -> HttpResponse:
        """Do what a button says, write it to the admin's log, and go back to the page."""
        button = ACTIONS[action]
        if not button.allowed(request.user):
            raise PermissionDenied
        try:
            if alias not in get_aliases():
                raise Http404
            seconds = seconds_of(request) if button.takes_seconds else 0.0
            outcome = perform(button, RedisConnectionManager(alias), seconds)
        except (ImproperlyConfigured, RefusedError) as refusal:
            self.message_user(request, str(refusal), messages.ERROR)
        else:
            self.log_change(request, RedisPool(alias=alias), outcome.log or _logged(button, seconds))
            self.message_user(request, outcome.text, messages.SUCCESS if outcome.is_good else messages.ERROR)
        if self.has_view_permission(request):
            return HttpResponseRedirect(self._url("changelist"))
        return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))

    def _actions(self, request: HttpRequest, manager: RedisConnectionManager) -> dict[str, str]:
        if manager.get_pool_info()["state"] in ("closed", "misconfigured"):
            return {}
        is_heard = interval_of(manager) is not None
        names = [
            name.replace("-", "_")
            for name, action in ACTIONS.items()
            if action.allowed(request.user) and (is_heard or not action.is_order)
        ]
        return {name: self._url(name, manager.alias) for name in names}

    def _url(self, name: str, *args: str) -> str:
        full = f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}"
        return reverse(full, args=args, current_app=self.admin_site.name)


def _logged(button: Action, seconds: float) -> str:
    return f"{button.log} ({seconds:.0f} s)" if button.takes_seconds else button.log
