"""The server's own CLIENT LIST, held against what the workers say of themselves.

Connections carry the name ``app:host:pid:alias``. Fields are those of https://redis.io/docs/latest/commands/client-list/
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop

from redispool_app.sentences import Sentence, listed

__all__ = ["LISTED_AT_MOST", "Client", "connected", "differences", "parse", "too_many"]

LISTED_AT_MOST = 5000
"""With more clients than this the server is not asked for a list: making it would hold up everybody else."""

_MOST_NAMES = 10
_SETTLING = 1.0
"""Seconds beyond an interval that a connection, whose age the server gives in whole seconds, may be unexplained."""


@dataclass(frozen=True, slots=True)
class Name:
    """Whose a connection is, from its name."""

    app: str
    host: str
    pid: int
    alias: str

    @property
    def worker_id(self) -> str:
        return f"{self.host}:{self.pid}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """Return None for a name that is not of the form ``app:host:pid:alias``."""
        app, *rest = text.rsplit(":", 3)  # only the app may have colons of its own
        if len(rest) != 3 or not rest[1].isdecimal():
            return None
        return cls(app, rest[0], int(rest[1]), rest[2])


@dataclass(frozen=True, slots=True)
class Client:
    """A connection as the server sees it; ``age`` in seconds."""

    name: str
    age: int
    database: int
    flags: str

    @property
    def is_replication(self) -> bool:
        return bool({"S", "M"} & set(self.flags))


def connected(reply: Any) -> int | None:
    """Read how many clients there are from the reply of INFO, or of its section; None where it does not say."""
    found = re.search(r"^connected_clients:(\d{1,15})\s*$", _text(reply), re.MULTILINE)
    return int(found[1]) if found is not None else None


def too_many(clients: int | None) -> str | None:
    """Say in one line why the server is not asked for a list of so many clients; None if it may be."""
    if clients is None:
        return Sentence(gettext_noop("INFO does not say how many clients there are: too many, perhaps, for a list."))
    if clients <= LISTED_AT_MOST:
        return None
    return Sentence(gettext_noop("%(n)s clients: too many to ask the server for a list."), n=clients)


def parse(reply: Any) -> list[Client]:
    """Read the reply of CLIENT LIST; lines that make no sense are left out."""
    lines = _text(reply).removeprefix("txt:").splitlines()
    return [client for line in lines if (client := _client(line)) is not None]


def _text(reply: Any) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _client(line: str) -> Client | None:
    fields = dict(field.partition("=")[::2] for field in line.split(" "))
    try:
        return Client(fields.get("name", ""), int(fields["age"]), int(fields["db"]), fields.get("flags", "N"))
    except (KeyError, ValueError):
        return None


def differences(
    workers: Sequence[Mapping[str, Any]],
    clients: Iterable[Client],
    *,
    alias: str,
    database: int,
    own_id: str,
    own_app: str,
    aliases: Collection[str],
    interval: float,
    since: dict[str, float],
    now: float,
) -> list[str]:
    """Return, in one line each, what the server shows and the workers do not say, or the other way round.

    ``own_id`` is this process, which need not have published yet, and ``own_app`` its app: with those of the workers it
    tells the project's connections from another's with the same alias. ``aliases`` are the project's other pools, whose
    own rosters account for their connections. ``since`` remembers, between two calls, when (``now``, monotonic seconds)
    a worker's count was first found to differ: that is news once it has lasted an ``interval``.
    """
    said = {str(worker["id"]): worker for worker in workers}
    project = {own_app, *(str(worker["app"]) for worker in workers)}
    ours: dict[str, list[Client]] = defaultdict(list)
    apps: dict[str, str] = {}
    foreign: Counter[str] = Counter()
    for client in clients:
        name = Name.parse(client.name)
        is_here = name is not None and name.alias == alias and client.database == database
        if name is not None and is_here and (name.app in project or name.worker_id in said):
            ours[name.worker_id].append(client)
            apps[name.worker_id] = name.app
        elif not client.is_replication and (name is None or name.alias not in aliases):
            foreign[name.app if name is not None else client.name] += 1
    found = [*_of_workers(said, ours, interval, since, now)]
    for worker_id in sorted(ours.keys() - said.keys() - {own_id}):
        # A process is heard of one interval after its first second.
        if max(client.age for client in ours[worker_id]) > interval + 2 * _SETTLING:
            silent = gettext_noop("%(worker)s (%(app)s) has %(connections)s and does not publish.")
            count = _connections(len(ours[worker_id]))
            found.append(Sentence(silent, worker=worker_id, app=apps[worker_id], connections=count))
    if foreign:
        found.append(Sentence(gettext_noop("Other clients: %(clients)s."), clients=_listed(foreign)))
    return found


def _of_workers(
    said: Mapping[str, Mapping[str, Any]],
    ours: Mapping[str, list[Client]],
    interval: float,
    since: dict[str, float],
    now: float,
) -> Iterator[str]:
    for worker_id in since.keys() - said.keys():
        del since[worker_id]
    for worker_id, worker in said.items():
        claimed, seen = int(worker["connections_open"]), ours.get(worker_id, [])
        if claimed == len(seen):
            since.pop(worker_id, None)
            continue
        if not seen:
            unseen = gettext_noop("%(worker)s says that it has %(connections)s, but the server sees none of them.")
            yield Sentence(unseen, worker=worker_id, connections=_connections(claimed))
            continue
        first = since.setdefault(worker_id, now)
        spoke = float(worker["seen_seconds"])
        # There since before the interval in which the worker last spoke.
        lasting = sum(client.age > spoke + interval + _SETTLING for client in seen)
        if now - first > interval or lasting > claimed:
            other = gettext_noop("%(worker)s says that it has %(connections)s, but the server sees %(n)s.")
            yield Sentence(other, worker=worker_id, connections=_connections(claimed), n=len(seen))


def _connections(count: int) -> str:
    if count == 1:
        return Sentence(gettext_noop("1 connection"))
    return Sentence(gettext_noop("%(n)s connections"), n=count)


def _listed(names: Counter[str]) -> str:
    most = names.most_common(_MOST_NAMES)
    parts = [_named(name, count) for name, count in most]
    if left := sum(names.values()) - sum(count for _, count in most):
        parts.append(Sentence(gettext_noop("and %(n)s more"), n=left))
    return listed(parts)


def _named(name: str, count: int) -> str:
    if not name:
        return Sentence(gettext_noop("%(n)s without a name"), n=count)
    return Sentence(gettext_noop("%(n)s named %(name)s"), n=count, name=repr(name[:60]))
