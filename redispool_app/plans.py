"""Plans: what one operation of a cache or a store sends to Redis, and how it reads the reply.

A plan does no I/O. ``send`` and ``send_async`` carry it out and differ only in waiting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis, SyncRedis

T = TypeVar("T")

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, called by its digest. A server that does not know the script gets its text."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # The name of the script at the server, as EVALSHA defines it; nothing depends on its strength.
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


class Plan(NamedTuple, Generic[T]):
    """Commands to send, several as one MULTI, and how to read the reply (of several: the list of replies).

    The reply to a single command is not decoded, whatever DECODE_RESPONSES says. An operation that needs no reply from
    Redis has no commands: its caller sends nothing and passes None to ``read``.
    """

    commands: tuple[Command, ...]
    read: Callable[[Any], T]
    empty: Any = None
    """The reply of a server that holds nothing. A cache reads it during an outage that it ignores."""
    script: Script | None = None
    """Runs instead of the single command, which then holds the script's arguments: see ``script_plan``."""
    explain: Callable[[redis_exceptions.ResponseError], Exception | None] | None = None
    """Returns the exception to raise instead of an error from the server; None: that error itself."""


def script_plan(script: Script, keys: Command, arguments: Command, read: Callable[[Any], T]) -> Plan[T]:
    """Return the plan that runs ``script``."""
    return Plan(((len(keys), *keys, *arguments),), read, script=script)


def send(client: SyncRedis, plan: Plan[Any]) -> Any:
    """Send the commands of ``plan`` and return the reply. Raises the first error that the server replies with."""
    commands, script = plan.commands, plan.script
    if script is not None:
        try:
            return client.execute_raw("EVALSHA", script.digest, *commands[0])
        except redis_exceptions.NoScriptError:
            return client.execute_raw("EVAL", script.text, *commands[0])
    if len(commands) == 1:
        return client.execute_raw(*commands[0])
    with client.pipeline() as pipe:
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        return _without_errors(pipe.execute(raise_on_error=False))


async def send_async(client: AsyncRedis, plan: Plan[Any]) -> Any:
    """The twin of ``send``."""
    commands, script = plan.commands, plan.script
    if script is not None:
        try:
            return await client.execute_raw("EVALSHA", script.digest, *commands[0])
        except redis_exceptions.NoScriptError:
            return await client.execute_raw("EVAL", script.text, *commands[0])
    if len(commands) == 1:
        return await client.execute_raw(*commands[0])
    async with client.pipeline() as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return _without_errors(await pipe.execute(raise_on_error=False))


def _without_errors(replies: list[Any]) -> list[Any]:
    # Not raised by redis-py: it would put the command, and so keys and values, into the text of the error.
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
