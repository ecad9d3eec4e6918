"""The blocking pipeline: its commands are sent together on the shared connection."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any, ClassVar, cast

import redis
import redis.client
from redis import exceptions as redis_exceptions

from redispool_app.engine.connection.blocking import patient_in_multi
from redispool_app.engine.connection.lifecycle import require_own
from redispool_app.engine.connection.read_only import (
    REFUSALS,
    is_refusal,
    note_refusal,
    refused_in_exec,
    refused_of,
    second_attempt,
    to_repeat,
)
from redispool_app.engine.multiplex.multiplexer_sync import SyncMultiplexer, sync_multiplexer_of
from redispool_app.engine.protocol.commands import pipeline_info
from redispool_app.engine.protocol.packing import pack, pack_utf8
from redispool_app.engine.protocol.replies import decoded
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.runtime.nesting import entry
from redispool_app.engine.stats.request_timing import current_timing
from redispool_app.engine.stats.slow_log import note_dedicated
from redispool_app.exceptions import CommandRefused

from .dedicated import DedicatedSync, is_harmless, outcome_unknown_on_loss
from .pipeline_base import PipelineAdapter


class SyncPipeline(DedicatedSync, redis.client.Pipeline):
    """redis-py's pipeline. Without WATCH its commands are sent together on the shared connection."""

    _ends_watch = True

    client_class: ClassVar[Any] = None
    """The client class that loads its scripts. ``client_sync`` sets it."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        timing = current_timing.get()
        if timing is None:
            return self._execute(raise_on_error)
        commands, started = len(self.command_stack), perf_counter()
        try:
            return self._execute(raise_on_error)
        finally:
            timing.add(commands, perf_counter() - started)

    def _execute(self, raise_on_error: bool) -> list[Any]:
        stack = self.command_stack
        # redis-py's attribute hides the method of this name.
        transaction = bool(cast(Any, self).transaction or self.explicit_transaction)
        if not stack or self.watching or self.connection is not None:
            return self._run_dedicated(raise_on_error, transaction)
        if self.scripts:
            self._load_scripts()
        sharing = sync_multiplexer_of(self.connection_pool)
        is_exclusive, reads = pipeline_info(stack)
        if sharing is None or is_exclusive:
            return self._run_dedicated(raise_on_error, transaction)
        try:
            unit = _Adapter(sharing, stack, transaction, reads)
        except BaseException:
            self.reset()  # as redis-py does after a command that cannot be sent
            raise
        if len(unit.packed) > sharing.limits.max_shared_bytes:
            return self._run_dedicated(raise_on_error, transaction)
        execute = self._execute_transaction if transaction else self._execute_pipeline

        def replies() -> list[Any]:
            return execute(cast(Any, unit), stack, raise_on_error)

        kept = False
        try:
            if sharing.telemetry is not None:
                return sharing.telemetry.of_call("MULTI" if transaction else "PIPELINE", replies)
            return replies()
        except Exception as error:
            kept = unit.was_kept_back(error)
            raise
        finally:
            if not kept:
                self.reset()

    @entry
    def _run_dedicated(self, raise_on_error: bool, transaction: bool) -> list[Any]:
        """Let redis-py run the pipeline on a dedicated connection."""
        refuse_unsupported_runtime()
        stack, started = [args for args, _ in self.command_stack], monotonic()
        try:
            self._refuse_pipelined(self.command_stack, transaction)
        except CommandRefused:
            self.reset()
            raise
        try:
            if self.watching:
                return self._run_watching(raise_on_error)
            if cast(Any, self).transaction or self.explicit_transaction:
                return self._run_transaction(raise_on_error)
            return self._run_pipeline(raise_on_error)
        finally:
            note_dedicated(self.connection_pool, stack, started)

    def _run_watching(self, raise_on_error: bool) -> list[Any]:
        """Run a transaction with WATCH once. A new connection would watch nothing, but the next attempt finds it."""
        try:
            replies = super().execute(raise_on_error)
        except REFUSALS as error:
            if is_refusal(error):
                note_refusal(self.connection_pool, error)
            raise
        if refused := refused_in_exec(replies):
            note_refusal(self.connection_pool, refused[0])
        return replies

    def _run_transaction(self, raise_on_error: bool) -> list[Any]:
        """Run a transaction. If a replica refuses it, run it once more as a whole."""
        commands = list(self.command_stack)
        try:
            replies = super().execute(raise_on_error)
            if not refused_in_exec(replies):
                return replies
        except REFUSALS as error:
            if not is_refusal(error):
                raise
        later: list[Any] = []
        try:
            with second_attempt(self.connection_pool):
                self.command_stack = commands
                later = super().execute(raise_on_error)
                if still := refused_in_exec(later):
                    raise still[0]
        except redis_exceptions.ReadOnlyError:
            if not later:
                raise
        return later

    def _run_pipeline(self, raise_on_error: bool) -> list[Any]:
        """Run a pipeline. Run once more the commands that a replica refused."""
        commands = list(self.command_stack)
        replies = super().execute(False)
        if refused := refused_of(replies):
            with suppress(*REFUSALS), second_attempt(self.connection_pool):
                again = to_repeat(commands, refused)
                self.command_stack = [commands[at] for at in again]
                for at, reply in zip(again, super().execute(False), strict=True):
                    replies[at] = reply
                if still := refused_of(replies):
                    raise replies[still[0]]
        if raise_on_error:
            self.raise_first_error(commands, replies)  # type: ignore[no-untyped-call]
        return replies

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute = super()._execute_transaction
        if is_harmless(connection, commands):
            return execute(connection, commands, raise_on_error)
        if self.watching:
            self._assert_watched(connection)
        else:
            connection.connect()
        with outcome_unknown_on_loss(self.connection_pool, "transaction"), patient_in_multi(connection, commands):
            return execute(connection, commands, raise_on_error)

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute: Any = super()._execute_pipeline
        if isinstance(connection, PipelineAdapter):
            return cast(list[Any], execute(connection, commands, raise_on_error))
        with self._waiting_in_turn(commands):
            if is_harmless(connection, commands):
                return cast(list[Any], execute(connection, commands, raise_on_error))
            connection.connect()
            with outcome_unknown_on_loss(self.connection_pool, "pipeline"):
                return cast(list[Any], execute(connection, commands, raise_on_error))

    def _assert_watched(self, connection: Any) -> None:
        """Raise ``ConnectionError`` if the connection that watches has been lost before anything was written."""
        require_own(connection)
        watches = connection._sock
        if watches is not None:
            connection.can_read(timeout=0)
            connection.check_health()
        # A health check may have connected again. The new connection watches nothing.
        if watches is None or connection._sock is not watches:
            raise redis_exceptions.ConnectionError("The connection that watched the keys has been lost.")

    def reset(self) -> None:  # type: ignore[override]
        connection, watching = self.connection, self.watching
        self.watching = False
        try:
            # A failed connection is closed and watches nothing. UNWATCH would connect and wait again.
            if watching and connection is not None and connection.is_connected:
                _unwatch(connection)
            self._close_spoilt()
        finally:
            super().reset()

    def _load_scripts(self) -> None:
        """Do the same as ``load_scripts``, but on the shared connection."""
        client = self.client_class(connection_pool=self.connection_pool)
        scripts = list(self.scripts)
        exists = client.script_exists(*(script.sha for script in scripts))
        for script, known in zip(scripts, exists, strict=True):
            if not known:
                script.sha = client.script_load(script.script)
        self.scripts.clear()


def _unwatch(connection: Any) -> None:
    try:
        connection.send_command("UNWATCH")
        connection.read_response()
    except redis_exceptions.RedisError:
        connection.disconnect()


class _Adapter(PipelineAdapter):
    """Commands on the shared connection of all threads."""

    def __init__(self, sharing: SyncMultiplexer, stack: Any, transaction: bool, reads: bool) -> None:
        super().__init__(_packer(sharing), stack, transaction, reads)
        self._sharing = sharing
        self._position = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        sharing, started = self._sharing, monotonic()
        replies = sharing.reply(self.packed, len(self.decode), reads=self.reads)
        self.was_answered = True
        if again := self.refused(replies, noted=sharing.read_only.refused_at >= started):
            if not sharing.replace_if_due():
                sharing.read_only.look_up(math.inf, sharing.replace)
            later = sharing.reply(self.packed_of(again), len(again), reads=self.reads)
            self.put_in(replies, again, later, sharing.read_only)
        self.replies.extend(replies)

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        decode, self._position = self.decode[self._position], self._position + 1
        reply = self.next_reply()
        return decoded(reply, *self._sharing.decoding) if decode and self._sharing.decoding else reply


def _packer(sharing: SyncMultiplexer) -> Callable[[Any], bytes]:
    encoder = sharing.encoder
    if sharing.plain_encoding:
        return pack_utf8
    return lambda args: pack(args, encoder)
