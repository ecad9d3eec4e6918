"""The asyncio pipeline: its commands are sent together on the shared connection."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic, perf_counter
from typing import Any, ClassVar, cast

import redis.asyncio
import redis.asyncio.client
from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.blocking import patient_in_multi
from redispool_app.engine.connection.read_only import (
    REFUSALS,
    is_refusal,
    note_refusal_async,
    refused_in_exec,
    refused_of,
    second_attempt_async,
    to_repeat,
)
from redispool_app.engine.multiplex.multiplexer_async import AsyncMultiplexer, async_multiplexer_of
from redispool_app.engine.protocol.commands import pipeline_info
from redispool_app.engine.protocol.packing import pack
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.runtime.socket_look import connect, has_ended
from redispool_app.engine.stats.request_timing import current_timing
from redispool_app.engine.stats.slow_log import note_dedicated
from redispool_app.exceptions import CommandRefused

from .dedicated import DedicatedAsync, is_harmless, outcome_unknown_on_loss
from .pipeline_base import PipelineAdapter


class AsyncPipeline(DedicatedAsync, redis.asyncio.client.Pipeline):  # type: ignore[misc]
    """redis-py's asyncio pipeline. Without WATCH its commands are sent together on the shared connection."""

    _ends_watch = True

    client_class: ClassVar[Any] = None
    """The client class that loads its scripts. ``client_async`` sets it."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        timing = current_timing.get()
        if timing is None:
            return await self._execute(raise_on_error)
        commands, started = len(self.command_stack), perf_counter()
        try:
            return await self._execute(raise_on_error)
        finally:
            timing.add(commands, perf_counter() - started)

    async def _execute(self, raise_on_error: bool) -> list[Any]:
        stack = self.command_stack
        transaction = self.is_transaction or self.explicit_transaction
        if not stack or self.watching or self.connection is not None:
            return await self._run_dedicated(raise_on_error, transaction)
        if self.scripts:
            await self._load_scripts()
        sharing = async_multiplexer_of(self.connection_pool)
        is_exclusive, reads = pipeline_info(stack)
        if sharing is None or is_exclusive:
            return await self._run_dedicated(raise_on_error, transaction)
        try:
            unit = _Adapter(sharing, stack, transaction, reads)
        except BaseException:
            await self.reset()  # as redis-py does after a command that cannot be sent
            raise
        if len(unit.packed) > sharing.limits.max_shared_bytes:
            return await self._run_dedicated(raise_on_error, transaction)
        execute = self._execute_transaction if transaction else self._execute_pipeline
        replies: Awaitable[list[Any]] = execute(cast(Any, unit), stack, raise_on_error)
        if sharing.telemetry is not None:
            replies = sharing.telemetry.of_reply("MULTI" if transaction else "PIPELINE", replies)
        kept = False
        try:
            return await replies
        except Exception as error:
            kept = unit.was_kept_back(error)
            raise
        finally:
            if not kept:
                await self.reset()

    async def _run_dedicated(self, raise_on_error: bool, transaction: bool) -> list[Any]:
        """Let redis-py run the pipeline on a dedicated connection."""
        refuse_unsupported_runtime()
        stack, started = [args for args, _ in self.command_stack], monotonic()
        try:
            self._refuse_pipelined(self.command_stack, transaction)
        except CommandRefused:
            await self.reset()
            raise
        try:
            if self.watching:
                return await self._run_watching(raise_on_error)
            if self.is_transaction or self.explicit_transaction:
                return await self._run_transaction(raise_on_error)
            return await self._run_pipeline(raise_on_error)
        finally:
            note_dedicated(self.connection_pool, stack, started)

    async def _run_watching(self, raise_on_error: bool) -> list[Any]:
        """Run a transaction with WATCH once. A new connection would watch nothing, but the next attempt finds it."""
        try:
            replies = await super().execute(raise_on_error)
        except REFUSALS as error:
            if is_refusal(error):
                await note_refusal_async(self.connection_pool, error)
            raise
        if refused := refused_in_exec(replies):
            await note_refusal_async(self.connection_pool, refused[0])
        return replies

    async def _run_transaction(self, raise_on_error: bool) -> list[Any]:
        """Run a transaction. If a replica refuses it, run it once more as a whole."""
        commands = list(self.command_stack)
        try:
            replies = await super().execute(raise_on_error)
            if not refused_in_exec(replies):
                return replies
        except REFUSALS as error:
            if not is_refusal(error):
                raise
        later: list[Any] = []
        try:
            async with second_attempt_async(self.connection_pool):
                self.command_stack = commands
                later = await super().execute(raise_on_error)
                if still := refused_in_exec(later):
                    raise still[0]
        except redis_exceptions.ReadOnlyError:
            if not later:
                raise
        return later

    async def _run_pipeline(self, raise_on_error: bool) -> list[Any]:
        """Run a pipeline. Run once more the commands that a replica refused."""
        commands = list(self.command_stack)
        replies = await super().execute(False)
        if refused := refused_of(replies):
            with suppress(*REFUSALS):
                async with second_attempt_async(self.connection_pool):
                    again = to_repeat(commands, refused)
                    self.command_stack = [commands[at] for at in again]
                    for at, reply in zip(again, await super().execute(False), strict=True):
                        replies[at] = reply
                    if still := refused_of(replies):
                        raise replies[still[0]]
        if raise_on_error:
            self.raise_first_error(commands, replies)
        return replies

    async def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute = cast(Callable[..., Awaitable[list[Any]]], super()._execute_transaction)
        if is_harmless(connection, commands):
            return await execute(connection, commands, raise_on_error)
        if self.watching:
            await self._assert_watched(connection)
        else:
            await connect(connection)
        with outcome_unknown_on_loss(self.connection_pool, "transaction"), patient_in_multi(connection, commands):
            return await execute(connection, commands, raise_on_error)

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute = cast(Callable[..., Awaitable[list[Any]]], super()._execute_pipeline)
        if isinstance(connection, PipelineAdapter):
            return await execute(connection, commands, raise_on_error)
        with self._waiting_in_turn(commands):
            if is_harmless(connection, commands):
                return await execute(connection, commands, raise_on_error)
            await connect(connection)
            with outcome_unknown_on_loss(self.connection_pool, "pipeline"):
                return await execute(connection, commands, raise_on_error)

    async def _assert_watched(self, connection: Any) -> None:
        """Raise ``ConnectionError`` if the connection that watches has been lost before anything was written."""
        fork.use_running_loop()
        reader, writer = connection._reader, connection._writer
        lost = reader is None or reader.at_eof() or reader.exception() is not None or writer.is_closing()
        if not lost and not (lost := has_ended(connection)):
            await connection.check_health()
        # A health check may have connected again. The new connection watches nothing.
        if lost or connection._writer is not writer:
            raise redis_exceptions.ConnectionError("The connection that watched the keys has been lost.")

    async def reset(self) -> None:  # type: ignore[override]
        connection, watching = self.connection, self.watching
        self.watching = False
        try:
            # A failed connection is closed and watches nothing. UNWATCH would connect and wait again.
            if watching and connection is not None and connection.is_connected:
                await _unwatch(connection)
            await self._close_spoilt()
        finally:
            await super().reset()  # type: ignore[no-untyped-call]

    async def _load_scripts(self) -> None:
        """Do the same as ``load_scripts``, but on the shared connection."""
        client = self.client_class(connection_pool=self.connection_pool)
        scripts = list(self.scripts)
        exists = await client.script_exists(*(script.sha for script in scripts))
        for script, known in zip(scripts, exists, strict=True):
            if not known:
                script.sha = await client.script_load(script.script)
        self.scripts.clear()


async def _unwatch(connection: Any) -> None:
    try:
        await connection.send_command("UNWATCH")
        await connection.read_response()
    except redis_exceptions.RedisError:
        await connection.disconnect(nowait=True)


class _Adapter(PipelineAdapter):
    """Commands on the shared connection of an event loop."""

    def __init__(self, sharing: AsyncMultiplexer, stack: Any, transaction: bool, reads: bool) -> None:
        super().__init__(partial(pack, encoder=sharing.encoder), stack, transaction, reads)
        self._sharing = sharing

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        sharing, started = self._sharing, monotonic()
        replies = await sharing.replies(self.packed, self.decode, reads=self.reads)
        self.was_answered = True
        if again := self.refused(replies, noted=sharing.read_only.refused_at >= started):
            if not sharing.replace_if_due():
                await sharing.look_up(math.inf)
            later = await sharing.replies(self.packed_of(again), [self.decode[at] for at in again], reads=self.reads)
            self.put_in(replies, again, later, sharing.read_only)
        self.replies.extend(replies)

    async def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        return self.next_reply()
