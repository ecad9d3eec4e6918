"""What each operation of a cache sends to Redis and how it reads the reply. Nothing here does I/O.

Sync and async code carry out the same plans and differ only in waiting. Keys come made and checked, times to live in
whole seconds as Django's ``RedisCache`` counts them: None for ever, 0 for not at all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from redis import exceptions as redis_exceptions

from redispool_app.plans import Command, Plan, script_plan
from redispool_app.serialization.codec import Codec

from .keys import STALE
from .scripts import CHANGE_IF, INCREMENT

T = TypeVar("T")

MOST_KEYS = 5_000
"""Keys in one command: the server answers no other command meanwhile."""


Page = tuple[int, list[bytes] | None]
"""The next cursor, 0 at the end, and the keys found; None for an outage that is ignored."""


class CachePlans:
    """The plans of one cache. ``keeps_stale``: whether values may have stale copies, which go when they change."""

    __slots__ = ("_codec", "_keeps_stale")

    def __init__(self, codec: Codec, *, keeps_stale: bool) -> None:
        self._codec = codec
        self._keeps_stale = keeps_stale

    def set(self, key: str, value: Any, timeout: int | None, nx: bool = False, xx: bool = False) -> Plan[Any]:
        if nx and xx:
            raise ValueError("nx (only if missing) and xx (only if present) exclude each other.")
        data = self._codec.dumps(value)  # what cannot be stored is an error even where nothing will be
        if timeout == 0:
            # Nothing is stored, yet the answer is what it would be a moment later.
            return Plan((("EXISTS", key),), operator.not_, 1) if nx else self._forget(key, bool if xx else _nothing)
        rest: Command = (data,) if timeout is None else (data, "EX", timeout)
        if nx or xx:
            return self._changing_if("SET", [key], (*rest, "NX" if nx else "XX"), _was_done)
        return self._changing(("SET", key, *rest), [key], _nothing)

    def set_many(self, values: dict[str, Any], timeout: int | None, names: Sequence[Any]) -> Plan[list[Any]]:
        """``names`` are the caller's keys, all of which an ignored outage leaves unstored."""
        dumped = [(key, self._codec.dumps(value)) for key, value in values.items()]

        def read(replies: Any) -> list[Any]:
            return list(names) if replies is None else []

        if timeout == 0:
            commands: list[Command] = [("UNLINK", *values)]
        elif timeout is None:
            commands = [("MSET", *(part for pair in dumped for part in pair))]
        else:
            commands = [("SET", key, data, "EX", timeout) for key, data in dumped]
        if self._keeps_stale:
            commands.append(("UNLINK", *(key + STALE for key in values)))
        return Plan(tuple(commands), read)

    def get_many(self, names: dict[str, Any]) -> Plan[dict[Any, Any]]:
        """``names`` are the caller's keys by full key."""

        def read(replies: list[bytes | None]) -> dict[Any, Any]:
            loads = self._codec.loads
            found = zip(names.values(), replies, strict=True)
            return {name: loads(data) for name, data in found if data is not None}

        return Plan((("MGET", *names),), read, [None] * len(names))

    def delete(self, key: str) -> Plan[bool]:
        return self._forget(key, bool)

    def delete_many(self, keys: Sequence[str]) -> Plan[None]:
        stale = (key + STALE for key in keys) if self._keeps_stale else ()
        return Plan((("UNLINK", *keys, *stale),), _nothing)

    def _forget(self, key: str, read: Callable[[Any], T]) -> Plan[T]:
        return self._changing(("UNLINK", key), [key], read)

    def _changing(self, command: Command, keys: list[str], read: Callable[[Any], T]) -> Plan[T]:
        """The command and, where there may be stale copies of what it changes, their end."""
        if not self._keeps_stale:
            return Plan((command,), read)
        unlink = ("UNLINK", *(key + STALE for key in keys))
        return Plan((command, unlink), lambda replies: read(replies[0]), [None, 0])

    def _changing_if(self, name: str, keys: list[str], rest: Command, read: Callable[[Any], T]) -> Plan[T]:
        """The same for a command that may change nothing: then the copies stay. ``rest``: what follows its keys."""
        if not self._keeps_stale:
            return Plan(((name, *keys, *rest),), read)
        copies = (key + STALE for key in keys)
        return script_plan(CHANGE_IF, (*keys, *copies), (name, *rest), read)

    def has_key(self, key: str) -> Plan[bool]:
        return Plan((("EXISTS", key),), bool)

    def touch(self, key: str, timeout: int | None) -> Plan[bool]:
        # As in Django's RedisCache, PERSIST answers False for a key that has no expiry already.
        return self.persist(key) if timeout is None else Plan((("EXPIRE", key, timeout),), bool)

    def incr(self, key: str, delta: Any) -> Plan[int]:
        if isinstance(delta, bool):
            raise TypeError("A counter is incremented by an integer, not by a bool.")
        delta = operator.index(delta)

        def read(total: bytes | None) -> int:
            if total is None:
                raise ValueError(f"Key '{key}' not found.")
            return int(total)

        def explain(error: redis_exceptions.ResponseError) -> Exception | None:
            if "not an integer" in str(error) or "overflow" in str(error):
                return ValueError(
                    f"Key '{key}' cannot be counted: its value or the total is no 64-bit integer; set it anew."
                )
            return None

        return script_plan(INCREMENT, (key,), (delta,), read)._replace(explain=explain)

    def rename(self, name: Any, key: str, new: str) -> Plan[None]:
        """Move a value, its lifetime with it, to another version."""

        def read(done: Any) -> None:
            if done is None:
                raise _not_found(name)

        def explain(error: redis_exceptions.ResponseError) -> Exception | None:
            return _not_found(name) if "no such key" in str(error) else None

        return self._changing_if("RENAME", [key, new], (), read)._replace(explain=explain)

    # Lifetimes.

    def ttl(self, key: str, unit: str) -> Plan[int | None]:
        """``unit``: the command, ``TTL`` for seconds or ``PTTL`` for milliseconds."""

        def read(left: int) -> int | None:
            return None if left == -1 else max(0, left)

        return Plan(((unit, key),), read, -2)

    def persist(self, key: str) -> Plan[bool]:
        return Plan((("PERSIST", key),), bool)

    def expire(self, key: str, timeout: Any, unit: str) -> Plan[bool]:
        """``unit``: the command, ``EXPIRE`` for seconds or ``PEXPIRE`` for milliseconds; both take whole numbers."""
        if isinstance(timeout, timedelta):
            timeout //= timedelta(milliseconds=1) if unit == "PEXPIRE" else timedelta(seconds=1)
        return Plan(((unit, key, int(timeout)),), bool)

    def expire_at(self, key: str, when: datetime | float, unit: str) -> Plan[bool]:
        """``unit``: the command, ``EXPIREAT`` for Unix times in seconds or ``PEXPIREAT`` for milliseconds."""
        if isinstance(when, datetime):
            when = when.timestamp() * (1000 if unit == "PEXPIREAT" else 1)
        return Plan(((unit, key, int(when)),), bool)

    # Searching.

    def scan(self, cursor: int, glob: str, count: int) -> Plan[Page]:
        def read(page: Any) -> Page:
            return int(page[0]), page[1]

        return Plan((("SCAN", cursor, "MATCH", glob, "COUNT", count),), read, (0, None))

    def unlink(self, keys: Sequence[bytes]) -> Plan[int | None]:
        """Read as how many there were; None for an outage that is ignored."""
        return Plan((("UNLINK", *keys),), lambda count: count)

    def flush(self) -> Plan[bool]:
        return Plan((("FLUSHDB", "ASYNC"),), _was_done)


def portions(names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Split what goes into one command so that none is too large; nothing needs no command."""
    if 0 < len(names) <= MOST_KEYS:
        yield names
        return
    items = list(names.items())
    for start in range(0, len(items), MOST_KEYS):
        yield dict(items[start : start + MOST_KEYS])


def _nothing(reply: Any) -> None:
    return None


def _was_done(reply: Any) -> bool:
    # The server says OK or, to SET with a condition that did not hold, nil.
    return reply is not None


def _not_found(name: Any) -> ValueError:
    return ValueError(f"Key '{name}' not found")
