"""Commands that a shared client does not send, because their effect or answer belongs to one connection.

Each refusal is one line that names the cure. A client of a single connection sends them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redispool_app.exceptions import CommandRefused

from .commands import is_ephemeral, sent_words

WAITING = frozenset(("WAIT", "WAITAOF"))
"""Commands that count the writes of their own connection."""

_SUBSCRIBING = frozenset("PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE".split())
"""Commands that are answered with messages, one for each channel."""

_SNAPSHOTS = frozenset(("PSYNC", "SYNC"))
"""Commands that turn a connection into a replica's. Their answers are not in the Redis protocol."""

_TRANSACTIONS = frozenset(("DISCARD", "EXEC", "MULTI", "WATCH"))

_IN_A_PIPELINE = "put it after its writes in client.pipeline(transaction=False)."


def refuse_shared(args: Sequence[Any]) -> None:
    """Raise ``CommandRefused`` for a single command, name first, that a shared client cannot run."""
    words = sent_words(args)
    name = words[0] if words else ""
    if name in WAITING:
        raise CommandRefused(f"{name} counts the writes of its own connection only: {_IN_A_PIPELINE}")
    if name == "SELECT":
        raise CommandRefused(
            "SELECT would change the database of one connection of this client, not of the client: "
            "use a client, or an alias of REDIS_POOL, for each database."
        )
    if name in _TRANSACTIONS:
        raise CommandRefused(
            f"{name} needs a dedicated connection: use client.pipeline(), with pipe.watch() for WATCH, or "
            "client.transaction()."
        )
    _refuse_without_one_reply(words)


def refuse_silence(words: list[str]) -> None:
    """Raise ``CommandRefused`` for a command after which no connection could read another reply."""
    if words[:2] == ["CLIENT", "REPLY"] and words[2:] in (["OFF"], ["SKIP"]):
        raise CommandRefused(
            f"CLIENT REPLY {words[2]} has no reply to wait for: use a dedicated connection, "
            "client.connection_pool.get_connection()."
        )
    if words and words[0] in _SNAPSHOTS:
        raise _for_replicas(words[0])
    if words[:2] == ["SCRIPT", "DEBUG"]:
        # Some servers crash when a script runs after a connection in this mode was closed.
        raise CommandRefused("SCRIPT DEBUG turns its connection into a debugger's: use redis-cli --ldb.")


def _refuse_without_one_reply(words: list[str]) -> None:
    refuse_silence(words)
    name = words[0] if words else ""
    if name in _SUBSCRIBING:
        raise CommandRefused(f"{name} returns messages, not a reply: use client.pubsub().")
    if name == "REPLCONF":
        raise _for_replicas(name)
    if name == "MONITOR":
        raise CommandRefused("MONITOR returns a stream, not a reply: use client.monitor().")


def _for_replicas(name: str) -> CommandRefused:
    return CommandRefused(f"{name} is for replicas only: start a server with replicaof, or use redis-cli --rdb.")


def refuse_in_pipeline(commands: Iterable[Any], *, transaction: bool, has_written: bool = False) -> None:
    """Raise ``CommandRefused`` if one of these pipelined commands has no valid answer in a pipeline."""
    for args, _ in commands:
        words = sent_words(args)
        name = words[0] if words else ""
        if name in WAITING:
            if transaction:
                raise CommandRefused(f"{name} never waits inside MULTI: {_IN_A_PIPELINE}")
            if not has_written:
                raise no_writes(name)
        _refuse_without_one_reply(words)
        has_written = has_written or not is_ephemeral(args[0])


def no_writes(name: str) -> CommandRefused:
    """Return the refusal of WAIT on a connection that has written nothing, or that is not the one that wrote."""
    return CommandRefused(f"{name} has no writes on this connection to count: {_IN_A_PIPELINE}")
