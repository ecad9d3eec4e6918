"""How long a command may wait on the server by its own arguments, and how its reply is read with that limit.

A command that waits for another client (BLPOP), for replicas (WAIT) or for another server (MIGRATE) is silent until its
own timeout. That silence says nothing about the server. An invalid timeout counts as no wait: the server refuses it at
once.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis.asyncio.client
import redis.client

from redispool_app.engine.protocol.commands import BLOCKING_BY_OPTION, command_info, sent_words, words_of

_LAST = frozenset("BLPOP BRPOP BRPOPLPUSH BLMOVE BZPOPMIN BZPOPMAX".split())
"""Commands whose last argument is the timeout, in seconds."""

_FIRST = frozenset(("BLMPOP", "BZMPOP"))
"""Commands whose first argument is the timeout, in seconds."""

_MILLISECONDS = {"WAIT": 1, "WAITAOF": 2, "MIGRATE": 4}
"""Position of the timeout, in milliseconds, among a command's arguments."""

_MIGRATE_DEFAULT = 1.0
"""Seconds that MIGRATE waits for a timeout of 0."""

_OPTIONS = {"COUNT": 1, "GROUP": 2, "CLAIM": 1}
"""Number of arguments of each option of XREAD and XREADGROUP."""

_LONGEST = 10 * 365 * 86_400.0
"""A wait of this many seconds or more counts as endless: a socket accepts no longer timeout."""

_UNANSWERED = frozenset("PSUBSCRIBE PUNSUBSCRIBE REPLCONF SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE".split())
"""Commands that may have no reply at all, or a push as their reply. Their timeout says nothing."""

_WAITING = _LAST | _FIRST | _UNANSWERED | BLOCKING_BY_OPTION | frozenset(_MILLISECONDS)

_IDLE, _INTERVAL, _PROBES = 30, 5, 3
"""TCP keepalive for connections without it: seconds to the first probe, seconds between probes, number of probes."""


def wait_of(args: Sequence[Any]) -> float | None:
    """Return the seconds that a command, name first, may wait on the server; None if it never waits there.

    ``math.inf`` means no limit. The result is 0.0 for a timeout that the server refuses.
    """
    words = command_info(args[0]).words
    if not words:
        return 0.0  # an empty command, which the server does not answer
    name = words[0]
    if name not in _WAITING:
        return None
    rest: list[Any] = [*words_of(args[0])[1:], *args[1:]]
    if name in _UNANSWERED:
        return 0.0
    if name in _LAST:
        return _seconds(rest[-1]) if rest else 0.0
    if name in _FIRST:
        return _seconds(rest[0]) if rest else 0.0
    if name in BLOCKING_BY_OPTION:
        return _block_option(rest)
    at = _MILLISECONDS[name]
    wait = _milliseconds(rest[at]) if len(rest) > at else 0.0
    if name == "MIGRATE" and wait == math.inf:
        return _MIGRATE_DEFAULT
    return wait


_SHORTEST = 0.01
"""Seconds for a command whose time has passed while its server was replaced; 0 would mean no limit."""


def with_time_left(args: Sequence[Any], waited: float) -> tuple[Any, ...] | None:
    """Return a command, name first, with ``waited`` seconds less to wait; None for one that waits for no other client.

    A command without a limit stays without one. WAIT and MIGRATE return None: what they wait for is over.
    """
    words = list(words_of(args[0]))
    command = (*(words if len(words) > 1 else args[:1]), *args[1:])
    name = words[0].upper().decode("latin-1") if words else ""
    if name in BLOCKING_BY_OPTION:
        found = _at_block_option(command)
    else:
        found = len(command) - 1 if name in _LAST else 1 if name in _FIRST else None
    wait = wait_of(args)
    if found is None or not 0 < found < len(command) or wait is None:
        return None
    if 0 < wait < math.inf:
        left = max(_SHORTEST, wait - waited)
        value = round(left * 1000) if name in BLOCKING_BY_OPTION else left
        return (*command[:found], value, *command[found + 1 :])
    return command


def _at_block_option(command: Sequence[Any]) -> int | None:
    """Return the position of the value of the option BLOCK, which stands before STREAMS."""
    at = 1
    while at < len(command) and (word := _text(command[at]).upper()) != "STREAMS":
        if word == "BLOCK":
            return at + 1
        at += 1 + _OPTIONS.get(word, 0)
    return None


Waits = deque[tuple[Any, float | None]]


def waits_of(commands: Iterable[Any]) -> Waits | None:
    """Return name and ``wait_of`` for each command of a pipeline; None if no command waits."""
    waits = deque((args[0], wait_of(args)) for args, _ in commands)
    return waits if any(wait is not None for _, wait in waits) else None


def patient_for_next(connection: Any, waits: Waits | None, name: Any) -> contextlib.AbstractContextManager[None]:
    """Read the reply of a pipeline's next command with its own additional wait."""
    # Not the replies to commands that redis-py sends before a pipeline.
    if waits and waits[0][0] is name and (wait := waits.popleft()[1]) is not None:
        return patient(connection, wait)
    return contextlib.nullcontext()


def patient_in_multi(connection: Any, commands: Iterable[Any]) -> contextlib.AbstractContextManager[None]:
    """Read the replies to a transaction. Inside MULTI only MIGRATE may wait."""
    migrations = [wait_of(args) or 0.0 for args, _ in commands if sent_words(args, 1) == ["MIGRATE"]]
    return patient(connection, sum(migrations)) if migrations else contextlib.nullcontext()


def _block_option(rest: list[Any]) -> float | None:
    """Return the seconds of the option BLOCK in these arguments; None without it."""
    found = _at_block_option(["", *rest])
    if found is None:
        return None
    return _milliseconds(rest[found - 1]) if found <= len(rest) else 0.0


def _seconds(value: Any) -> float:
    text = _text(value)
    try:
        return _bounded(float(text))
    except ValueError:
        pass
    try:
        return _bounded(float.fromhex(text))  # the server accepts that, too
    except (ValueError, OverflowError):
        return 0.0


def _milliseconds(value: Any) -> float:
    try:
        return _bounded(int(_text(value)) / 1000)
    except (ValueError, OverflowError):
        return 0.0


def _bounded(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        return 0.0
    return seconds if 0 < seconds < _LONGEST else math.inf


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.encode(errors="replace").decode("latin-1")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("latin-1")
    return repr(value)


@contextlib.contextmanager
def patient(connection: Any, wait: float) -> Iterator[None]:
    """Allow a connected ``connection`` to wait ``wait`` seconds longer than its timeout for what it reads.

    A longer read is a reason to check the server, and no proof of an outage.
    """
    connection = getattr(connection, "_conn", connection)  # redis-py's client-side caching wraps it in a proxy
    usual = connection.socket_timeout
    limit = None if usual is None or wait == math.inf else usual + wait
    held: Any = getattr(connection, "_sock", None)
    try:
        keep_alive(connection)
        connection.is_patient = True
        if held is None:
            connection.socket_timeout = limit  # asyncio
        else:
            held.settimeout(limit)
        yield
    except Exception:
        raise
    except BaseException:
        # Interrupted or cancelled: the reply is still to come, and the timeout may stay as it is now.
        _drop(connection)
        raise
    finally:
        connection.is_patient = False
        if held is None:
            connection.socket_timeout = usual
        elif connection._sock is held:
            held.settimeout(usual)


def _drop(connection: Any) -> None:
    if getattr(connection, "_sock", None) is not None:
        connection.disconnect()


def keep_alive(connection: Any) -> None:
    """Turn TCP keepalive on, even if the project has turned it off, so that the kernel detects a silent dead peer."""
    writer = getattr(connection, "_writer", None)
    held: Any = getattr(connection, "_sock", None) if writer is None else writer.get_extra_info("socket")
    # A Unix socket has no such options, and its peer cannot vanish alone. uvloop's closed sockets raise ValueError.
    with contextlib.suppress(OSError, AttributeError, ValueError):
        if held.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if not held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
                if (option := getattr(socket, name, None)) is not None:
                    held.setsockopt(socket.IPPROTO_TCP, option, value)
        # Probes begin when all data is acknowledged. This timeout detects a peer that vanished before the command
        # arrived.
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None and not held.getsockopt(socket.IPPROTO_TCP, option):
            held.setsockopt(socket.IPPROTO_TCP, option, (_IDLE + _INTERVAL * _PROBES) * 1000)


class SyncMonitor(redis.client.Monitor):
    """redis-py's MONITOR without a read timeout: it is silent until another client sends a command.

    Its connection is also returned when the server refuses MONITOR, or when an interrupt ends the wait for its reply.
    """

    def __enter__(self) -> SyncMonitor:
        try:
            super().__enter__()  # type: ignore[no-untyped-call]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *args: object) -> None:
        try:
            self.connection.disconnect()
        finally:
            self.connection_pool.release(self.connection)

    def next_command(self) -> Any:
        with patient(self.connection, math.inf):
            return super().next_command()  # type: ignore[no-untyped-call]


class AsyncMonitor(redis.asyncio.client.Monitor):
    """The same for ``redis.asyncio``. Its connection is also returned when entering or leaving is cancelled."""

    async def __aenter__(self) -> AsyncMonitor:
        try:
            await super().__aenter__()  # type: ignore[no-untyped-call]
        except BaseException:
            await self._give_back()
            raise
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._give_back()

    async def _give_back(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            finally:
                await self.connection_pool.release(connection)

    async def next_command(self) -> Any:
        await self.connect()  # type: ignore[no-untyped-call]
        with patient(self.connection, math.inf):
            return await super().next_command()
