"""One JSON document per pool for the live status page and its stream: what this process knows, and what it can ask.

However many people watch, the server is asked once: INFO and the workers' roster at most once a second, its details
every five, in a thread of their own. Nobody waits for them longer than ``PATIENCE``, so a server that hangs delays no
page; the document then says what this process knows, and why the rest is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from django.utils.translation import get_language, gettext_noop

from redispool_app.engine.runtime import fork, process, threads
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.runtime.single_flight import Flight, SingleFlight
from redispool_app.introspection import rows as live_server_rows
from redispool_app.introspection.info import ServerFacts
from redispool_app.redis_pool import RedisConnectionManager, get_managers
from redispool_app.translation import Sentence, translated
from redispool_app.workers import publisher, roster

from . import redis_details
from .redis_details import Details

PATIENCE = 1.25
"""How long (seconds) a document waits for the server before it goes without."""

_FRESH = 0.9
_DETAILS_FRESH = 5.0
_MEMORY = 600.0
_SPACING = 5.0
_REMEMBERED_WORKERS = 64

_WORKER_NUMBERS = (
    "ops_per_second",
    "latency_p50_ms",
    "latency_p99_ms",
    "commands_in_flight",
    "waiting",
    "timeouts_total",
    "errors_total",
    "reconnects_total",
)

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that a thread computes, at most one at a time, for all who ask."""

    def __init__(self, compute: Callable[[], T], name: str) -> None:
        self._compute = compute
        self._name = name
        self._flights: SingleFlight[None] = SingleFlight()
        self._ended = float("-inf")
        self.latest: T | None = None

    def fresh(self, max_age: float) -> Flight[None] | None:
        """Return the computation to wait for.

        None while the latest value is at most ``max_age`` seconds old, or where no thread can be started.
        """
        flight = self._flights.latest
        if not flight.is_over:
            return flight
        if monotonic() - self._ended < max_age:
            return None
        own: Flight[None] = Flight()
        try:
            flight = self._flights.join(own)
            if flight is own:
                threads.start(self._run, own, name=self._name)
        except BaseException as error:
            own.ended = True
            own.leave()
            if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
                return None  # the next caller tries again
            raise
        return flight

    def _run(self, flight: Flight[None]) -> None:
        try:
            tell(self._renew)
        finally:
            self._ended = monotonic()
            flight.ended = True
            flight.leave()

    def _renew(self) -> None:
        self.latest = self._compute()

    @property
    def lateness(self) -> float:
        """How long (seconds) the computation under way has taken; 0.0 when there is none."""
        flight = self._flights.latest
        return 0.0 if flight.is_over else monotonic() - flight.began


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was learnt from the server at one moment."""

    server: ServerFacts | None
    server_problem: str | None
    workers: list[dict[str, Any]]
    workers_problem: str | None
    differences: list[str]


class Watch:
    """All that the page knows of one pool, shared by everybody who watches it through this process."""

    def __init__(self, manager: RedisConnectionManager) -> None:
        self.manager = manager
        self.config = manager.known_config
        self._asked: Shared[_Asked] = Shared(self._ask, f"redispool-live-{manager.alias}")
        self._details: Shared[Details] = Shared(self._ask_details, f"redispool-details-{manager.alias}")
        self._lock = threading.Lock()
        self._made = float("-inf")
        self._latest: dict[str, Any] = {}
        self._parts: dict[str | None, dict[str, str]] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=int(_MEMORY / _SPACING))

    # Waiting for the server: twins that differ in how they wait.

    def refresh(self, max_age: float = _FRESH) -> None:
        """Let the server be asked if that is due, and wait for it up to ``PATIENCE``."""
        _wait(self._flights(max_age))

    async def arefresh(self, max_age: float = _FRESH) -> None:
        """The twin of ``refresh``."""
        until = monotonic() + PATIENCE
        for flight in self._flights(max_age):
            await flight.wait_async(until - monotonic())

    def _flights(self, max_age: float) -> list[Flight[None]]:
        info = self.manager.get_pool_info()
        if info["state"] in ("closed", "misconfigured"):
            return []
        flights: list[Flight[None] | None] = [self._asked.fresh(max_age)]
        first = self._details.latest is None
        details = self._details.fresh(_DETAILS_FRESH)
        if first:
            flights.append(details)
        return [flight for flight in flights if flight is not None]

    def _ask(self) -> _Asked:
        server, server_problem = redis_details.facts(self.manager)
        read = roster.read(self.manager)
        return _Asked(server, server_problem, read.workers, read.problem, list(read.differences))

    def _ask_details(self) -> Details:
        found, before = redis_details.details(self.manager), self._details.latest
        # What was slow before an outage may be what led to it.
        return found if before is None else found.without_losing(before)

    # The document.

    def parts(self) -> dict[str, str]:
        """Return the document's parts in the current language, each as JSON, made at most once a second. No I/O."""
        language = get_language()
        with self._lock:
            if monotonic() - self._made >= _FRESH:
                self._latest, self._parts, self._made = self.document(), {}, monotonic()
            if language not in self._parts:
                said = in_the_current_language(self._latest).items()
                self._parts[language] = {key: json.dumps(value, default=str) for key, value in said}
            return self._parts[language]

    def document(self) -> dict[str, Any]:
        """Return what is known now, as one JSON-ready dict. No I/O, never raises.

        Times are Unix times, ``*_ms`` milliseconds. ``server``, ``workers`` and ``clients`` are what the last answer
        said; ``server_problem``, ``workers_problem`` and the ``problem`` in ``clients`` and ``slowlog`` are None,
        or one line, in English, that says why there is no newer one.
        """
        manager, info = self.manager, self.manager.get_pool_info()
        info.pop("config", None)
        now = time.time()
        asked, details = self._asked.latest, self._details.latest
        problem = self._silence(info)
        server_problem = problem or (asked.server_problem if asked else None)
        workers, workers_problem, differences = self._workers(asked, problem)
        document = {
            "alias": manager.alias,
            "at": round(now, 3),
            "worker": {"id": process.worker_id(), "pid": os.getpid(), "role": process.role()},
            "pool": info,
            "server": asdict(asked.server) if asked and asked.server and not server_problem else None,
            "server_problem": server_problem,
            "info": details.sections if details else {},
            "workers": workers,
            "workers_problem": workers_problem,
            "differences": differences,
            "health_history": manager.health_history(),
            "slow_commands": manager.slow_commands(),
            "slowlog": _rows(details.slowlog if details else None, server_problem),
            "clients": _rows(details.clients if details else None, server_problem),
        }
        self._remember(document, now)
        return document

    def _silence(self, info: dict[str, Any]) -> str | None:
        """Say why the server is not asked, or has not answered yet."""
        if info["state"] == "closed":
            return Sentence(gettext_noop("The pool is closed."))
        if info["state"] in ("unhealthy", "misconfigured"):
            return info.get("fault") or Sentence(gettext_noop("The pool is unhealthy."))
        if (late := self._asked.lateness) >= PATIENCE:
            return Sentence(gettext_noop("The server has not answered for %(n)s s."), n=round(late))
        return None

    def _workers(self, asked: _Asked | None, problem: str | None) -> tuple[list[dict[str, Any]], str | None, list[str]]:
        if asked is not None and problem is None:
            return asked.workers, asked.workers_problem, asked.differences
        return (
            roster.local(self.manager).workers,
            problem or Sentence(gettext_noop("The workers have not been read yet.")),
            [],
        )

    # The series behind the charts.

    def history(self) -> list[dict[str, Any]]:
        """Return up to ten minutes of numbers, oldest first, for a page that has just been opened.

        Each is ``{"at", "workers": {id: [numbers as in WORKER_NUMBERS]}, "server": [memory, clients]}``; ``own`` marks
        those from before anybody watched, which know only this process.
        """
        with self._lock:
            watched = list(self._history)
        first = watched[0]["at"] if watched else float("inf")
        own_id = process.worker_id()
        own: list[dict[str, Any]] = [
            {"at": each["at"], "workers": {own_id: _numbers(each)}, "server": None, "own": True}
            for each in publisher.recent(self.manager.alias)
            if each["at"] < first
        ]
        return own + watched

    def _remember(self, document: dict[str, Any], now: float) -> None:
        if self._history and now - self._history[-1]["at"] < _SPACING:
            return
        server = document["server"]
        self._history.append(
            {
                "at": round(now, 1),
                "workers": {each["id"]: _numbers(each) for each in document["workers"][:_REMEMBERED_WORKERS]},
                "server": [server["memory_used"], server["clients"]] if server else None,
                "own": document["workers_problem"] is not None,
            }
        )


_watches: dict[str, Watch] = {}

fork.register(_watches.clear)


def watch(manager: RedisConnectionManager) -> Watch:
    """Return the one watch of this process over a pool; a new one after a fork, or when its settings changed."""
    manager.get_pool_info()  # builds the pool set, so that its configuration is known
    found = _watches.get(manager.alias)
    if found is None or found.config is not manager.known_config:
        found = _watches[manager.alias] = Watch(manager)
    return found


def watches() -> list[Watch]:
    """Return the watches of all configured pools, ``default`` first. Raises ``ImproperlyConfigured``."""
    return [watch(manager) for manager in get_managers()]


def refresh_all(found: list[Watch], max_age: float = _FRESH) -> None:
    """Refresh side by side, so that several servers that hang cost no more time than one."""
    _wait([flight for each in found for flight in each._flights(max_age)])


def _wait(flights: list[Flight[None]]) -> None:
    until = monotonic() + PATIENCE
    for flight in flights:
        flight.wait(until - monotonic())


async def arefresh_all(found: list[Watch], max_age: float = _FRESH) -> None:
    """The twin of ``refresh_all``."""
    await asyncio.gather(*(each.arefresh(max_age) for each in found))


def in_the_current_language(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose lines of the app's own are translated; what Redis and the engine say stays English."""
    lines = {key: translated(document[key]) for key in ("server_problem", "workers_problem", "differences")}
    lists = {key: {**document[key], "problem": translated(document[key]["problem"])} for key in ("slowlog", "clients")}
    return {**document, **lines, **lists}


def as_json(parts: dict[str, str]) -> str:
    """Put encoded parts together to one JSON object."""
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in parts.items()) + "}"


def _rows(found: live_server_rows.Rows | None, problem: str | None) -> dict[str, Any]:
    rows = (found or live_server_rows.Rows()).as_dict()
    return rows if problem is None else {**rows, "problem": problem}


def _numbers(snapshot: dict[str, Any]) -> list[float | None]:
    return [snapshot.get(key) for key in _WORKER_NUMBERS]
