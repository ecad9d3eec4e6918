"""The server's own CLIENT LIST, held against what the workers say of themselves.

Connections carry the name ``app:host:pid:alias``. Fields are those of https://redis.io/docs/latest/commands/client-list/
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from django.utils.translation import gettext_noop

from redispool_app.translation import Sentence

from .rows import Rows, lines, pairs, whole

CLIENT_ROWS = 200

__all__ = ["CLIENT_ROWS", "LISTED_AT_MOST", "Client", "client_rows", "parse", "too_many"]

LISTED_AT_MOST = 5000
"""With more clients than this the server is not asked for a list: making it would hold up everybody else."""


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
    """A connection as the server sees it; ``age`` and ``idle`` in seconds, ``memory`` in bytes."""

    name: str
    age: int
    db: int
    flags: str
    addr: str = ""
    user: str = ""
    cmd: str = ""
    idle: int | None = None
    memory: int | None = None

    @property
    def is_replication(self) -> bool:
        return bool({"S", "M"} & set(self.flags))


def too_many(clients: int | None) -> str | None:
    """Say in one line why the server is not asked for a list of so many clients; None if it may be."""
    if clients is None:
        return Sentence(gettext_noop("INFO does not say how many clients there are: too many, perhaps, for a list."))
    if clients <= LISTED_AT_MOST:
        return None
    return Sentence(gettext_noop("%(n)s clients: too many to ask the server for a list."), n=clients)


def parse(reply: Any) -> list[Client]:
    """Read the reply of CLIENT LIST; lines that make no sense are left out."""
    return [client for line in lines(reply) if (client := _client(line)) is not None]


def _client(line: str) -> Client | None:
    found = pairs(line, " ")
    age, db = whole(found.get("age")), whole(found.get("db"))
    if age is None or db is None:
        return None
    named = {name: found.get(name, "") for name in ("name", "addr", "user", "cmd", "flags")}
    return Client(**named, db=db, age=age, idle=whole(found.get("idle")), memory=whole(found.get("tot-mem")))


def client_rows(reply: Any) -> Rows:
    """Read a CLIENT LIST reply: at most ``CLIENT_ROWS`` clients, those with most memory first."""
    clients = sorted(parse(reply), key=lambda client: (client.memory or 0, client.name), reverse=True)
    return Rows(rows=[asdict(client) for client in clients[:CLIENT_ROWS]], total=len(clients))
