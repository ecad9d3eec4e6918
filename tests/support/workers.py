"""What tests of the workers ask of a server, and of this process's own publishing."""

from __future__ import annotations

from redispool_app.workers import keys, publisher, roster, snapshot

from .servers import eventually

INTERVAL = 0.1


def index_of(server, alias="default", prefix="redispool"):
    """The ids that the index holds."""
    with server.client() as client:
        return {each.decode() for each in client.smembers(keys.index(prefix, alias))}


def published(server, worker_id, alias="default"):
    """What a worker last said, None when it has said nothing for long."""
    with server.client() as client:
        return snapshot.load(client.get(keys.worker("redispool", alias, worker_id)))


def ids(manager):
    """Who is in the roster."""
    return {worker["id"] for worker in roster.read(manager).workers}


def of(manager, worker_id):
    """One worker's row of the roster."""
    return next((each for each in roster.read(manager).workers if each["id"] == worker_id), None)


def problems(manager):
    """Why this process is not published, or hears of no orders; empty when it is, and does."""
    publication = publisher.publication_of(manager)
    return [half.problem for half in (publication.saying, publication.hearing) if half.problem is not None]


def next_round(manager):
    """Wait until this process has been through one whole round more."""
    publication = publisher.publication_of(manager)
    last = publication.recent()[-1:]
    eventually(lambda: publication.recent()[-1:] != last)
    last = publication.recent()[-1:]
    eventually(lambda: publication.recent()[-1:] != last)
