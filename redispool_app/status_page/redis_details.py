"""What the live page asks of one pool's server: INFO, SLOWLOG and CLIENT LIST, bounded and without keys or values.

Field names are those of https://redis.io/docs/latest/commands/info/, https://redis.io/docs/latest/commands/slowlog-get/
and https://redis.io/docs/latest/commands/client-list/. Nothing here raises for an outage: what is missing is replaced
by one line that says why. It travels on a connection that the process has already, past callers that wait for one or
for the end of a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import classify
from redispool_app.engine.topology.side_channel import carry
from redispool_app.exceptions import PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable
from redispool_app.introspection import client_list
from redispool_app.introspection import info as server_facts
from redispool_app.introspection.client_list import client_rows
from redispool_app.introspection.info import ServerFacts
from redispool_app.introspection.rows import Rows
from redispool_app.introspection.slowlog import SLOWLOG_ROWS, slowlog_rows
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.translation import Sentence

TIMEOUT = 1.0
"""Seconds that a round trip may take; SOCKET_TIMEOUT if that is less."""


_OWN_ERRORS = (RedisUnavailable, PoolClosed, PoolTimeout, PoolQueueFull)


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
        return server_facts.parse(reply, manager.config.database), None
    except ValueError:
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
        connected = server_facts.connected_clients(info)
        if (problem := client_list.too_many(connected)) is not None:
            clients = Rows(total=connected or 0, problem=problem)
        else:
            (listed,) = _carried(manager, [("CLIENT", "LIST")])
            clients = _read(manager, "CLIENT LIST", listed, client_rows)
        return Details(server_facts.sections(info), _read(manager, "SLOWLOG GET", entries, slowlog_rows), clients)
    except (ImproperlyConfigured, redis_exceptions.RedisError, OSError) as error:
        nothing = Rows(problem=_why(manager, error, ""))
        return Details({}, nothing, nothing)


def _carried(manager: RedisConnectionManager, commands: list[tuple[str | int, ...]]) -> list[Any]:
    manager.get_sync_client()  # checks the server if that is due, and raises what is wrong
    return carry(manager.require_open(), commands, min(TIMEOUT, manager.config.socket_timeout))


def _verify(manager: RedisConnectionManager, error: Exception) -> None:
    """What the app's own commands meet says nothing about the pool; a PING does, and people are watching."""
    if not isinstance(error, (*_OWN_ERRORS, ImproperlyConfigured, redis_exceptions.ResponseError)):
        manager.check_sync()


def _read(manager: RedisConnectionManager, command: str, reply: Any, read: Callable[[Any], Rows]) -> Rows:
    return Rows(problem=_why(manager, reply, command)) if isinstance(reply, Exception) else read(reply)


def _why(manager: RedisConnectionManager, error: Exception, command: str) -> str:
    if isinstance(error, (*_OWN_ERRORS, ImproperlyConfigured)):
        return str(error)
    if isinstance(error, redis_exceptions.NoPermissionError):
        fault = classify(error, manager.config.where).message
        permission = f"+{command.lower().replace(' ', '|').removesuffix('|get')}"
        return Sentence(gettext_noop("%(fault)s Lacking: %(permission)s"), fault=fault, permission=permission)
    return classify(error, manager.config.where).message
