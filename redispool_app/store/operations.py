"""What each operation of a store sends to Redis and how it reads the reply.

Nothing here does I/O. ``RedisBase`` carries the plans out, with and without ``await``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from redis import exceptions as redis_exceptions

from redispool_app.plans import Command, Plan
from redispool_app.serialization.serializers import Serializer

VALUE, HASH, LOCK = "v", "h", "lock"
"""The kinds of key that a store uses itself."""

MAX_TTL = 10**12
"""Seconds. Redis counts milliseconds in a signed 64-bit integer; this is safely inside."""


class Default(Enum):
    """The type of ``DEFAULT_TTL``, so that None can mean "no expiry"."""

    TTL = "default_ttl"

    def __repr__(self) -> str:
        return "DEFAULT_TTL"


DEFAULT_TTL = Default.TTL
"""As a ``ttl``: the store's ``default_ttl``."""

Ttl: TypeAlias = float | Default | None

# HINCRBY that gives a hash its time to live only when it creates it; PEXPIRE has NX only since Redis 7.0. The total
# is read as text because a Lua number is a double.
_HINCR = """
local created = redis.call('EXISTS', KEYS[1]) == 0
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
if created then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return redis.call('HGET', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class LockPlan:
    """One attempt to hold a lock: redis-py's arguments, a token of its own, and what to say when it fails."""

    owner: str
    key: str
    arguments: dict[str, Any]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def refused(self) -> redis_exceptions.LockError:
        waited = self.arguments["blocking_timeout"]
        return redis_exceptions.LockError(
            f"{self.owner}: the lock {self.key!r:.80} was not free within {waited} s: "
            "try again later or raise blocking_timeout.",
            lock_name=self.arguments["name"],
        )

    def lost(self) -> redis_exceptions.LockNotOwnedError:
        return redis_exceptions.LockNotOwnedError(
            f"{self.owner}: the lock {self.key!r:.80} was lost before its block ended: "
            f"raise timeout ({self.arguments['timeout']} s) or extend() the lock in the block.",
            lock_name=self.arguments["name"],
        )

    @contextmanager
    def after(self, error: BaseException) -> Iterator[None]:
        """Release in this block after ``error`` ended the lock's body: what fails here becomes a note on it."""
        try:
            yield
        except redis_exceptions.RedisError as trouble:
            error.add_note(f"On leaving the lock as well: {trouble}")


@dataclass(frozen=True, slots=True)
class StorePlans:
    """The plans of one store, named ``owner`` in messages. ``default_ttl`` is in seconds, None for no expiry.

    Every method raises ``TypeError`` or ``ValueError`` for an argument that cannot be sent.
    """

    owner: str
    prefix: str
    default_ttl: float | None
    serializer: Serializer

    # Keys and times.

    def key(self, name: str, kind: str = VALUE) -> str:
        if not isinstance(kind, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kind):
            raise ValueError(f"{self.owner}: a kind is 1 to 64 letters, digits, '_', '.' or '-', not {kind!r:.80}.")
        return f"{self.prefix}:{kind}:{self._checked(name, 'key')}"

    def _wire(self, name: str, kind: str = VALUE) -> bytes:
        # UTF-8 whatever the pool's ENCODING, so that processes with different settings find the same keys.
        return self.key(name, kind).encode()

    def _wires(self, names: Iterable[str], kind: str = VALUE) -> dict[str, bytes]:
        if isinstance(names, str | bytes):
            raise TypeError(f"{self.owner}: keys must be a collection of str, not one {type(names).__name__}.")
        return {name: self._wire(name, kind) for name in names}

    def _field(self, name: str) -> bytes:
        return self._checked(name, "field").encode()

    def _checked(self, name: Any, what: str) -> str:
        if not isinstance(name, str):
            raise TypeError(f"{self.owner}: a {what} must be a str, not {type(name).__name__}.")
        if not name:
            raise ValueError(f"{self.owner}: a {what} must not be empty.")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{self.owner}: the {what} {name!r:.80} has a surrogate and no UTF-8 form.") from None
        return name

    def _milliseconds(self, ttl: Ttl) -> int | None:
        return milliseconds(self.default_ttl if isinstance(ttl, Default) else ttl, self.owner)

    def _amount(self, amount: int) -> int:
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise TypeError(f"{self.owner}: amount must be an int, not {type(amount).__name__}.")
        if not -(2**63) <= amount < 2**63:
            raise ValueError(f"{self.owner}: amount must fit into 64 bits, as Redis' counters do.")
        return int(amount)

    # Values on their way.

    def _dumps(self, name: str, value: Any) -> bytes:
        try:
            data = self.serializer.dumps(value)
            if isinstance(data, str):
                data = data.encode()
        except Exception as error:
            raise TypeError(f"{self.owner}: the value for {name!r:.80} cannot be serialized: {error}") from error
        if not isinstance(data, bytes):
            raise TypeError(f"{self.owner}: the serializer made {type(data).__name__} of {name!r:.80}, not bytes.")
        return data

    def _loads(self, name: str, data: bytes) -> Any:
        try:
            return self.serializer.loads(data)
        except Exception as error:
            # The error's own text may quote the data.
            raise ValueError(
                f"{self.owner}: the value at {name!r:.80} is not what this store's serializer writes: "
                "delete it, or read it with the serializer that wrote it."
            ) from error

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.owner}: {data!r:.80} is not UTF-8, so this store did not write it: delete it."
            ) from error

    # Values.

    def get(self, name: str, default: Any) -> Plan[Any]:
        return self._one_value(name, default, "GET", self._wire(name))

    def _one_value(self, name: str, default: Any, *command: Any) -> Plan[Any]:
        return Plan((command,), lambda data: default if data is None else self._loads(name, data))

    def set(self, name: str, value: Any, ttl: Ttl, nx: bool, xx: bool) -> Plan[bool]:
        if nx and xx:
            raise ValueError(f"{self.owner}: nx (only if missing) and xx (only if present) exclude each other.")
        condition = ("NX",) if nx else ("XX",) if xx else ()
        return Plan(((*self._set(name, value, self._milliseconds(ttl)), *condition),), bool)

    def _set(self, name: str, value: Any, ttl: int | None) -> Command:
        command = ("SET", self._wire(name), self._dumps(name, value))
        return command if ttl is None else (*command, "PX", ttl)

    def get_many(self, names: Iterable[str]) -> Plan[dict[str, Any]]:
        wires = self._wires(names)

        def read(replies: list[bytes | None]) -> dict[str, Any]:
            found = zip(wires, replies, strict=True)
            return {name: self._loads(name, data) for name, data in found if data is not None}

        return Plan((("MGET", *wires.values()),), read) if wires else Plan((), lambda _: {})

    def set_many(self, mapping: Mapping[str, Any], ttl: Ttl) -> Plan[None]:
        expiry = self._milliseconds(ttl)
        commands = tuple(self._set(name, value, expiry) for name, value in mapping.items())
        if commands and expiry is None:
            commands = (("MSET", *(part for _, *pair in commands for part in pair)),)
        return Plan(commands, lambda _: None)

    def incr(self, name: str, amount: int) -> Plan[int]:
        wire, expiry = self._wire(name), self._milliseconds(DEFAULT_TTL)
        increment = ("INCRBY", wire, self._amount(amount))
        if expiry is None:
            return Plan((increment,), int)
        return Plan((("SET", wire, 0, "PX", expiry, "NX"), increment), lambda replies: int(replies[1]))

    # Keys of any kind.

    def delete_many(self, names: Iterable[str], kind: str) -> Plan[int]:
        wires = self._wires(names, kind)
        return Plan((("DEL", *wires.values()),), int) if wires else Plan((), lambda _: 0)

    def delete(self, name: str, kind: str) -> Plan[bool]:
        return Plan((("DEL", self._wire(name, kind)),), bool)

    def exists(self, name: str, kind: str) -> Plan[bool]:
        return Plan((("EXISTS", self._wire(name, kind)),), bool)

    def expire(self, name: str, ttl: Ttl, kind: str) -> Plan[bool]:
        wire, expiry = self._wire(name, kind), self._milliseconds(ttl)
        if expiry is not None:
            return Plan((("PEXPIRE", wire, expiry),), bool)
        # PERSIST answers 0 both for a missing key and for one without expiry.
        return Plan((("PERSIST", wire), ("EXISTS", wire)), lambda replies: bool(replies[1]))

    def ttl(self, name: str, kind: str) -> Plan[float | None]:
        def read(left: int) -> float | None:
            # PTTL: -2 for a missing key, -1 for one without expiry. A key in its last millisecond is still there.
            return None if left == -1 else 0.0 if left == -2 else max(1, left) / 1000

        return Plan((("PTTL", self._wire(name, kind)),), read)

    def scan(self, cursor: int, match: str, count: int, kind: str) -> Plan[tuple[int, list[str]]]:
        """One page: the next cursor (0 at the end) and its keys."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{self.owner}: count must be a whole number, 1 or more, not {count!r:.60}.")
        # A prefix and a kind have no character that means something in a pattern.
        pattern = self._wire(match, kind)
        start = len(self.prefix) + len(kind) + 2

        def read(page: tuple[bytes, list[bytes]]) -> tuple[int, list[str]]:
            return int(page[0]), [self._text(wire[start:]) for wire in page[1]]

        return Plan((("SCAN", cursor, "MATCH", pattern, "COUNT", count),), read)

    # Hashes.

    def hset(self, name: str, mapping: Mapping[str, Any], ttl: Ttl) -> Plan[int]:
        wire, expiry = self._wire(name, HASH), self._milliseconds(ttl)
        pairs: list[bytes] = []
        for key, value in mapping.items():
            pairs += (self._field(key), self._dumps(f"{name}[{key}]", value))
        if not pairs:
            return Plan((), lambda _: 0)
        lifetime = ("PERSIST", wire) if expiry is None else ("PEXPIRE", wire, expiry)
        return Plan((("HSET", wire, *pairs), lifetime), lambda replies: int(replies[0]))

    def hget(self, name: str, key: str, default: Any) -> Plan[Any]:
        return self._one_value(f"{name}[{key}]", default, "HGET", self._wire(name, HASH), self._field(key))

    def hgetall(self, name: str) -> Plan[dict[str, Any]]:
        def read(reply: dict[bytes, bytes] | list[bytes]) -> dict[str, Any]:
            # A dict in RESP3, a flat list in RESP2.
            pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
            named = ((self._text(key), data) for key, data in pairs)
            return {key: self._loads(f"{name}[{key}]", data) for key, data in named}

        return Plan((("HGETALL", self._wire(name, HASH)),), read)

    def hdel(self, name: str, keys: tuple[str, ...]) -> Plan[int]:
        wire, wires = self._wire(name, HASH), [self._field(key) for key in keys]
        return Plan((("HDEL", wire, *wires),), int) if wires else Plan((), lambda _: 0)

    def hincr(self, name: str, key: str, amount: int) -> Plan[int]:
        wire, expiry = self._wire(name, HASH), self._milliseconds(DEFAULT_TTL)
        change = (self._field(key), self._amount(amount))
        if expiry is None:
            return Plan((("HINCRBY", wire, *change),), int)
        return Plan((("EVAL", _HINCR, 1, wire, *change, expiry),), int)

    # Locks.

    def lock(self, name: str, timeout: float, blocking_timeout: float | None) -> LockPlan:
        held = milliseconds(timeout, self.owner, "timeout")
        if held is None:
            raise ValueError(f"{self.owner}: a lock needs a timeout, or a killed process would hold it for ever.")
        # 0 is a fair wait: one try.
        if blocking_timeout != 0 or isinstance(blocking_timeout, bool):
            milliseconds(blocking_timeout, self.owner, "blocking_timeout")
        arguments = {
            "name": self._wire(name, LOCK),
            "timeout": held / 1000,
            "blocking_timeout": blocking_timeout,
            # The lock object belongs to one block, which may be left in another thread than it was entered.
            "thread_local": False,
        }
        return LockPlan(self.owner, name, arguments)


def milliseconds(seconds: Any, owner: str, what: str = "ttl") -> int | None:
    """Return ``seconds`` as whole milliseconds, at least 1; None stays None. Raises ``TypeError``, ``ValueError``."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{owner}: {what} must be a number of seconds or None, not {type(seconds).__name__}.")
    if not 0 < seconds <= MAX_TTL:
        raise ValueError(f"{owner}: {what} must be above 0 and at most {MAX_TTL} seconds, not {seconds!r:.60}.")
    return max(1, round(seconds * 1000))
