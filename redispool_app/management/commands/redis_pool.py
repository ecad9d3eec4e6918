"""``manage.py redis_pool info|reset|pause|resume``: show the pools or act on them, here or in every worker.

A command runs in its own process, with its own pools. Without ``--all`` it shows those and acts on those. This is
useful when it is called inside a longer program. With ``--all`` it asks the workers that publish, and waits until each
has carried out the order.

Exit code 0: done, and healthy. 1: a pool is unhealthy, or a worker has not carried out the order. 2: the settings or
the options are wrong; 2 beats 1.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from redis import exceptions as redis_exceptions

from redispool_app.conf.config import SETTING
from redispool_app.conf.registry import get_aliases
from redispool_app.engine.health.faults import classify
from redispool_app.engine.health.pause import LONGEST
from redispool_app.engine.runtime import process
from redispool_app.management import worker_table
from redispool_app.management.quiet_logging import without_last_resort
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.workers import orders, roster

UNHEALTHY = 1
MISCONFIGURED = 2

_DEFAULT_PAUSE = 30.0
_POLLS_PER_INTERVAL = 10
_GRACE = 2.0
"""Seconds that a worker gets beyond two intervals, and beyond CLOSE_TIMEOUT for a reset."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the command for one pool. ``problem`` is one line, or None."""

    alias: str
    problem: str | None = None
    code: int = 0
    info: dict[str, Any] | None = None
    roster: roster.Roster | None = None
    order: str | None = None
    obeyed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready: ``info``, or the workers, or the result of the order, and the ``problem``."""
        if self.info is not None:
            return self.info
        if self.roster is not None:
            return self.roster.as_dict()
        return {key: value for key, value in asdict(self).items() if key in ("order", "obeyed", "missing", "problem")}


class Command(BaseCommand):
    help = (
        "Look at the Redis pools, reset them, or hold their new commands back for a planned failover: those of this "
        "command's own process, or with --all those of every worker. Exit code 0: done and healthy, 1: a pool is "
        "unhealthy or a worker has not obeyed, 2: the settings or options are wrong."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("info", "reset", "pause", "resume"))
        parser.add_argument("--alias", action="append", metavar="NAME", help="this pool only; may be given again")
        parser.add_argument(
            "--seconds", metavar="N", help=f"how long to pause, at most {LONGEST:g}; {_DEFAULT_PAUSE:g} if not given"
        )
        parser.add_argument("--all", action="store_true", help="every worker of every host, not this process")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        action, everyone = options["action"], options["all"]
        seconds = _seconds(action, options["seconds"])
        if not everyone:
            # Not part of the JSON, which a program reads.
            note = self.stderr if options["json"] else self.stdout
            note.write(
                f"This concerns only the command's own process ({process.worker_id()}), not the site's workers: "
                "give --all for those."
            )
        outcomes = []
        with without_last_resort():
            for alias in _aliases(options["alias"]):
                outcome = _of_workers(alias, action, seconds) if everyone else _here(alias, action, seconds)
                outcomes.append(outcome)
                if not options["json"]:
                    self._write(outcome, action)
        if options["json"]:
            document = {"action": action, "pools": {each.alias: each.as_dict() for each in outcomes}}
            self.stdout.write(json.dumps(document, indent=2))
        self.stdout.flush()
        problems = [each for each in outcomes if each.code]
        if problems:
            raise CommandError(
                "; ".join(f"{each.alias}: {each.problem}" for each in problems),
                returncode=max(each.code for each in problems),
            )

    def _write(self, outcome: Outcome, action: str) -> None:
        if outcome.info is not None:
            self.stdout.write(self.style.MIGRATE_LABEL(outcome.alias))
            for key, value in outcome.info.items():
                if key != "alias":
                    self.stdout.write(f"  {key}: {json.dumps(value) if isinstance(value, dict) else value}")
        elif outcome.roster is not None:
            style = self.style
            for line in worker_table.lines(
                [(outcome.alias, outcome.roster)], heading=style.MIGRATE_LABEL, good=style.SUCCESS, bad=style.ERROR
            ):
                self.stdout.write(line)
        elif outcome.problem is None:
            done = {"reset": "reset", "pause": "paused", "resume": "resumed"}[action]
            whom = f" by {len(outcome.obeyed)} workers: {', '.join(outcome.obeyed)}" if outcome.obeyed else ""
            self.stdout.write(self.style.SUCCESS(f"{outcome.alias}: {done}{whom}."))


def _here(alias: str, action: str, seconds: float) -> Outcome:
    """Act on this process's own pool."""
    manager = RedisConnectionManager(alias)
    try:
        if action == "info":
            return _info(manager)
        if action == "reset":
            manager.reset_sync()
        elif action == "pause":
            manager.pause(seconds)
        else:
            manager.resume()
    except ImproperlyConfigured as error:
        return Outcome(alias=alias, problem=str(error), code=MISCONFIGURED)
    except redis_exceptions.RedisError as error:
        return Outcome(alias=alias, problem=_told(manager, error), code=UNHEALTHY)
    return Outcome(alias=alias)


def _info(manager: RedisConnectionManager) -> Outcome:
    """Return what is known after one health check."""
    if not manager.is_closed:
        manager.check_sync()
    info = manager.get_pool_info()
    if info["is_healthy"]:
        return Outcome(alias=manager.alias, info=info)
    return Outcome(alias=manager.alias, info=info, problem=info["fault"] or info["state"], code=UNHEALTHY)


def _of_workers(alias: str, action: Any, seconds: float) -> Outcome:
    """Ask every worker of one pool, and wait until each has answered."""
    manager = RedisConnectionManager(alias)
    try:
        interval = manager.config.publish_interval
        if interval is None:
            switched_off = "PUBLISH_INTERVAL is None, so no worker publishes its state: set it to a number of seconds."
            return Outcome(alias=alias, problem=switched_off, code=MISCONFIGURED)
        before = roster.read(manager)
        workers = [worker["id"] for worker in before.workers if worker["id"] != process.worker_id()]
        problem = before.problem
        if problem is None and not workers:
            problem = "No worker publishes this pool: start the site, or wait a moment."
        if action == "info":
            if problem is None and before.unhealthy:
                problem = f"Workers that are not healthy: {', '.join(before.unhealthy)}"
            return Outcome(alias=alias, roster=before, problem=problem, code=UNHEALTHY if problem else 0)
        if problem is not None:
            return Outcome(alias=alias, problem=problem, missing=workers, code=UNHEALTHY)
        order = orders.send(manager, action, seconds if action == "pause" else None)
    except ImproperlyConfigured as error:
        return Outcome(alias=alias, problem=str(error), code=MISCONFIGURED)
    except redis_exceptions.RedisError as error:
        return Outcome(alias=alias, problem=_told(manager, error), code=UNHEALTHY)
    patience = 2 * interval + _GRACE + (manager.config.close_timeout if action == "reset" else 0.0)
    obeyed: set[str] = set()
    waiting, gone = set(workers), set[str]()
    with suppress(KeyboardInterrupt):  # then show which workers have not carried out the order
        for seen in _watch(manager, patience, interval / _POLLS_PER_INTERVAL):
            obeyed |= {each["id"] for each in seen if each["id"] in waiting and orders.has_obeyed(each, order)}
            gone = waiting - obeyed - {each["id"] for each in seen}
            if not waiting - obeyed - gone:
                break
    missing = [each for each in workers if each not in obeyed]
    problem = None
    if missing:
        named = (f"{each} (gone)" if each in gone else each for each in missing)
        problem = f"{len(missing)} of {len(workers)} workers have not obeyed: {', '.join(named)}"
    done = [each for each in workers if each in obeyed]
    return Outcome(
        alias=alias, order=order, obeyed=done, missing=missing, problem=problem, code=UNHEALTHY if missing else 0
    )


def _watch(manager: RedisConnectionManager, patience: float, pause: float) -> Iterator[list[dict[str, Any]]]:
    """Yield the workers repeatedly, for up to ``patience`` seconds, whenever all of them are visible."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(min(pause, 0.5))
        seen = roster.read(manager)
        if seen.problem is None:
            yield seen.workers


def _told(manager: RedisConnectionManager, error: redis_exceptions.RedisError) -> str:
    return classify(error, manager.config.where).message


def _aliases(given: list[str] | None) -> list[str]:
    try:
        known = get_aliases()
    except ImproperlyConfigured as error:
        raise CommandError(str(error), returncode=MISCONFIGURED) from error
    chosen = list(dict.fromkeys(given)) if given else known
    for alias in chosen:
        if alias not in known:
            raise CommandError(
                f"{SETTING} has no alias {alias!r}: use {' or '.join(map(repr, known))}.", returncode=MISCONFIGURED
            )
    return chosen


def _seconds(action: str, value: str | float | None) -> float:
    """Read ``--seconds``. Raises ``CommandError``."""
    if value is None:
        return _DEFAULT_PAUSE
    if action != "pause":
        raise CommandError("--seconds belongs to pause: leave it out.", returncode=MISCONFIGURED)
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= LONGEST:
        raise CommandError(
            f"--seconds {value!r} cannot be used: give a number above 0, at most {LONGEST:g}.",
            returncode=MISCONFIGURED,
        )
    return number
