"""The server's own CLIENT LIST, held against what the workers say of themselves.

Connections carry the name ``app:host:pid:alias``. Fields are those of https://redis.io/docs/latest/commands/client-list/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop

from redispool_app.translation import Sentence

from .rows import Rows, _whole

CLIENT_ROWS = 200

__all__ = ["CLIENT_ROWS", "LISTED_AT_MOST", "Client", "client_rows", "connected", "parse", "too_many"]

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


def _weight(row: dict[str, Any]) -> tuple[int, str]:
    return int(row["memory"] or 0), str(row["name"])
