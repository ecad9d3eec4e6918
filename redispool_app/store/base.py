"""``RedisBase``: what a project subclasses for a Redis-backed store of its own."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar, Self, TypeVar

from django.core.exceptions import ImproperlyConfigured
from redis import exceptions as redis_exceptions

from redispool_app.conf.config import DEFAULT_ALIAS
from redispool_app.locks import AsyncLock, SyncLock
from redispool_app.plans import Plan, send, send_async
from redispool_app.redis_pool import RedisConnectionManager
from redispool_app.serialization.serializers import Serializer, find_for_store

from .operations import DEFAULT_TTL, VALUE, LockPlan, StorePlans, Ttl, milliseconds

__all__ = ["DEFAULT_TTL", "RedisBase"]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RedisBase:
    """A store of values, counters, hashes and locks under a prefix of its own.

    ::

        class Carts(RedisBase):
            prefix = "carts"
            default_ttl = 3600

        carts = Carts()
        await carts.set("ada", {"tea": 2})   # or carts.set_sync(...)
        await carts.get("ada")

    Each method ``name`` has a blocking twin ``name_sync``. A class without a prefix is abstract. The attributes are
    read and checked once, when the class is defined; ``ImproperlyConfigured`` names the class and the cure.

    No two stores collide. A prefix belongs to one class per alias: a subclass of a concrete store needs a
    prefix of its own too. A key at Redis is ``{prefix}:{kind}:{key}`` in UTF-8, where neither prefix nor kind holds
    a colon: kind ``v`` is a value or counter, ``h`` a hash, ``lock`` a lock. For any other type take a kind of your
    own: ``await client.zadd(scores.key("week", "z"), ...)`` within ``scores.manager.get_connection()``.

    Times are in seconds, down to 0.001. Writing resets the time to live of the whole key, to the store's
    ``default_ttl`` unless ``ttl`` says otherwise; None means no expiry. ``incr`` and ``hincr`` set it only on
    what they create.

    Everything that talks to Redis raises ``RedisUnavailable`` and its kin from ``redispool_app.exceptions``.
    A key, time or value that cannot be sent is a ``TypeError`` or ``ValueError`` before anything is. An error that
    Redis answers with (``redis.exceptions.ResponseError``) and stored data that the serializer cannot read
    (``ValueError``) are raised to the caller and leave the pool healthy.
    """

    prefix: ClassVar[str | None] = None
    """1 to 64 letters, digits, ``_``, ``.`` or ``-``."""
    default_ttl: ClassVar[float | None] = None
    """Seconds that a key lives unless told otherwise; None for no expiry."""
    serializer: ClassVar[str | Serializer] = "json"
    """``"json"``, ``"bytes"``, ``"msgpack"``, or an object with ``dumps`` and ``loads``."""
    alias: ClassVar[str] = DEFAULT_ALIAS
    """Which pool of ``REDIS_POOL`` holds the data."""

    _plans: ClassVar[StorePlans]
    _owners: ClassVar[dict[tuple[str, str], weakref.ref[type[RedisBase]]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = cls.__qualname__
        serializer = find_for_store(cls.serializer, owner)
        _check(cls)
        if cls.prefix is not None:
            _claim(cls, cls.alias, cls.prefix)
            cls._plans = StorePlans(owner, cls.prefix, cls.default_ttl, serializer)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.prefix is None:
            raise ImproperlyConfigured(
                f"{cls.__qualname__} has no prefix: subclass it and set one, such as prefix = 'carts'."
            )
        return super().__new__(cls)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.prefix!r} on {self.alias!r}>"

    @property
    def manager(self) -> RedisConnectionManager:
        """The manager of this store's alias."""
        return RedisConnectionManager(self.alias)

    def key(self, name: str, kind: str = VALUE) -> str:
        """Return the full key at Redis. Raises ``TypeError`` or ``ValueError`` unless ``name`` is non-empty text."""
        return self._plans.key(name, kind)

    # Values and counters.

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` for a missing key."""
        return await self._run(self._plans.get(key, default))

    def get_sync(self, key: str, default: Any = None) -> Any:
        """The twin of ``get``."""
        return self._run_sync(self._plans.get(key, default))

    async def set(self, key: str, value: Any, ttl: Ttl = DEFAULT_TTL, *, nx: bool = False, xx: bool = False) -> bool:
        """Write the value, only to a missing key with ``nx``, only to an existing one with ``xx``; say if written."""
        return await self._run(self._plans.set(key, value, ttl, nx, xx))

    def set_sync(self, key: str, value: Any, ttl: Ttl = DEFAULT_TTL, *, nx: bool = False, xx: bool = False) -> bool:
        """The twin of ``set``."""
        return self._run_sync(self._plans.set(key, value, ttl, nx, xx))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that exist, by key."""
        return await self._run(self._plans.get_many(keys))

    def get_many_sync(self, keys: Iterable[str]) -> dict[str, Any]:
        """The twin of ``get_many``."""
        return self._run_sync(self._plans.get_many(keys))

    async def set_many(self, mapping: Mapping[str, Any], ttl: Ttl = DEFAULT_TTL) -> None:
        """Write all values or, when one of them cannot be serialized, none."""
        return await self._run(self._plans.set_many(mapping, ttl))

    def set_many_sync(self, mapping: Mapping[str, Any], ttl: Ttl = DEFAULT_TTL) -> None:
        """The twin of ``set_many``."""
        return self._run_sync(self._plans.set_many(mapping, ttl))

    async def incr(self, key: str, amount: int = 1) -> int:
        """Add to a counter, atomically, and return its new value; a missing one starts at 0.

        Only a new counter gets the ``default_ttl``. ``get`` reads counters too; with the bytes serializer, as digits.
        """
        return await self._run(self._plans.incr(key, amount))

    def incr_sync(self, key: str, amount: int = 1) -> int:
        """The twin of ``incr``."""
        return self._run_sync(self._plans.incr(key, amount))

    # Keys of any kind.

    async def delete(self, key: str, kind: str = VALUE) -> bool:
        """Delete the key; return whether it existed."""
        return await self._run(self._plans.delete(key, kind))

    def delete_sync(self, key: str, kind: str = VALUE) -> bool:
        """The twin of ``delete``."""
        return self._run_sync(self._plans.delete(key, kind))

    async def delete_many(self, keys: Iterable[str], kind: str = VALUE) -> int:
        """Delete the keys; return how many existed."""
        return await self._run(self._plans.delete_many(keys, kind))

    def delete_many_sync(self, keys: Iterable[str], kind: str = VALUE) -> int:
        """The twin of ``delete_many``."""
        return self._run_sync(self._plans.delete_many(keys, kind))

    async def exists(self, key: str, kind: str = VALUE) -> bool:
        """Return whether the key exists."""
        return await self._run(self._plans.exists(key, kind))

    def exists_sync(self, key: str, kind: str = VALUE) -> bool:
        """The twin of ``exists``."""
        return self._run_sync(self._plans.exists(key, kind))

    async def expire(self, key: str, ttl: Ttl = DEFAULT_TTL, kind: str = VALUE) -> bool:
        """Set the time to live again, None for no expiry; return whether the key exists."""
        return await self._run(self._plans.expire(key, ttl, kind))

    def expire_sync(self, key: str, ttl: Ttl = DEFAULT_TTL, kind: str = VALUE) -> bool:
        """The twin of ``expire``."""
        return self._run_sync(self._plans.expire(key, ttl, kind))

    async def ttl(self, key: str, kind: str = VALUE) -> float | None:
        """Return the seconds left, None for no expiry, 0.0 for a missing key (as django-redis does)."""
        return await self._run(self._plans.ttl(key, kind))

    def ttl_sync(self, key: str, kind: str = VALUE) -> float | None:
        """The twin of ``ttl``."""
        return self._run_sync(self._plans.ttl(key, kind))

    async def scan(self, match: str = "*", count: int = 100, kind: str = VALUE) -> AsyncIterator[str]:
        """Iterate over this store's keys of one kind, without blocking the server.

        ``match`` is a glob pattern, ``count`` how many keys the server looks at for each page. What SCAN promises
        holds: a key that is there throughout comes at least once, perhaps twice.
        https://redis.io/docs/latest/commands/scan/#scan-guarantees
        """
        cursor, more = 0, True
        while more:
            cursor, names = await self._run(self._plans.scan(cursor, match, count, kind))
            for name in names:
                yield name
            more = cursor != 0

    def scan_sync(self, match: str = "*", count: int = 100, kind: str = VALUE) -> Iterator[str]:
        """The twin of ``scan``."""
        cursor, more = 0, True
        while more:
            cursor, names = self._run_sync(self._plans.scan(cursor, match, count, kind))
            yield from names
            more = cursor != 0

    # Hashes.

    async def hset(self, key: str, mapping: Mapping[str, Any], ttl: Ttl = DEFAULT_TTL) -> int:
        """Write fields of a hash, all in one, and set the hash's time to live; return how many fields are new."""
        return await self._run(self._plans.hset(key, mapping, ttl))

    def hset_sync(self, key: str, mapping: Mapping[str, Any], ttl: Ttl = DEFAULT_TTL) -> int:
        """The twin of ``hset``."""
        return self._run_sync(self._plans.hset(key, mapping, ttl))

    async def hget(self, key: str, field: str, default: Any = None) -> Any:
        """Return one field's value, or ``default`` for a missing field or hash."""
        return await self._run(self._plans.hget(key, field, default))

    def hget_sync(self, key: str, field: str, default: Any = None) -> Any:
        """The twin of ``hget``."""
        return self._run_sync(self._plans.hget(key, field, default))

    async def hgetall(self, key: str) -> dict[str, Any]:
        """Return all values by field; a missing hash is an empty dict."""
        return await self._run(self._plans.hgetall(key))

    def hgetall_sync(self, key: str) -> dict[str, Any]:
        """The twin of ``hgetall``."""
        return self._run_sync(self._plans.hgetall(key))

    async def hdel(self, key: str, *fields: str) -> int:
        """Delete fields; return how many existed. The hash itself goes with its last field."""
        return await self._run(self._plans.hdel(key, fields))

    def hdel_sync(self, key: str, *fields: str) -> int:
        """The twin of ``hdel``."""
        return self._run_sync(self._plans.hdel(key, fields))

    async def hincr(self, key: str, field: str, amount: int = 1) -> int:
        """Add to a counter in a hash, atomically, and return its new value.

        Only a new hash gets the ``default_ttl``.
        """
        return await self._run(self._plans.hincr(key, field, amount))

    def hincr_sync(self, key: str, field: str, amount: int = 1) -> int:
        """The twin of ``hincr``."""
        return self._run_sync(self._plans.hincr(key, field, amount))

    # Locks.

    @asynccontextmanager
    async def lock(
        self, key: str, timeout: float = 10.0, blocking_timeout: float | None = 10.0
    ) -> AsyncIterator[AsyncLock]:
        """Hold a lock for the length of the block: one holder among all processes.

        ``timeout`` is how long Redis keeps the lock for a holder that has gone; ``lock.extend(seconds)`` adds to it.
        ``blocking_timeout`` is how long to wait for the lock, 0 for one try, None for ever. Raises
        ``redis.exceptions.LockError`` when it is not free in time, and on leaving the block
        ``LockNotOwnedError`` when it was lost meanwhile. An exception of the block's own comes first; what
        happened to the lock is then a note on it.
        """
        plan = self._plans.lock(key, timeout, blocking_timeout)
        async with self.manager.get_connection() as client:
            lock = AsyncLock(self.manager, client, plan.arguments)
            try:
                acquired = await lock.acquire(token=plan.token)
            except asyncio.CancelledError:
                # Redis may have granted what this caller no longer wants.
                with suppress(redis_exceptions.RedisError):
                    await lock.do_release(plan.token.encode())
                raise
        if not acquired:
            raise plan.refused()
        try:
            yield lock
        except BaseException as error:
            with plan.after(error):
                await self._release(lock, plan)
            raise
        await self._release(lock, plan)

    @contextmanager
    def lock_sync(self, key: str, timeout: float = 10.0, blocking_timeout: float | None = 10.0) -> Iterator[SyncLock]:
        """The twin of ``lock``."""
        plan = self._plans.lock(key, timeout, blocking_timeout)
        with self.manager.get_sync_connection():
            lock = SyncLock(self.manager, plan.arguments)
            acquired = lock.acquire(token=plan.token)
        if not acquired:
            raise plan.refused()
        try:
            yield lock
        except BaseException as error:
            with plan.after(error):
                self._release_sync(lock, plan)
            raise
        self._release_sync(lock, plan)

    async def _release(self, lock: AsyncLock, plan: LockPlan) -> None:
        if lock.local.token is None:
            return  # the block has released it itself
        lost = False
        async with self.manager.get_connection():
            try:
                await lock.release()
            except redis_exceptions.LockError:
                lost = True
        if lost:
            raise plan.lost()

    def _release_sync(self, lock: SyncLock, plan: LockPlan) -> None:
        if lock.local.token is None:
            return
        lost = False
        with self.manager.get_sync_connection():
            try:
                lock.release()
            except redis_exceptions.LockError:
                lost = True
        if lost:
            raise plan.lost()

    # Carrying out a plan.

    async def _run(self, plan: Plan[T]) -> T:
        reply: Any = None
        if plan.commands:
            async with self.manager.get_connection() as client:
                try:
                    reply = await send_async(client, plan)
                except redis_exceptions.ResponseError as error:
                    reply = error
        return _read(plan, reply)

    def _run_sync(self, plan: Plan[T]) -> T:
        reply: Any = None
        if plan.commands:
            with self.manager.get_sync_connection() as client:
                try:
                    reply = send(client, plan)
                except redis_exceptions.ResponseError as error:
                    reply = error
        return _read(plan, reply)


def _read(plan: Plan[T], reply: Any) -> T:
    """Read the reply. Done outside of ``get_connection()``: what it raises must not mark the pool unhealthy."""
    if isinstance(reply, redis_exceptions.ResponseError):
        raise reply
    return plan.read(reply)


def _check(cls: type[RedisBase]) -> None:
    """Raise ``ImproperlyConfigured`` for a class attribute that cannot be meant."""
    owner = cls.__qualname__
    if not callable(cls.ttl):
        raise ImproperlyConfigured(f"{owner}: ttl is a method; name the time to live default_ttl.")
    for name, value in (("prefix", cls.prefix), ("alias", cls.alias)):
        if name == "prefix" and value is None:
            continue
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ImproperlyConfigured(
                f"{owner}: {name} must be 1 to 64 letters, digits, '_', '.' or '-', not {value!r:.80}."
            )
    try:
        milliseconds(cls.default_ttl, owner, "default_ttl")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from None


def _claim(cls: type[RedisBase], alias: str, prefix: str) -> None:
    """Make ``prefix`` the property of ``cls``. The same class defined again, as on a reload, takes it over."""
    known = RedisBase._owners.get((alias, prefix))
    if known is not None and _is_another(known(), cls):
        # A class is part of reference cycles, so one that is no longer used may still exist.
        gc.collect()
        if (holder := known()) is not None:
            raise ImproperlyConfigured(
                f"{cls.__module__}.{cls.__qualname__}: prefix {prefix!r} on {alias!r} belongs to "
                f"{holder.__module__}.{holder.__qualname__}; set another one."
            )
    RedisBase._owners[alias, prefix] = weakref.ref(cls)


def _is_another(holder: type[RedisBase] | None, cls: type[RedisBase]) -> bool:
    return holder is not None and (holder.__module__, holder.__qualname__) != (cls.__module__, cls.__qualname__)
