"""The cache backend: Django's whole cache API on the clients of a ``RedisConnectionManager``.

Async methods await; none hands work to a thread. Sync methods block; none starts an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func
from redis import exceptions as redis_exceptions

from redispool_app.engine.multiplex.retry import FAILED
from redispool_app.plans import Plan, send, send_async
from redispool_app.redis_pool import RedisConnectionManager

from .context import setup_for
from .django_redis_api import CacheExtras
from .get_or_set import CacheStampede
from .operations import portions

T = TypeVar("T")

_RedisError = redis_exceptions.RedisError


class RedisPoolCache(CacheStampede, CacheExtras, BaseCache):  # type: ignore[misc]
    """A cache in Redis, for ``CACHES``; ``docs/cache.md`` says what its LOCATION and OPTIONS can be.

    Answers, errors and stored bytes are those of Django's ``RedisCache`` unless a method says otherwise. Everything
    raises ``RedisUnavailable`` and its kin from ``redispool_app.exceptions``; with ``IGNORE_EXCEPTIONS`` the cache
    is an empty one that stores nothing while Redis is away. Creating one reads no settings and does no I/O; a fault in
    its entry of ``CACHES`` is an ``ImproperlyConfigured`` at first use, and an error of the system checks.
    """

    uses_redis_pool = True
    """Tells ``conf.cache_pools``, which stands below this module, that the class is a cache of this app."""

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        self._setup = setup = setup_for(location, params)
        # Django's own would raise for a faulty one of these; ours tells at first use.
        super().__init__({**params, "OPTIONS": {}, "KEY_FUNCTION": setup.key_function})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What a subclass says about keys holds.
        if any(getattr(cls, name) is not getattr(BaseCache, name) for name in _KEY_METHODS):
            cls._full_key = cls.make_and_validate_key  # type: ignore[method-assign]

    @property
    def manager(self) -> RedisConnectionManager:
        """The manager of the pool that this cache is on."""
        return self._setup.manager

    # One value.

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        full = self._full_key(key, version)
        setup = self._setup
        try:
            data = setup.manager.get_sync_client().get_raw(full)
        except _RedisError as error:
            if not setup.ignores(error):
                raise
            return default
        return default if data is None else setup.codec.loads(data)

    async def aget(self, key: Any, default: Any = None, version: Any = None) -> Any:
        full = self._full_key(key, version)
        setup = self._setup
        manager = setup.manager
        try:
            client = manager.ready_client() or await manager.get_client()
            try:
                data = await (client.send_get(full) or client.execute_raw("GET", full))
            except FAILED as error:
                data = await client.execute_raw("GET", full, lost=error)
        except _RedisError as error:
            if not setup.ignores(error):
                raise
            return default
        return default if data is None else setup.codec.loads(data)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> Any:
        """Store the value; only for a missing key with ``nx``, only for an existing one with ``xx``.

        With one of these, returns whether it was stored (as django-redis does), else None (as Django does).
        """
        return self._run(self._plan_set(key, value, timeout, version, nx, xx))

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> Any:
        """The twin of ``set``."""
        return await self._arun(self._plan_set(key, value, timeout, version, nx, xx))

    def _plan_set(
        self, key: Any, value: Any, timeout: Any, version: Any, nx: bool = False, xx: bool = False
    ) -> Plan[Any]:
        full = self._full_key(key, version)
        return self._setup.plans.set(full, value, self.get_backend_timeout(timeout), nx, xx)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return bool(self._run(self._plan_set(key, value, timeout, version, nx=True)))

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return bool(await self._arun(self._plan_set(key, value, timeout, version, nx=True)))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return self._run(self._plan_touch(key, timeout, version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        return await self._arun(self._plan_touch(key, timeout, version))

    def _plan_touch(self, key: Any, timeout: Any, version: Any) -> Plan[bool]:
        full = self._full_key(key, version)
        return self._setup.plans.touch(full, self.get_backend_timeout(timeout))

    def delete(self, key: Any, version: Any = None) -> bool:
        return self._run(self._setup.plans.delete(self._full_key(key, version)))

    async def adelete(self, key: Any, version: Any = None) -> bool:
        return await self._arun(self._setup.plans.delete(self._full_key(key, version)))

    def has_key(self, key: Any, version: Any = None) -> bool:
        return self._run(self._setup.plans.has_key(self._full_key(key, version)))

    async def ahas_key(self, key: Any, version: Any = None) -> bool:
        return await self._arun(self._setup.plans.has_key(self._full_key(key, version)))

    # Counters: one command at the server, which keeps the key's lifetime.

    def incr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """Add to an integer, atomically.

        Raises ``ValueError`` for a missing key and for what is no 64-bit integer, ``TypeError`` for a ``delta`` that is
        no integer.
        """
        return self._run(self._setup.plans.incr(self._full_key(key, version), delta))

    async def aincr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """The twin of ``incr``."""
        return await self._arun(self._setup.plans.incr(self._full_key(key, version), delta))

    def decr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """Subtract from an integer; raises what ``incr`` raises."""
        return self.incr(key, -delta, version=version)

    async def adecr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """The twin of ``decr``."""
        return await self.aincr(key, -delta, version=version)

    # Several values.

    def get_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for names in portions(self._full_keys(keys, version)):
            part = self._run(self._setup.plans.get_many(names))
            found.update(part)
        return found

    async def aget_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for names in portions(self._full_keys(keys, version)):
            part = await self._arun(self._setup.plans.get_many(names))
            found.update(part)
        return found

    def set_many(self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> list[Any]:
        """Store all values in one transaction; return the keys that were not: all, when an outage is ignored."""
        return self._run(self._plan_set_many(data, timeout, version)) if data else []

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: Any = None
    ) -> list[Any]:
        """The twin of ``set_many``."""
        return await self._arun(self._plan_set_many(data, timeout, version)) if data else []

    def _plan_set_many(self, data: Mapping[Any, Any], timeout: Any, version: Any) -> Plan[list[Any]]:
        values = {self._full_key(key, version): value for key, value in data.items()}
        return self._setup.plans.set_many(values, self.get_backend_timeout(timeout), list(data))

    def delete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        for names in portions(self._full_keys(keys, version)):
            self._run(self._setup.plans.delete_many(list(names)))

    async def adelete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        for names in portions(self._full_keys(keys, version)):
            await self._arun(self._setup.plans.delete_many(list(names)))

    # Versions: the value moves in one command, its lifetime with it.

    def incr_version(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        """Move the value to another version and return that. Raises ``ValueError`` for a missing key.

        Unlike with Django's backends the value keeps its lifetime, and no moment shows both versions or none.
        """
        new, plan = self._plan_rename(key, delta, version)
        self._run(plan)
        return new

    async def aincr_version(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        """The twin of ``incr_version``."""
        new, plan = self._plan_rename(key, delta, version)
        await self._arun(plan)
        return new

    def decr_version(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        """Move the value to an earlier version; see ``incr_version``."""
        return self.incr_version(key, -delta, version)

    async def adecr_version(self, key: Any, delta: int = 1, version: Any = None) -> Any:
        """The twin of ``decr_version``."""
        return await self.aincr_version(key, -delta, version)

    def _plan_rename(self, key: Any, delta: int, version: Any) -> tuple[Any, Plan[None]]:
        version = self.version if version is None else version
        new = version + delta
        return new, self._setup.plans.rename(key, self._full_key(key, version), self._full_key(key, new))

    # Life cycle: connections belong to the pool, and outlive any request.

    def close(self, **kwargs: Any) -> None:
        """Do nothing: Django calls this at the end of every request."""

    async def aclose(self, **kwargs: Any) -> None:
        """The twin of ``close``."""

    # Keys and times.

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int | None:
        """Return whole seconds, 0 for what has expired already, None for ever."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(0, int(timeout))

    def _full_key(self, key: Any, version: Any) -> str:
        """Do what ``make_and_validate_key`` does."""
        if version is None:
            version = self.version
        if self.key_func is default_key_func:
            full = f"{self.key_prefix!s}:{version!s}:{key!s}"
        else:
            full = self.key_func(key, self.key_prefix, version)
        # What is printable has no control character; whatever else is not printable is looked at closely.
        if len(full) > 250 or not full.isprintable() or " " in full:
            self.validate_key(full)
        return full

    def _full_keys(self, keys: Iterable[Any], version: Any) -> dict[str, Any]:
        return {self._full_key(key, version): key for key in keys}

    # Carrying out a plan.

    def _run(self, plan: Plan[T]) -> T:
        try:
            reply = send(self._setup.manager.get_sync_client(), plan)
        except _RedisError as error:
            reply = self._instead(plan, error)
        return plan.read(reply)

    async def _arun(self, plan: Plan[T]) -> T:
        try:
            manager = self._setup.manager
            client = manager.ready_client() or await manager.get_client()
            reply = await send_async(client, plan)
        except _RedisError as error:
            reply = self._instead(plan, error)
        return plan.read(reply)

    def _instead(self, plan: Plan[Any], error: redis_exceptions.RedisError) -> Any:
        """Return the reply to go on with after ``error``, or raise what the caller should know."""
        if plan.explain is not None and isinstance(error, redis_exceptions.ResponseError):
            explained = plan.explain(error)
            if explained is not None:
                raise explained from error
        if not self._setup.ignores(error):
            raise error
        return plan.empty


_KEY_METHODS = ("make_key", "validate_key", "make_and_validate_key")
