"""What the live page's script says, and the charts it draws, in the current language."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _


def strings() -> dict[str, str]:
    """Return every text of the script by its name; ``%(…)s`` is filled in by the script."""
    return {
        "live": _("Live"),
        "polling": _("Live, every %(n)s s"),
        "hidden": _("Stopped while this tab is hidden"),
        "reconnecting": _("No answer from the site: trying again in %(n)s s"),
        "back": _("The site answers again."),
        "signed_out": _("Your session has ended: reload the page to log in again."),
        "forbidden": _("You may not see this page any more: your permission was withdrawn."),
        "connecting": _("Connecting"),
        "all_workers": _("All workers"),
        "this_worker": _("This worker"),
        "now": _("%(pool)s is now: %(state)s"),
        "none": _("none"),
        "the_above": _("the above"),
        "never": _("never"),
        "seconds": _("%(n)s s"),
        "minutes": _("%(n)s min"),
        "hours": _("%(n)s h"),
        "days": _("%(n)s d"),
        "paused_for": _("Paused: callers wait for at most %(n)s s more."),
        "of": _("of %(max)s"),
        "no_limit": _("no limit"),
        "only_own": _("While Redis cannot be asked, only the worker that answers is up to date."),
        "not_asked": _("Cannot be asked while the pool is unhealthy."),
        "shown_of": _("%(shown)s of %(total)s"),
    }


def charts() -> list[dict[str, Any]]:
    """Return the charts: name, title, kind of number, and the lines as ``key:label``."""
    return [
        _chart("ops", _("Commands per second"), "rate", ops=_("Ops/s")),
        _chart("latency", _("Latency"), "ms", p99=_("p99"), p50=_("p50")),
        _chart("flight", _("In flight"), "number", in_flight=_("In flight"), waiting=_("Waiting")),
        _chart(
            "trouble",
            _("Trouble per minute"),
            "rate",
            errors=_("Errors"),
            timeouts=_("Timeouts"),
            reconnects=_("Reconnects"),
        ),
        _chart("memory", _("Memory of the server"), "bytes", memory=_("Memory")),
        _chart("clients", _("Clients of the server"), "number", clients=_("Clients")),
    ]


def _chart(name: str, title: str, kind: str, **lines: str) -> dict[str, Any]:
    return {"name": name, "title": title, "kind": kind, "lines": list(lines.items())}
