"""The buttons of the status page: what each does, who may press it, and what is said and logged afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import classify
from redispool_app.exceptions import PoolClosed, RedisUnavailable
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.workers import orders

PAUSE_SECONDS = 30
PAUSE_SECONDS_MAX = 300


class RefusedError(Exception):
    """Nothing was done; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, as one sentence; ``is_good`` is False when something still needs attention."""

    text: str
    is_good: bool = True
    log: str | None = None
    """What the admin's log says, if that is not what the button's own ``log`` says."""


@dataclass(frozen=True, slots=True)
class Action:
    """One button. ``permissions`` are verbs of the model's permissions, all of which it takes."""

    name: str
    label: Promise
    permissions: tuple[str, ...]
    log: str
    """What the admin's log says, in English: it is stored, and shown to readers of every language."""
    run: Callable[[RedisConnectionManager, float], Outcome]
    takes_seconds: bool = False

    @property
    def is_order(self) -> bool:
        """Whether it concerns every worker, which only those that publish hear of."""
        return "order" in self.permissions

    def allowed(self, user: Any) -> bool:
        return all(user.has_perm(f"redispool_app.{verb}_redispool") for verb in self.permissions)


def seconds_of(request: HttpRequest) -> float:
    """Return the ``seconds`` of a form, ``PAUSE_SECONDS`` without one. Raises ``RefusedError``."""
    text = request.POST.get("seconds", "").strip() or str(PAUSE_SECONDS)
    digits = text.lstrip("0")
    # Not before its length is known: int() refuses thousands of digits with an error of its own.
    fits = text.isascii() and text.isdigit() and len(digits) <= len(str(PAUSE_SECONDS_MAX))
    if not (fits and 1 <= int(digits or 0) <= PAUSE_SECONDS_MAX):
        raise RefusedError(_("Pause for a whole number of seconds, from 1 to %(max)s.") % {"max": PAUSE_SECONDS_MAX})
    return float(digits)


def perform(action: Action, manager: RedisConnectionManager, seconds: float) -> Outcome:
    """Do it. Raises ``RefusedError`` when nothing was done; an outage is an outcome or a refusal, never more."""
    try:
        return action.run(manager, seconds)
    except (ImproperlyConfigured, PoolClosed) as error:
        raise RefusedError(str(error)) from error
    except (redis_exceptions.RedisError, OSError) as error:
        raise RefusedError(_("The workers cannot be reached: %(fault)s") % _fault(manager, error)) from error


def _fault(manager: RedisConnectionManager, error: Exception) -> dict[str, str]:
    return {"fault": classify(error, manager.config.where).message}


def _check(manager: RedisConnectionManager, seconds: float) -> Outcome:
    if manager.get_pool_info()["state"] == "closed":
        raise PoolClosed(_("The manager was closed: call initialize() to open it again."))
    healthy = manager.check_sync()
    info = manager.get_pool_info()
    names = {"alias": manager.alias, "fault": info.get("fault") or "", "ms": info.get("latency_ms")}
    if healthy:
        return Outcome(_("Redis answered the pool “%(alias)s” in %(ms)s ms.") % names)
    return Outcome(_("Redis did not answer the pool “%(alias)s”: %(fault)s") % names, is_good=False)


def _reset(manager: RedisConnectionManager, seconds: float) -> Outcome:
    names: dict[str, Any] = {"alias": manager.alias}
    try:
        manager.reset_sync()
    except RedisUnavailable as error:
        names["fault"] = error
        text = _("The pool “%(alias)s” was reset, but Redis cannot be used: %(fault)s") % names
        return Outcome(text, is_good=False)
    return Outcome(_("The pool “%(alias)s” was reset, and Redis answers.") % names)


def _interval(manager: RedisConnectionManager) -> float:
    """Return the seconds within which every worker hears of an order. Raises ``RefusedError`` if none does."""
    interval = manager.config.publish_interval
    if interval is None:
        raise RefusedError(_("Publishing is switched off (PUBLISH_INTERVAL), so no worker would hear of this."))
    return interval


def _order(manager: RedisConnectionManager, action: orders.Action, seconds: float | None = None) -> dict[str, Any]:
    """Send an order, and return what its message names."""
    interval = _interval(manager)
    orders.send(manager, action, seconds)
    return {"alias": manager.alias, "interval": f"{interval:g}"}


def _reset_all(manager: RedisConnectionManager, seconds: float) -> Outcome:
    names = _order(manager, "reset")
    return Outcome(_("All workers reset the pool “%(alias)s” within %(interval)s s.") % names)


def _pause(manager: RedisConnectionManager, seconds: float) -> Outcome:
    manager.pause(seconds)
    names = {"alias": manager.alias, "seconds": f"{seconds:.0f}"}
    return Outcome(_("The pool “%(alias)s” of this worker is paused for at most %(seconds)s s.") % names)


def _pause_all(manager: RedisConnectionManager, seconds: float) -> Outcome:
    names = {**_order(manager, "pause", seconds), "seconds": f"{seconds:.0f}"}
    return Outcome(_("All workers pause the pool “%(alias)s” within %(interval)s s, for %(seconds)s s.") % names)


def _resume(manager: RedisConnectionManager, seconds: float) -> Outcome:
    manager.resume()
    return Outcome(_("The pool “%(alias)s” of this worker goes on.") % {"alias": manager.alias})


def _resume_all(manager: RedisConnectionManager, seconds: float) -> Outcome:
    _interval(manager)
    # First here: the order itself would wait for the end of this worker's pause.
    manager.resume()
    try:
        names = _order(manager, "resume")
    except PoolClosed:
        raise
    except (redis_exceptions.RedisError, OSError) as error:
        text = _("This worker goes on; the others cannot be reached: %(fault)s") % _fault(manager, error)
        return Outcome(text, is_good=False, log="Resumed in this worker; the others could not be reached.")
    return Outcome(_("All workers go on with the pool “%(alias)s” within %(interval)s s.") % names)


ACTIONS = {
    action.name: action
    for action in (
        Action("check", gettext_lazy("Check now"), ("check",), "Checked.", _check),
        Action("reset", gettext_lazy("Reset this worker"), ("reset",), "Reset.", _reset),
        Action(
            "reset-all",
            gettext_lazy("Reset all workers"),
            ("reset", "order"),
            "Reset in all workers.",
            _reset_all,
        ),
        Action("pause", gettext_lazy("Pause this worker"), ("pause",), "Paused.", _pause, True),
        Action(
            "pause-all",
            gettext_lazy("Pause all workers"),
            ("pause", "order"),
            "Paused in all workers.",
            _pause_all,
            True,
        ),
        Action("resume", gettext_lazy("Resume this worker"), ("pause",), "Resumed.", _resume),
        Action(
            "resume-all",
            gettext_lazy("Resume all workers"),
            ("pause", "order"),
            "Resumed in all workers.",
            _resume_all,
        ),
    )
}
