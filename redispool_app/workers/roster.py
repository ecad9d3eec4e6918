"""All workers of a pool, as they last said, and what the server's CLIENT LIST says otherwise."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis import exceptions as redis_exceptions

from redispool_app.conf.config import RedisPoolConfig
from redispool_app.conf.registry import get_aliases
from redispool_app.engine.health.faults import classify
from redispool_app.engine.runtime import process
from redispool_app.engine.topology.side_channel import carry
from redispool_app.engine.topology.standalone import PoolSet
from redispool_app.introspection import client_list
from redispool_app.introspection.info import connected_clients
from redispool_app.translation import Sentence

from . import keys, publisher, reconciliation, snapshot

if TYPE_CHECKING:
    from redispool_app.redis_pool import RedisConnectionManager

__all__ = ["Roster", "local", "read"]

_PATIENCE = 5.0
"""Seconds that each of three round trips may take at most; SOCKET_TIMEOUT if that is less."""

_CLEARING = 0.5
"""Seconds for taking workers that are gone out of the index; a server that holds writes back would need longer."""

_MOST = 1000
"""Workers that are shown."""

# When each worker's count of connections was first found to differ, by manager.
_since: weakref.WeakKeyDictionary[Any, dict[str, float]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Roster:
    """The workers of one pool.

    ``workers`` are dicts as ``snapshot.take()`` returns them plus ``seen_seconds``: how long ago each was said, by the
    server's clock. ``problem`` says in one line why some are missing, None if none is. ``differences`` are lines that
    say what CLIENT LIST shows and the workers do not, or the other way round. Both are English, and know themselves in
    other languages (``redispool_app.translation``).
    """

    workers: list[dict[str, Any]]
    problem: str | None = None
    differences: list[str] = field(default_factory=list)

    @property
    def unhealthy(self) -> list[str]:
        """The ids of workers that say so of themselves."""
        return [worker["id"] for worker in self.workers if worker["state"] == "unhealthy"]

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"workers": self.workers, "problem": self.problem, "differences": self.differences}


def local(manager: RedisConnectionManager, problem: str | None = None) -> Roster:
    """Return this process alone, as it is now. No I/O, never raises."""
    return Roster([{**snapshot.take(manager), "seen_seconds": 0.0}], problem)


def read(manager: RedisConnectionManager) -> Roster:
    """Return every worker that publishes this pool, by host and process.

    Blocks for three round trips, and not longer than a health check and SOCKET_TIMEOUT for each; at once during a
    confirmed outage. In async code call it in a thread. Never raises: what is wrong is the roster's ``problem``.
    """
    interval = snapshot.interval_of(manager)
    if interval is None:
        return local(manager, _alone(Sentence(gettext_noop("Publishing is switched off (PUBLISH_INTERVAL)."))))
    try:
        manager.get_sync_client()  # checks the server if a check is due, and says what is wrong
        return _read(manager, manager.require_open(), manager.config, interval)
    except ImproperlyConfigured as error:
        return local(manager, _alone(str(error)))
    except (redis_exceptions.RedisError, OSError) as error:
        if not isinstance(error, redis_exceptions.ResponseError) and not manager.is_down:
            # Carried quietly, so nobody knows yet: a real check decides, and the next reader is answered at once.
            manager.check_sync()
        return local(manager, _alone(classify(error, manager.config.where).message))


def _alone(reason: str) -> str:
    return Sentence(gettext_noop("%(reason)s Only this process is shown."), reason=reason)


def _read(manager: RedisConnectionManager, pool_set: PoolSet, config: RedisPoolConfig, interval: float) -> Roster:
    prefix, alias, timeout = config.publish_prefix, manager.alias, min(config.socket_timeout, _PATIENCE)
    index = keys.index(prefix, alias)
    members, info = carry(pool_set, [("SMEMBERS", index), ("INFO", "clients")], timeout)
    if isinstance(members, Exception):
        raise members
    ids = sorted(each for each in members if isinstance(each, bytes))
    unlisted = _unlisted(info, config.where)
    workers, gone = _fetch(pool_set, prefix, alias, ids[:_MOST], timeout)
    publication, problem = publisher.publication_of(manager), None
    # Not with the write below: a server that holds writes back answers this at once.
    replies = carry(pool_set, [("CLIENT", "LIST")], timeout) if unlisted is None else []
    if gone and (publication is None or publication.saying.problem is None):
        with suppress(redis_exceptions.RedisError, OSError):  # the next reader tries
            carry(pool_set, [("SREM", index, *gone)], min(timeout, _CLEARING))
    if len(ids) > _MOST:
        problem = Sentence(gettext_noop("Only %(shown)s of %(total)s workers are shown."), shown=_MOST, total=len(ids))
    if publication is not None and (fault := publication.hearing.problem) is not None:
        problem = Sentence(gettext_noop("This process hears of no orders: %(fault)s"), fault=fault)
    if publication is not None and (fault := publication.saying.problem) is not None:
        problem = Sentence(gettext_noop("This process cannot be published: %(fault)s"), fault=fault)
        workers = [each for each in workers if each["id"] != process.worker_id()] + local(manager).workers
    workers.sort(key=lambda worker: (worker["host"], worker["pid"]))
    if unlisted is not None:
        return Roster(workers, problem, [unlisted])
    return Roster(workers, problem, _differences(manager, workers, replies[-1], config, interval))


def _unlisted(info: Any, where: str) -> str | None:
    """Say in one line why the server is not asked for its clients; None if it is."""
    if isinstance(info, Exception):
        return _incomparable(info, where)
    return client_list.too_many(connected_clients(info))


def _incomparable(error: Exception, where: str) -> str:
    fault = classify(error, where).message
    return Sentence(gettext_noop("The server's clients cannot be compared: %(fault)s"), fault=fault)


def _fetch(
    pool_set: PoolSet, prefix: str, alias: str, ids: Sequence[bytes], timeout: float
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the snapshots of these workers, and the ids of those that have none any more."""
    if not ids:
        return [], []
    names = [keys.worker(prefix, alias, each.decode("utf-8", "surrogateescape")) for each in ids]
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    stored, *lives = carry(pool_set, [("MGET", *encoded), *(("PTTL", key) for key in encoded)], timeout)
    if isinstance(stored, Exception):
        raise stored
    workers, gone = [], []
    for worker_id, text, life in zip(ids, stored, lives, strict=True):
        said = snapshot.load(text)
        if text is None:
            gone.append(worker_id)
        # Nobody can speak for another worker.
        elif said is not None and said["id"].encode() == worker_id and said["alias"] == alias:
            left = life if isinstance(life, int) and life > 0 else 0
            age = max(0.0, (keys.life_ms(said["interval"]) - left) / 1000)
            workers.append({**said, "seen_seconds": round(age, 3)})
    return workers, gone


def _differences(
    manager: RedisConnectionManager,
    workers: Sequence[dict[str, Any]],
    clients: Any,
    config: RedisPoolConfig,
    interval: float,
) -> list[str]:
    if isinstance(clients, Exception):
        return [_incomparable(clients, config.where)]
    return reconciliation.differences(
        workers,
        client_list.parse(clients),
        alias=manager.alias,
        database=config.database,
        own_id=process.worker_id(),
        own_app=snapshot.take(manager)["app"],
        aliases=[each for each in get_aliases() if each != manager.alias],
        interval=interval,
        since=_since.setdefault(manager, {}),
        now=monotonic(),
    )
