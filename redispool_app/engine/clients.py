"""The two clients: redis-py's own, plus a tally of what each caller asked for.

A program written for ``redis.asyncio.Redis`` or ``redis.Redis`` runs unchanged on these.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.client
import redis.client

from .tally import current_tally


class AsyncPipeline(redis.asyncio.client.Pipeline):
    """redis-py's asyncio pipeline, tallied."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        tally = current_tally.get()
        if tally is None:
            return await super().execute(raise_on_error)
        commands, started = len(self.command_stack), perf_counter()
        try:
            return await super().execute(raise_on_error)
        finally:
            tally.add(commands, perf_counter() - started)


class AsyncRedis(redis.asyncio.Redis):
    """``redis.asyncio.Redis`` on a pool of this project."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        tally = current_tally.get()
        if tally is None:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        started = perf_counter()
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            tally.add(1, perf_counter() - started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> AsyncPipeline:
        return AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class SyncPipeline(redis.client.Pipeline):
    """redis-py's pipeline, tallied."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        tally = current_tally.get()
        if tally is None:
            return super().execute(raise_on_error)
        commands, started = len(self.command_stack), perf_counter()
        try:
            return super().execute(raise_on_error)
        finally:
            tally.add(commands, perf_counter() - started)


class SyncRedis(redis.Redis):
    """``redis.Redis`` on a pool of this project."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        tally = current_tally.get()
        if tally is None:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        started = perf_counter()
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            tally.add(1, perf_counter() - started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> SyncPipeline:
        return SyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
