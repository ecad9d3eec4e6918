"""``manage.py redis_health``: one real health check of each pool, for people, scripts and container probes.

Exit code 0: all pools are healthy. 1: a pool is unhealthy. 2: the settings or the options are wrong; 2 beats 1. With
``--all`` the workers of every host are included.

The managers stay open, because the command may run inside a process that goes on using them. A process that ends closes
its connections, and its embedded server, by itself.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from redis import exceptions as redis_exceptions

from redispool_app.conf import validators
from redispool_app.conf.config import SETTING
from redispool_app.conf.registry import get_aliases, get_config
from redispool_app.engine.health.faults import classify
from redispool_app.engine.runtime.gevent import UnsupportedRuntimeError
from redispool_app.introspection.info import ServerFacts, fetch
from redispool_app.management import worker_table
from redispool_app.management.quiet_logging import without_last_resort
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.workers import roster
from redispool_app.workers.roster import Roster

UNHEALTHY = 1
MISCONFIGURED = 2

_NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One pool at one moment. ``latency_ms`` is the PING's round trip in milliseconds."""

    alias: str
    state: str
    """``healthy``, ``unhealthy`` or ``misconfigured``."""
    url: str | None = None
    latency_ms: float | None = None
    server: ServerFacts | None = None
    fault: str | None = None
    fault_kind: str | None = None
    warning: str | None = None
    """Warnings of a healthy pool."""
    warning_kind: str | None = None
    roster: Roster | None = None
    """All workers, if they were requested and the settings are right."""

    @property
    def is_healthy(self) -> bool:
        return self.state == "healthy"

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready, with the names that ``get_pool_info()`` uses."""
        server = self.server
        return {
            "alias": self.alias,
            "state": self.state,
            "is_healthy": self.is_healthy,
            "url": self.url,
            "latency_ms": self.latency_ms,
            "server": None
            if server is None
            else {"product": server.product, "version": server.version, "process_id": server.process_id},
            "fault": self.fault,
            "fault_kind": self.fault_kind,
            "warning": self.warning,
            "warning_kind": self.warning_kind,
            **({} if self.roster is None else self.roster.as_dict()),
        }

    @property
    def unhealthy_workers(self) -> list[str]:
        """The ids of workers that report an unhealthy pool."""
        return self.roster.unhealthy if self.roster is not None else []

    def columns(self) -> list[str]:
        server = self.server
        return [
            self.alias,
            self.state,
            _NOTHING if self.latency_ms is None else f"{self.latency_ms:.2f} ms",
            self.url or _NOTHING,
            _NOTHING if server is None else f"{server.product} {server.version}, process {server.process_id}",
        ]


class Command(BaseCommand):
    help = (
        "Check the health of the Redis pools with one PING each. "
        "Exit code 0: all healthy, 1: one is not, 2: the settings or options are wrong."
    )
    # This command reports faults in the settings itself, with their own exit code.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--alias", action="append", metavar="NAME", help="this pool only; may be given again")
        parser.add_argument("--all", action="store_true", help="show every worker of every host with its last report")
        parser.add_argument("--json", action="store_true", help="print one JSON document, per round if watching")
        parser.add_argument(
            "--timeout", metavar="SECONDS", help="how long each PING may take, in place of HEALTH_CHECK_TIMEOUT"
        )
        parser.add_argument(
            "--watch", nargs="?", const=2.0, metavar="SECONDS", help="check again after each 2 (or SECONDS) seconds"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        timeout = _seconds("--timeout", options["timeout"])
        interval = _seconds("--watch", options["watch"])
        self._as_json, self._everyone = options["json"], options["all"]
        self._screen = None
        # Django's wrapper of a stream knows whether it is a terminal.
        if interval is not None and self._everyone and not self._as_json and self.stdout.isatty():
            self._screen = worker_table.Screen(lambda text: self.stdout.write(text, ending=""))
        with without_last_resort():
            if interval is None:
                reports = self._round(options["alias"], timeout, watching=False)
            else:
                reports = self._watch(options["alias"], timeout, interval)
        _raise_verdict(reports)

    def _watch(self, aliases: list[str] | None, timeout: float | None, interval: float) -> list[Report]:
        """Check until Ctrl-C. Return the reports of the last round."""
        reports: list[Report] = []
        try:
            while True:
                reports = self._round(aliases, timeout, watching=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return reports

    def _round(self, aliases: list[str] | None, timeout: float | None, *, watching: bool) -> list[Report]:
        reports = list(_check_all(aliases, timeout))
        if self._everyone:
            reports = [_with_roster(report) for report in reports]
        now = datetime.now(UTC).astimezone()
        if self._as_json:
            document = {
                "time": now.isoformat(timespec="milliseconds"),
                "healthy": all(report.is_healthy and not report.unhealthy_workers for report in reports),
                "pools": [report.as_dict() for report in reports],
            }
            self.stdout.write(json.dumps(document, indent=None if watching else 2))
        else:
            stamp = [self.style.MIGRATE_HEADING(now.strftime("%Y-%m-%d %H:%M:%S"))] if watching else []
            lines = [*stamp, *self._table(reports), *(self._workers(reports) if self._everyone else ())]
            if self._screen is not None:
                self._screen.draw(lines)
            else:
                for line in lines:
                    self.stdout.write(line)
        self.stdout.flush()
        return reports

    def _workers(self, reports: Sequence[Report]) -> list[str]:
        rosters = [(report.alias, report.roster) for report in reports if report.roster is not None]
        return [
            "",
            *worker_table.lines(
                rosters,
                heading=self.style.MIGRATE_LABEL,
                good=self.style.SUCCESS,
                bad=self.style.ERROR,
            ),
        ]

    def _table(self, reports: Sequence[Report]) -> Iterator[str]:
        rows = [["ALIAS", "STATE", "ROUND TRIP", "ADDRESS", "SERVER"], *(report.columns() for report in reports)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        title, *cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        yield self.style.MIGRATE_LABEL("  ".join(title).rstrip())
        for report, row in zip(reports, cells, strict=True):
            paint = self.style.SUCCESS if report.is_healthy else self.style.ERROR
            row[1] = paint(row[1])
            yield "  ".join(row).rstrip()
            if report.fault:
                yield paint("  " + report.fault)
            if report.warning:
                yield self.style.WARNING("  " + report.warning)


def _check_all(aliases: list[str] | None, timeout: float | None) -> Iterator[Report]:
    try:
        # Each once, in the given order.
        chosen = list(dict.fromkeys(aliases)) if aliases else get_aliases()
    except ImproperlyConfigured as error:
        yield Report(alias=SETTING, state="misconfigured", fault=str(error))
        return
    for alias in chosen:
        yield _check(alias, timeout)


def _check(alias: str, timeout: float | None) -> Report:
    """PING the server of one pool. Ask a healthy server what it is."""
    try:
        config = get_config(alias)
        manager = RedisConnectionManager(alias)
        monitor = manager.build().monitor
    except (ImproperlyConfigured, UnsupportedRuntimeError) as error:
        return Report(alias=alias, state="misconfigured", fault=str(error))
    server = None
    try:
        if not manager.check_sync(timeout):
            monitor.ensure_available()
            raise monitor.unavailable()
        # The PING was answered. A user or a proxy may not allow INFO.
        with suppress(redis_exceptions.ResponseError):
            server = fetch(manager)
    except redis_exceptions.RedisError as error:
        fault = classify(error, config.where)
        return Report(
            alias=alias, state="unhealthy", url=config.masked_url, fault=fault.message, fault_kind=str(fault.kind)
        )
    latency, warning = monitor.health.latency, monitor.warning
    return Report(
        alias=alias,
        state="healthy",
        url=config.masked_url,
        latency_ms=None if latency is None else round(latency * 1000, 3),
        server=server,
        warning=None if warning is None else warning.message,
        warning_kind=None if warning is None else str(warning.kind),
    )


def _with_roster(report: Report) -> Report:
    if report.state == "misconfigured":
        return report
    return replace(report, roster=roster.read(RedisConnectionManager(report.alias)))


def _raise_verdict(reports: list[Report]) -> None:
    """Raise ``CommandError`` with the exit code unless all pools are healthy."""
    if not reports:
        raise CommandError("Interrupted before the first check had ended.", returncode=UNHEALTHY)
    others = [report for report in reports if not report.is_healthy]
    if others:
        misconfigured = any(report.state == "misconfigured" for report in others)
        raise CommandError(
            f"{len(others)} of {len(reports)} Redis pools not healthy: "
            + ", ".join(f"{report.alias} is {report.state}" for report in others),
            returncode=MISCONFIGURED if misconfigured else UNHEALTHY,
        )
    workers = [worker_id for report in reports for worker_id in report.unhealthy_workers]
    if workers:
        raise CommandError("Workers that are not healthy: " + ", ".join(workers), returncode=UNHEALTHY)


def _seconds(option: str, value: str | float | None) -> float | None:
    """Read an option in seconds. Raises ``CommandError``."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    wanted = validators.seconds(number)
    if wanted is not None:
        raise CommandError(f"{option} {value!r} cannot be used: give {wanted}.", returncode=MISCONFIGURED)
    return number
