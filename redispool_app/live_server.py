"""What the live page asks of one pool's server: INFO, SLOWLOG and CLIENT LIST, bounded and without keys or values.

Field names are those of https://redis.io/docs/latest/commands/info/, https://redis.io/docs/latest/commands/slowlog-get/
and https://redis.io/docs/latest/commands/client-list/. Nothing here raises for an outage: what is missing is replaced
by one line that says why. It travels on a connection that the process has already, past callers that wait for one or
for the end of a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis import exceptions as redis_exceptions

from . import server_facts
from .engine.carrier import carry
from .engine.faults import classify
from .exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable
from .redis_pool import RedisConnectionManager
from .sentences import Sentence
from .server_facts import ServerFacts
from .workers import client_list

TIMEOUT = 1.0
"""Seconds that a round trip may take; SOCKET_TIMEOUT if that is less."""

SLOWLOG_ROWS = 25
CLIENT_ROWS = 200

_OWN_ERRORS = (RedisUnavailable, PoolClosed, PoolTimeout, PoolQueueFull)

# The command and its subcommand are names; everything else of a SLOWLOG entry is keys and values.
_CONTAINERS = frozenset(
    "ACL CLIENT CLUSTER COMMAND CONFIG DEBUG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG "
    "XGROUP XINFO".split()
)


@dataclass(frozen=True, slots=True)
class Rows:
    """A bounded list, how many there are in all, and one line that says why there is none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "total": self.total, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class Details:
    """What changes slowly or is dear to ask for."""

    sections: dict[str, dict[str, str]]
    slowlog: Rows
    clients: Rows

    def without_losing(self, before: Details) -> Details:
        """Return these, with what was known before where nothing is known now; the problems stay."""
        slowlog = self.slowlog
        if slowlog.problem:
            slowlog = Rows(before.slowlog.rows, before.slowlog.total, slowlog.problem)
        return Details(self.sections or before.sections, slowlog, self.clients)


def facts(manager: RedisConnectionManager) -> tuple[ServerFacts | None, str | None]:
    """Return the server's facts, or one line that says why there are none.

    Blocks for up to a health check, and ``TIMEOUT`` seconds.
    """
    try:
        (reply,) = _carried(manager, [("INFO",)])
        if isinstance(reply, Exception):
            raise reply
        info = manager.get_sync_client().response_callbacks["INFO"](reply)
        return server_facts.parse(info, manager._config.database), None
    except (AttributeError, TypeError, ValueError):
        return None, Sentence(gettext_noop("INFO was not answered as a Redis server does."))
    except (ImproperlyConfigured, redis_exceptions.RedisError, OSError) as error:
        _verify(manager, error)
        return None, _why(manager, error, "INFO")


def details(manager: RedisConnectionManager) -> Details:
    """Ask for INFO's sections, the last slow commands and the clients, each bounded, each for itself.

    Blocks for up to a health check, and twice ``TIMEOUT`` seconds.
    """
    try:
        info, entries = _carried(manager, [("INFO",), ("SLOWLOG", "GET", SLOWLOG_ROWS)])
        sections = {} if isinstance(info, Exception) else info_sections(_text(info))
        connected = client_list.connected(info)
        if (problem := client_list.too_many(connected)) is not None:
            clients = Rows(total=connected or 0, problem=problem)
        else:
            (listed,) = _carried(manager, [("CLIENT", "LIST")])
            clients = _read(manager, "CLIENT LIST", listed, client_rows)
        return Details(sections, _read(manager, "SLOWLOG GET", entries, slowlog_rows), clients)
    except (ImproperlyConfigured, redis_exceptions.RedisError, OSError) as error:
        nothing = Rows(problem=_why(manager, error, ""))
        return Details({}, nothing, nothing)


def info_sections(text: str) -> dict[str, dict[str, str]]:
    """Read an INFO reply into its sections, as the server words them."""
    sections: dict[str, dict[str, str]] = {}
    current = sections.setdefault("", {})
    for line in text.splitlines():
        if line.startswith("#"):
            current = sections.setdefault(line.lstrip("# ").strip(), {})
        else:
            key, colon, value = line.partition(":")
            if colon:
                current[key] = value
    return {name: fields for name, fields in sections.items() if fields}


def slowlog_rows(entries: Any) -> Rows:
    """Read a SLOWLOG GET reply: when, how long, which command, how many arguments, who; never the arguments."""
    rows = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, list) or len(entry) < 4 or not isinstance(entry[3], list) or not entry[3]:
            continue
        words = [_text(word) for word in entry[3][:2]]
        name = words[0].upper()
        if name in _CONTAINERS and len(words) > 1:
            name = f"{name} {words[1].upper()}"
        rows.append(
            {
                "at": entry[1],
                "duration_ms": entry[2] / 1000,
                "command": name[:64],
                "arguments": len(entry[3]) - 1,
                "client": _text(entry[5] or entry[4]) if len(entry) > 5 else "",
            }
        )
    rows.sort(key=lambda row: row["duration_ms"], reverse=True)
    return Rows(rows=rows[:SLOWLOG_ROWS], total=len(rows))


def client_rows(reply: Any) -> Rows:
    """Read a CLIENT LIST reply: at most ``CLIENT_ROWS`` clients, those with most memory first."""
    rows = []
    for line in _text(reply).splitlines():
        found = dict(word.partition("=")[::2] for word in line.split(" "))
        if "id" not in found:
            continue
        rows.append(
            {
                "name": found.get("name", ""),
                "addr": found.get("addr", ""),
                "user": found.get("user", ""),
                "db": _whole(found.get("db")),
                "cmd": found.get("cmd", ""),
                "age": _whole(found.get("age")),
                "idle": _whole(found.get("idle")),
                "memory": _whole(found.get("tot-mem")),
                "flags": found.get("flags", ""),
            }
        )
    rows.sort(key=_weight, reverse=True)
    return Rows(rows=rows[:CLIENT_ROWS], total=len(rows))


def _carried(manager: RedisConnectionManager, commands: list[tuple[str | int, ...]]) -> list[Any]:
    manager.get_sync_client()  # checks the server if that is due, and raises what is wrong
    return carry(manager._open(), commands, min(TIMEOUT, manager._config.socket_timeout))


def _verify(manager: RedisConnectionManager, error: Exception) -> None:
    """What the app's own commands meet says nothing about the pool; a PING does, and people are watching."""
    if not isinstance(error, (*_OWN_ERRORS, ImproperlyConfigured, redis_exceptions.ResponseError)):
        manager._health_check_sync()


def _read(manager: RedisConnectionManager, command: str, reply: Any, read: Callable[[Any], Rows]) -> Rows:
    return Rows(problem=_why(manager, reply, command)) if isinstance(reply, Exception) else read(reply)


def _why(manager: RedisConnectionManager, error: Exception, command: str) -> str:
    if isinstance(error, (*_OWN_ERRORS, ImproperlyConfigured)):
        return str(error)
    if isinstance(error, redis_exceptions.NoPermissionError):
        fault = classify(error, manager._config.where).message
        permission = f"+{command.lower().replace(' ', '|').removesuffix('|get')}"
        return Sentence(gettext_noop("%(fault)s Lacking: %(permission)s"), fault=fault, permission=permission)
    return classify(error, manager._config.where).message


def _weight(row: dict[str, Any]) -> tuple[int, str]:
    return int(row["memory"] or 0), str(row["name"])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
