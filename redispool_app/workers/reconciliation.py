"""Compares the server's CLIENT LIST with what the workers publish."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext_noop

from redispool_app.introspection.client_list import Client, Name
from redispool_app.translation import Sentence, listed

_MOST_NAMES = 10


_SETTLING = 1.0
"""Seconds beyond an interval that a connection, whose age the server gives in whole seconds, may be unexplained."""


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
        is_here = name is not None and name.alias == alias and client.db == database
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
