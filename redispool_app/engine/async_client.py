"""The asyncio client: redis-py's own, on a connection that the callers of an event loop share.

A program written for ``redis.asyncio.Redis`` runs unchanged on it.
"""

from __future__ import annotations

import math
import warnings
from asyncio import Future, _get_running_loop, get_running_loop
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps
from inspect import isawaitable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, cast

import redis.asyncio
import redis.asyncio.client
from hiredis import pack_command
from redis import exceptions as redis_exceptions
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from redispool_app.exceptions import CommandRefused

from .alone import AloneAsync, is_harmless, may_be_written, socket_of
from .blocking import patient_in_multi
from .login import log_in_async, login_of
from .outcomes import FAILED, FailedCommandError
from .packing import PLAIN, SHORT, pack
from .patching import refuse_unsupported_runtime
from .pipeline_unit import PipelineUnit
from .read_only import (
    REFUSALS,
    is_refusal,
    note_refusal_async,
    refused_in_exec,
    refused_of,
    second_attempt_async,
    to_repeat,
    to_send_again,
)
from .refusals import refuse_alone, refuse_in_pipeline
from .routing import ROUTES, Route, is_exclusive, leaves_state, route_of, route_of_all
from .runtime import compatibility, fork
from .runtime.fork import mark
from .runtime.socket_look import connect, has_ended
from .sharing import Sharing, close_sharing, sharing_of
from .slow_commands import note_alone
from .tally import current_tally

_dict_get: Any = dict.get
_RAW: dict[str, Any] = {NEVER_DECODE: True}


class AsyncPipeline(AloneAsync, redis.asyncio.client.Pipeline):  # type: ignore[misc]
    """redis-py's asyncio pipeline; without WATCH it travels as one unit on the shared connection."""

    _ends_watch = True

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        tally = current_tally.get()
        if tally is None:
            return await self._execute(raise_on_error)
        commands, started = len(self.command_stack), perf_counter()
        try:
            return await self._execute(raise_on_error)
        finally:
            tally.add(commands, perf_counter() - started)

    async def _execute(self, raise_on_error: bool) -> list[Any]:
        stack = self.command_stack
        transaction = self.is_transaction or self.explicit_transaction
        if not stack or self.watching or self.connection is not None:
            return await self._alone(raise_on_error, transaction)
        if self.scripts:
            await self._load_scripts()
        sharing = sharing_of(self.connection_pool)
        is_alone, reads = route_of_all(stack)
        if sharing is None or is_alone:
            return await self._alone(raise_on_error, transaction)
        try:
            unit = _Unit(sharing, stack, transaction, reads)
        except BaseException:
            await self.reset()  # as redis-py does after a command that cannot be sent
            raise
        if len(unit.packed) > sharing.limits.max_shared_bytes:
            return await self._alone(raise_on_error, transaction)
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

    async def _alone(self, raise_on_error: bool, transaction: bool) -> list[Any]:
        """Let redis-py carry it out, on a connection of its own."""
        refuse_unsupported_runtime()
        stack, started = [args for args, _ in self.command_stack], monotonic()
        try:
            self._refuse_what_cannot_be(transaction)
        except CommandRefused:
            await self.reset()
            raise
        try:
            if self.watching:
                return await self._watching_alone(raise_on_error)
            if self.is_transaction or self.explicit_transaction:
                return await self._transaction_alone(raise_on_error)
            return await self._pipeline_alone(raise_on_error)
        finally:
            note_alone(self.connection_pool, stack, started)

    async def _watching_alone(self, raise_on_error: bool) -> list[Any]:
        """Carry out a transaction with WATCH once: a new connection would watch nothing, but the next one finds it."""
        try:
            replies = await super().execute(raise_on_error)
        except REFUSALS as error:
            if is_refusal(error):
                await note_refusal_async(self.connection_pool, error)
            raise
        if refused := refused_in_exec(replies):
            await note_refusal_async(self.connection_pool, refused[0])
        return replies

    async def _transaction_alone(self, raise_on_error: bool) -> list[Any]:
        """Carry out a transaction, and once more as a whole if a replica has refused it."""
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

    async def _pipeline_alone(self, raise_on_error: bool) -> list[Any]:
        """Carry out a pipeline, and once more what a replica has refused of it."""
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

    def _refuse_what_cannot_be(self, transaction: bool) -> None:
        """Raise ``CommandRefused`` for commands that cannot answer truly; note those that leave state behind."""
        stack = self.command_stack
        own = self.connection
        has_written = own is not None and self._wrote_on is socket_of(own)
        refuse_in_pipeline(stack, transaction=transaction, has_written=has_written)
        self._is_spoilt = self._is_spoilt or any(leaves_state(args) for args, _ in stack)

    async def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute = cast(Callable[..., Awaitable[list[Any]]], super()._execute_transaction)
        if is_harmless(connection, commands):
            return await execute(connection, commands, raise_on_error)
        if self.watching:
            await self._assert_watched(connection)
        else:
            await connect(connection)
        with may_be_written(self.connection_pool, "transaction"), patient_in_multi(connection, commands):
            return await execute(connection, commands, raise_on_error)

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> list[Any]:
        execute = cast(Callable[..., Awaitable[list[Any]]], super()._execute_pipeline)
        if isinstance(connection, PipelineUnit):
            return await execute(connection, commands, raise_on_error)
        with self._waiting_in_turn(commands):
            if is_harmless(connection, commands):
                return await execute(connection, commands, raise_on_error)
            await connect(connection)
            with may_be_written(self.connection_pool, "pipeline"):
                return await execute(connection, commands, raise_on_error)

    async def _assert_watched(self, connection: Any) -> None:
        """Raise ``ConnectionError`` if the connection that watches has been lost, while nothing is written yet."""
        fork.use_running_loop()
        reader, writer = connection._reader, connection._writer
        lost = reader is None or reader.at_eof() or reader.exception() is not None or writer.is_closing()
        if not lost and not (lost := has_ended(connection)):
            await connection.check_health()
        # A health check may have connected again; the new connection watches nothing.
        if lost or connection._writer is not writer:
            raise redis_exceptions.ConnectionError("The connection that watched the keys has been lost.")

    async def reset(self) -> None:  # type: ignore[override]
        connection, watching = self.connection, self.watching
        self.watching = False
        try:
            # A connection that failed is closed and watches nothing: to tell it so would be to connect and wait again.
            if watching and connection is not None and connection.is_connected:
                await _unwatch(connection)
            await self._close_spoilt()
        finally:
            await super().reset()  # type: ignore[no-untyped-call]

    async def _load_scripts(self) -> None:
        """Do what ``load_scripts`` does, on the shared connection rather than on one that is kept."""
        client = AsyncRedis(connection_pool=self.connection_pool)
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


class _Unit(PipelineUnit):
    """A unit on the shared connection of an event loop."""

    def __init__(self, sharing: Sharing, stack: Any, transaction: bool, reads: bool) -> None:
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


def _packed(route: Route, args: tuple[Any, ...], sharing: Sharing) -> bytes:
    if len(args) == 2 and route.head and sharing.plain_encoding:
        argument = args[1]
        if argument.__class__ is str and argument.isascii():
            # At a third of what hiredis takes for it.
            return f"{route.head}{len(argument)}\r\n{argument}\r\n".encode()
        if argument.__class__ in PLAIN:
            return cast(bytes, pack_command(args))
    return pack(args, sharing.encoder)


class AsyncRedis(AloneAsync, redis.asyncio.Redis):  # type: ignore[misc]
    """``redis.asyncio.Redis`` whose callers share one connection and write together, not one by one.

    What cannot share (blocking and stateful commands, WATCH, publish/subscribe, very large payloads) borrows
    a connection of its own from ``connection_pool``. Raises what redis-py raises, and ``OutcomeUnknown``.
    """

    _shared: Sharing | None = None

    if not TYPE_CHECKING:  # checkers see redis-py's parameters

        @wraps(redis.asyncio.Redis.__init__)
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            compatibility.require()
            super().__init__(*args, **kwargs)

    @property
    def connection(self) -> Any:
        """The one connection that carries all commands of this client, where it has one; else None."""
        try:
            return self.__dict__["connection"]
        except KeyError:
            raise AttributeError("connection") from None

    @connection.setter
    def connection(self, connection: Any) -> None:
        self.__dict__["connection"] = connection
        self._shared = None

    @property
    def _keeps_connection(self) -> bool:
        return self.single_connection_client or self.connection is not None

    @property
    def sharing(self) -> Sharing | None:
        """The shared connection of the running event loop; None where every command has one of its own."""
        return sharing_of(self.connection_pool)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        # No coroutine around the other: each would be resumed once more per reply.
        tally = current_tally.get()
        return self._execute(args, options) if tally is None else self._tallied(tally, args, options)

    async def execute_raw(self, *args: Any, lost: FailedCommandError | None = None) -> Any:
        """Send one plain command and return its reply as it came: not decoded, through no callback.

        For code that stores bytes of its own, whatever ``decode_responses`` says. Raises what every command raises.
        ``lost`` is what a first try with ``send_raw`` met.
        """
        if lost is None and (reply := self.send_raw(*args)) is not None:
            try:
                return await reply
            except FAILED as error:
                lost = error
        name, sharing = args[0], self._shared
        if lost is not None and sharing is not None:
            route = route_of(name)
            return await sharing.reply(_packed(route, args, sharing), False, reads=route.reads, lost=lost)
        # Response callbacks go by names that are text.
        name = name.encode() if isinstance(name, str) else name
        return await AsyncRedis.execute_command(self, name, *args[1:], **_RAW)

    def send_raw(self, *args: Any) -> Future[Any] | None:
        """Send one plain command, if that needs no waiting; its reply, as it came, is the future's result.

        For callers for whom the coroutine of ``execute_raw`` counts. None: use ``execute_raw``. The future raises what
        is in ``FAILED`` for a command that ``execute_raw(*args, lost=error)`` may send again::

            try:
                reply = await (client.send_raw(*args) or client.execute_raw(*args))
            except FAILED as error:
                reply = await client.execute_raw(*args, lost=error)
        """
        name, sharing = args[0], self._shared
        route = (ROUTES.get(name) if name.__class__ is str else None) or route_of(name)
        if (
            route.plain
            and sharing is not None
            and sharing.telemetry is None
            and sharing.loop is _get_running_loop()
            and current_tally.get() is None
            and (connection := sharing.open_connection()) is not None
        ):
            packed = _packed(route, args, sharing)
            if len(packed) <= sharing.limits.max_shared_bytes:
                return connection.send(packed, False)
        return None

    def send_get(self, key: str) -> Future[Any] | None:
        """Do what ``send_raw("GET", key)`` does, in fewer steps: it is most of what a cache asks."""
        sharing = self._shared
        if (
            sharing is not None
            and sharing.telemetry is None
            and sharing.plain_encoding
            and sharing.loop is _get_running_loop()
            and current_tally.get() is None
            and len(key) <= SHORT
            and key.isascii()
            and (connection := sharing.open_connection()) is not None
        ):
            return connection.send(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode(), False)
        return self.send_raw("GET", key)

    async def _tallied(self, tally: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        started = perf_counter()
        try:
            return await self._execute(args, options)
        finally:
            tally.add(1, perf_counter() - started)

    async def _execute(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        name = args[0]
        route = (ROUTES.get(name) if name.__class__ is str else None) or route_of(name)
        sharing = self._shared
        if sharing is None or sharing.connection is None or sharing.loop is not _get_running_loop():
            sharing = self._shared = None if self._keeps_connection else sharing_of(self.connection_pool)
        if sharing is None or (not route.plain and is_exclusive(args)):
            return await self._alone(args, options)
        packed = _packed(route, args, sharing)
        if len(packed) > sharing.limits.max_shared_bytes:
            return await self._alone(args, options)
        decode = not options or NEVER_DECODE not in options
        connection = sharing.open_connection()
        try:
            if sharing.telemetry is not None:
                reply = await sharing.telemetry.of_reply(name, sharing.reply(packed, decode, reads=route.reads))
            elif connection is None:
                reply = await sharing.reply(packed, decode, reads=route.reads)
            else:
                try:
                    reply = await connection.send(packed, decode)
                except FAILED as error:
                    reply = await sharing.reply(packed, decode, reads=route.reads, lost=error)
        except redis_exceptions.ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        if reply.__class__ is list and reply and isinstance(reply[0], redis_exceptions.ConnectionError):
            raise reply[0]  # as redis-py's parser does
        # The dict folds case in Python; redis-py's own names need no folding.
        callback = _dict_get(self.response_callbacks, name)
        if callback is None:
            if route.upper:
                return reply
            callback = self.response_callbacks.get(name)
            if callback is None:
                return reply
        if options:
            options.pop(NEVER_DECODE, None)
            options.pop(EMPTY_RESPONSE, None)
            options.pop("keys", None)
        result = callback(reply, **options)
        return await result if isawaitable(result) else result

    async def _alone(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Let redis-py carry it out, on a connection of its own."""
        refuse_unsupported_runtime()
        started = monotonic()
        if not self._keeps_connection:
            refuse_alone(args)
            if (login := login_of(args)) is not None:
                sharing = sharing_of(self.connection_pool)
                reply = await log_in_async(self.connection_pool, sharing, login)
                return reply in (b"OK", "OK")
        try:
            try:
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except redis_exceptions.ResponseError as error:
                again = to_send_again(args, error, started)
                if again is None or self._keeps_state():
                    raise
            async with second_attempt_async(self.connection_pool, self.connection):
                return await super().execute_command(*again, **options)  # type: ignore[no-untyped-call]
        finally:
            note_alone(self.connection_pool, (args,), started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> AsyncPipeline:
        return AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        try:
            await self._close_spoilt()
            if close_connection_pool or (close_connection_pool is None and self.auto_close_connection_pool):
                await close_sharing(self.connection_pool)
        finally:
            await super().aclose(close_connection_pool)

    def __del__(self, _warn: Any = warnings.warn, _grl: Any = get_running_loop) -> None:
        if not mark[0]:
            fork.renew()
        sharing = self._shared
        if sharing is not None and sharing.connection is not None and self.auto_close_connection_pool:
            _warn(f"unclosed client {self!r}", ResourceWarning, source=self)
            with suppress(RuntimeError):
                sharing.abandon()
        super().__del__(_warn, _grl)
