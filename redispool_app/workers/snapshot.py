"""What one worker says about one pool: a compact, JSON-ready dict, and how such a dict is read back from Redis.

Rates and percentiles are those of the last interval: differences of the pool's totals between two ticks.
"""

from __future__ import annotations

import json
import math
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from redispool_app import __version__
from redispool_app.engine.runtime import process

if TYPE_CHECKING:
    from redispool_app.redis_pool import RedisConnectionManager

__all__ = ["dump", "load", "take", "tick"]

_TEXT = ("id", "host", "role", "app", "version", "alias", "state")
_OPTIONAL_TEXT = ("last_error", "last_error_kind", "obeyed")
_WHOLE = (
    "pid",
    "loops",
    "connections_open",
    "connections_in_use",
    "commands_in_flight",
    "waiting",
    "timeouts_total",
    "reconnects_total",
    "errors_total",
)
_NUMBERS = ("started", "at", "interval")
_OPTIONAL_NUMBERS = ("ops_per_second", "latency_p50_ms", "latency_p99_ms")
_LONGEST_TEXT = 300
_LARGEST = 64 * 1024

Histogram = Sequence[tuple[float, int]]


@dataclass(slots=True)
class _Rates:
    """Of one pool, in its last interval; None until there has been one."""

    at: float = 0.0
    commands: int = 0
    histogram: Histogram = ()
    ops_per_second: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    obeyed: str | None = None
    own_commands: int = 0
    """Commands of the publishing itself since the last tick: they are no traffic of the site's."""

    def advance(self, commands: int, histogram: Histogram, now: float, least: float) -> None:
        if self.at and commands >= self.commands and now - self.at < least:
            return  # too short a time to tell a rate
        own, self.own_commands = self.own_commands, 0
        # Totals that went back belong to another pool: the settings were read again, or the process forked.
        if self.at and commands >= self.commands and now > self.at:
            done = max(0, commands - self.commands - own)
            self.ops_per_second = round(done / (now - self.at), 1)
            self.latency_p50, self.latency_p99 = percentiles(self.histogram, histogram, (0.5, 0.99))
        self.at, self.commands, self.histogram = now, commands, histogram


_rates: weakref.WeakKeyDictionary[Any, _Rates] = weakref.WeakKeyDictionary()


def rates_of(manager: RedisConnectionManager) -> _Rates:
    """Return what is remembered of a manager's last interval."""
    return _rates.setdefault(manager, _Rates())


def forget(manager: RedisConnectionManager) -> None:
    """Begin again: its totals are going to be those of another pool."""
    _rates.pop(manager, None)


def forget_all() -> None:
    """In a forked child all totals begin at zero."""
    global _rates
    _rates = weakref.WeakKeyDictionary()


def take(manager: RedisConnectionManager) -> dict[str, Any]:
    """Return what this process says about one pool now. No I/O, never raises.

    Times: ``started`` and ``at`` are Unix times of this host's clock, ``*_ms`` milliseconds, ``interval`` the
    seconds between two publications (0 when there are none). ``ops_per_second`` and the percentiles are of the last
    interval, None before the first has passed. ``timeouts_total`` counts commands and connections that timed out.
    """
    return _take(manager, manager.get_pool_info())


def tick(manager: RedisConnectionManager, least: float = 0.0) -> dict[str, Any]:
    """The same, after an interval of ``least`` seconds or more: rates are counted again from here on.

    For the publisher only.
    """
    info = manager.get_pool_info()
    if "commands_total" in info:
        histogram, _ = manager.latency_histogram()
        rates_of(manager).advance(info["commands_total"], histogram, monotonic(), least)
    return _take(manager, info)


def _take(manager: RedisConnectionManager, info: dict[str, Any]) -> dict[str, Any]:
    rates = rates_of(manager)
    host = process.host()
    return {
        "id": f"{host}:{os.getpid()}",
        "host": host,
        "pid": os.getpid(),
        "role": process.role(),
        "app": _app(info),
        "version": __version__,
        "alias": manager.alias,
        "started": round(process.started(), 3),
        "at": round(time.time(), 3),
        "interval": interval_of(manager) or 0.0,
        "state": info["state"],
        "loops": info.get("loops", 0),
        "connections_open": info.get("connections_open", 0),
        "connections_in_use": info.get("connections_in_use", 0),
        "commands_in_flight": info.get("commands_in_flight", 0),
        "waiting": info.get("waiting", 0),
        "ops_per_second": rates.ops_per_second,
        "latency_p50_ms": _milliseconds(rates.latency_p50),
        "latency_p99_ms": _milliseconds(rates.latency_p99),
        "timeouts_total": info.get("command_timeouts_total", 0) + info.get("timeouts_total", 0),
        "reconnects_total": info.get("reconnects_total", 0),
        "errors_total": info.get("errors_total", 0),
        "last_error": info.get("last_error") or info.get("fault"),
        "last_error_kind": info.get("last_error_kind") or info.get("fault_kind"),
        "paused": bool(info.get("paused", False)),
        "obeyed": rates.obeyed,
    }


def interval_of(manager: RedisConnectionManager) -> float | None:
    """Return the seconds between two publications; None when publishing is off, or the settings are wrong."""
    try:
        interval: float | None = manager.config.publish_interval
    except Exception:
        return None  # a system check names the fault
    return interval


def _app(info: dict[str, Any]) -> str:
    # app:host:pid:alias, and only the app may have colons of its own.
    return str(info.get("client_name") or "").rsplit(":", 3)[0]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def percentiles(before: Histogram, now: Histogram, wanted: Sequence[float]) -> list[float | None]:
    """Return percentiles, in seconds, of what came between two cumulative histograms; None where nothing came."""
    if len(before) != len(now):
        before = [(bound, 0) for bound, _ in now]
    grown = [(bound, count - earlier) for (bound, count), (_, earlier) in zip(now, before, strict=True)]
    total = grown[-1][1] if grown else 0
    if total <= 0:
        return [None for _ in wanted]
    largest = max((bound for bound, _ in grown if bound != math.inf), default=None)
    found: list[float | None] = []
    for part in wanted:
        bound = next(bound for bound, count in grown if count >= part * total)
        found.append(largest if bound == math.inf else bound)
    return found


# As it travels.


def dump(snapshot: dict[str, Any]) -> bytes:
    """Return a snapshot as compact JSON."""
    return json.dumps(snapshot, separators=(",", ":")).encode()


def load(stored: Any) -> dict[str, Any] | None:
    """Read a snapshot back, as data that anybody may have written: None unless every value is of its type.

    Keys that are not known are left out, texts are cut at 300 characters.
    """
    if not isinstance(stored, bytes | str) or len(stored) > _LARGEST:
        return None
    try:
        said = json.loads(stored)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    found: dict[str, Any] = {"paused": said.get("paused") is True}
    for key in (*_TEXT, *_OPTIONAL_TEXT):
        value = said.get(key)
        if value is None and key in _OPTIONAL_TEXT:
            found[key] = None
        elif isinstance(value, str):
            found[key] = "".join(sign for sign in value[:_LONGEST_TEXT] if sign.isprintable())
        else:
            return None
    for key in (*_WHOLE, *_NUMBERS, *_OPTIONAL_NUMBERS):
        value = said.get(key)
        if not (value is None and key in _OPTIONAL_NUMBERS) and not _is_number(value, whole=key in _WHOLE):
            return None
        found[key] = value
    return found


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return 0 <= value < 2**53  # not NaN, nor an infinity
