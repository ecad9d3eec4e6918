"""What people use beside Django's cache API: lifetimes, keys by pattern, locks, the raw client.

Names, arguments and answers are django-redis's; each method has a twin with an ``a`` in front.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from redispool_app.engine import AsyncRedis, SyncRedis
from redispool_app.locks import AsyncCacheLock, SyncLock
from redispool_app.plans import Plan

from .keys import STALE, KeyTemplate, escaped, is_side_key

if TYPE_CHECKING:
    from .context import Setup

T = TypeVar("T")

_PAGE = 1_000
"""How many keys the server looks at for each page of a search."""


class CacheExtras:
    """The extras of ``RedisPoolCache``."""

    if TYPE_CHECKING:
        _setup: Setup
        version: Any
        _full_key: Callable[..., str]
        make_key: Callable[..., str]
        get_backend_timeout: Callable[..., int | None]

        def _run(self, plan: Plan[T]) -> T: ...
        async def _arun(self, plan: Plan[T]) -> T: ...

    # Lifetimes.

    def ttl(self, key: Any, version: Any = None) -> int | None:
        """Return the seconds left, None for no expiry, 0 for a missing key."""
        return self._run(self._setup.plans.ttl(self._full_key(key, version), "TTL"))

    async def attl(self, key: Any, version: Any = None) -> int | None:
        """The twin of ``ttl``."""
        return await self._arun(self._setup.plans.ttl(self._full_key(key, version), "TTL"))

    def pttl(self, key: Any, version: Any = None) -> int | None:
        """Return the milliseconds left, None for no expiry, 0 for a missing key."""
        return self._run(self._setup.plans.ttl(self._full_key(key, version), "PTTL"))

    async def apttl(self, key: Any, version: Any = None) -> int | None:
        """The twin of ``pttl``."""
        return await self._arun(self._setup.plans.ttl(self._full_key(key, version), "PTTL"))

    def persist(self, key: Any, version: Any = None) -> bool:
        """Let the key live for ever; return whether it had an expiry."""
        return self._run(self._setup.plans.persist(self._full_key(key, version)))

    async def apersist(self, key: Any, version: Any = None) -> bool:
        """The twin of ``persist``."""
        return await self._arun(self._setup.plans.persist(self._full_key(key, version)))

    def expire(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        """Set the seconds left, or those of a timedelta; return whether the key exists."""
        return self._run(self._plan_expire(key, timeout, version))

    async def aexpire(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        """The twin of ``expire``."""
        return await self._arun(self._plan_expire(key, timeout, version))

    def _plan_expire(self, key: Any, timeout: Any, version: Any) -> Plan[bool]:
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        return self._setup.plans.touch(self._full_key(key, version), self.get_backend_timeout(timeout))

    def pexpire(self, key: Any, timeout: int | timedelta, version: Any = None) -> bool:
        """Set the milliseconds left, or those of a timedelta; return whether the key exists."""
        return self._run(self._setup.plans.expire(self._full_key(key, version), timeout, "PEXPIRE"))

    async def apexpire(self, key: Any, timeout: int | timedelta, version: Any = None) -> bool:
        """The twin of ``pexpire``."""
        return await self._arun(self._setup.plans.expire(self._full_key(key, version), timeout, "PEXPIRE"))

    def expire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """Let the key expire at a time, a datetime or Unix time in seconds; return whether the key exists."""
        return self._run(self._setup.plans.expire_at(self._full_key(key, version), when, "EXPIREAT"))

    async def aexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """The twin of ``expire_at``."""
        return await self._arun(self._setup.plans.expire_at(self._full_key(key, version), when, "EXPIREAT"))

    def pexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """Let the key expire at a time, a datetime or Unix time in milliseconds; return whether the key exists."""
        return self._run(self._setup.plans.expire_at(self._full_key(key, version), when, "PEXPIREAT"))

    async def apexpire_at(self, key: Any, when: datetime | float, version: Any = None) -> bool:
        """The twin of ``pexpire_at``."""
        return await self._arun(self._setup.plans.expire_at(self._full_key(key, version), when, "PEXPIREAT"))

    # Searching: SCAN, page by page, so that the server answers others meanwhile.

    def keys(self, search: str = "*", version: Any = None) -> list[str]:
        """Return the keys of one version that match a glob pattern, as the cache's callers know them."""
        return list(dict.fromkeys(self.iter_keys(search, version=version)))

    async def akeys(self, search: str = "*", version: Any = None) -> list[str]:
        """The twin of ``keys``."""
        return list(dict.fromkeys([key async for key in self.aiter_keys(search, version=version)]))

    def iter_keys(self, search: str = "*", itersize: int | None = None, version: Any = None) -> Iterator[str]:
        """Iterate over what ``keys`` returns; ``itersize`` is how many keys the server looks at for each page.

        What SCAN promises holds: a key that is there throughout comes at least once, perhaps twice.
        """
        glob, name = self._search(search, version)
        for page in self._pages([glob], itersize):
            for found in page or ():
                if not is_side_key(full := _text(found)):
                    yield name(full)

    async def aiter_keys(
        self, search: str = "*", itersize: int | None = None, version: Any = None
    ) -> AsyncIterator[str]:
        """The twin of ``iter_keys``."""
        glob, name = self._search(search, version)
        async for page in self._apages([glob], itersize):
            for found in page or ():
                if not is_side_key(full := _text(found)):
                    yield name(full)

    def delete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        """Delete the keys of one version that match a glob pattern; return how many there were."""
        deleted = 0
        for page in self._pages(self._doomed(pattern, version), itersize):
            for keys, counts in _deletions(page):
                deleted += (self._run(self._setup.plans.unlink(keys)) or 0) * counts
        return deleted

    async def adelete_pattern(self, pattern: str, version: Any = None, itersize: int | None = None) -> int:
        """The twin of ``delete_pattern``."""
        deleted = 0
        async for page in self._apages(self._doomed(pattern, version), itersize):
            for keys, counts in _deletions(page):
                deleted += (await self._arun(self._setup.plans.unlink(keys)) or 0) * counts
        return deleted

    def clear(self) -> bool:
        """Delete all keys of this cache and no others; return whether that was possible.

        It never sends FLUSHDB unless ``CLEAR_FLUSHES_DB`` asks for it, and takes for its own what begins with its
        KEY_PREFIX and a version: a number, or the cache's own VERSION if that is a word. Raises
        ``ImproperlyConfigured`` where a KEY_FUNCTION hides that.
        """
        if self._setup.options.clear_flushes_db:
            return self._run(self._setup.plans.flush())
        globs, owns = self._all()
        for page in self._pages(globs, None):
            if page is None:
                return False
            keys = [found for found in page if owns(_text(found))]
            if keys and self._run(self._setup.plans.unlink(keys)) is None:
                return False
        return True

    async def aclear(self) -> bool:
        """The twin of ``clear``."""
        if self._setup.options.clear_flushes_db:
            return await self._arun(self._setup.plans.flush())
        globs, owns = self._all()
        async for page in self._apages(globs, None):
            if page is None:
                return False
            keys = [found for found in page if owns(_text(found))]
            if keys and await self._arun(self._setup.plans.unlink(keys)) is None:
                return False
        return True

    def _pages(self, globs: list[str], itersize: int | None) -> Iterator[list[bytes] | None]:
        """Yield the full keys that match; None at an outage that is ignored."""
        for glob in globs:
            cursor, more = 0, True
            while more:
                cursor, page = self._run(self._setup.plans.scan(cursor, glob, itersize or _PAGE))
                yield page
                more = cursor != 0

    async def _apages(self, globs: list[str], itersize: int | None) -> AsyncIterator[list[bytes] | None]:
        for glob in globs:
            cursor, more = 0, True
            while more:
                cursor, page = await self._arun(self._setup.plans.scan(cursor, glob, itersize or _PAGE))
                yield page
                more = cursor != 0

    def _search(self, pattern: str, version: Any) -> tuple[str, Callable[[str], str]]:
        """Return the glob for full keys, and what makes a caller's key of one."""
        version = self.version if version is None else version
        template = KeyTemplate.probe(self.make_key)
        return template.glob(pattern, version), self._setup.reverse or (lambda full: template.reverse(full, version))

    def _doomed(self, pattern: str, version: Any) -> list[str]:
        glob, _ = self._search(pattern, version)
        return [glob, glob + escaped(STALE)] if self._setup.options.stale_timeout else [glob]

    def _all(self) -> tuple[list[str], Callable[[str], bool]]:
        template = KeyTemplate.probe(self.make_key)
        return template.globs_of_all(), template.owns(self.version)

    # Locks and clients.

    def lock(
        self,
        key: Any,
        version: Any = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> SyncLock:
        """Return redis-py's lock of that name, for ``with``: one holder among all processes. Times are in seconds.

        ``timeout`` is how long the server keeps it for a holder that has gone, None for ever. Whoever holds it or waits
        for it may do so across a reset of the pool. Locks are never pretended: this raises during an outage,
        ``IGNORE_EXCEPTIONS`` or not.
        """
        name = self._full_key(key, version)
        arguments = _lock_arguments(name, timeout, sleep, blocking, blocking_timeout, thread_local)
        return SyncLock(self._setup.manager, arguments)

    def alock(
        self,
        key: Any,
        version: Any = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> AsyncCacheLock:
        """The twin of ``lock``, for ``async with``."""
        name = self._full_key(key, version)
        arguments = _lock_arguments(name, timeout, sleep, blocking, blocking_timeout, thread_local)
        return AsyncCacheLock(self._setup.manager, arguments)

    def get_client(self) -> SyncRedis:
        """Return the pool's blocking client; it is shared, so never close it. Full keys come from ``make_key``."""
        return self._setup.manager.get_sync_client()

    async def aget_client(self) -> AsyncRedis:
        """The twin of ``get_client``: the running event loop's client."""
        return await self._setup.manager.get_client()


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _deletions(page: list[bytes] | None) -> Iterator[tuple[list[bytes], int]]:
    """Split a page into what counts and, with 0, what goes with it."""
    keys: tuple[list[bytes], list[bytes]] = ([], [])
    for key in page or ():
        keys[is_side_key(_text(key))].append(key)
    for beside, found in enumerate(keys):
        if found:
            yield found, 1 - beside


def _lock_arguments(
    name: str,
    timeout: float | None,
    sleep: float,
    blocking: bool,
    blocking_timeout: float | None,
    thread_local: bool,
) -> dict[str, Any]:
    """Return those of redis-py's locks."""
    return {
        "name": name,
        "timeout": timeout,
        "sleep": sleep,
        "blocking": blocking,
        "blocking_timeout": blocking_timeout,
        "thread_local": thread_local,
    }
