"""The asyncio client: redis-py's own, on a connection that the callers of an event loop share.

A program written for ``redis.asyncio.Redis`` runs on it without changes.
"""

from __future__ import annotations

import warnings
from asyncio import Future, _get_running_loop, get_running_loop
from contextlib import suppress
from functools import wraps
from inspect import isawaitable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, cast

import redis.asyncio
import redis.asyncio.client
from hiredis import pack_command
from redis import exceptions as redis_exceptions
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from redispool_app.engine.connection.read_only import second_attempt_async, to_send_again
from redispool_app.engine.multiplex.multiplexer_async import (
    AsyncMultiplexer,
    async_multiplexer_of,
    close_async_multiplexer,
)
from redispool_app.engine.multiplex.retry import FAILED, FailedCommandError
from redispool_app.engine.protocol.commands import COMMANDS, CommandInfo, command_info, is_exclusive
from redispool_app.engine.protocol.packing import PLAIN, SHORT, pack
from redispool_app.engine.protocol.refusals import refuse_shared
from redispool_app.engine.runtime import compatibility, fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.stats.request_timing import current_timing
from redispool_app.engine.stats.slow_log import note_dedicated

from .dedicated import ClientConnection, DedicatedAsync
from .login import log_in_async, login_of
from .pipeline_async import AsyncPipeline

_dict_get: Any = dict.get
_RAW: dict[str, Any] = {NEVER_DECODE: True}


def _packed(info: CommandInfo, args: tuple[Any, ...], sharing: AsyncMultiplexer) -> bytes:
    if len(args) == 2 and info.head and sharing.plain_encoding:
        argument = args[1]
        if argument.__class__ is str and argument.isascii():
            # Takes a third of the time that hiredis takes.
            return f"{info.head}{len(argument)}\r\n{argument}\r\n".encode()
        if argument.__class__ in PLAIN:
            return cast(bytes, pack_command(args))
    return pack(args, sharing.encoder)


class AsyncRedis(ClientConnection, DedicatedAsync, redis.asyncio.Redis):  # type: ignore[misc]
    """``redis.asyncio.Redis`` whose callers share one connection. Their commands are written together, not one by one.

    Commands that cannot share borrow a dedicated connection from ``connection_pool``: blocking and stateful commands,
    WATCH, publish/subscribe, very large payloads. Raises redis-py's exceptions, and ``OutcomeUnknown``.
    """

    _shared: AsyncMultiplexer | None = None

    if not TYPE_CHECKING:  # checkers see redis-py's parameters

        @wraps(redis.asyncio.Redis.__init__)
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            compatibility.require()
            super().__init__(*args, **kwargs)

    @property
    def _keeps_connection(self) -> bool:
        return self.single_connection_client or self.connection is not None

    @property
    def sharing(self) -> AsyncMultiplexer | None:
        """The shared connection of the running event loop; None if every command uses a dedicated connection."""
        return async_multiplexer_of(self.connection_pool)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        # Returns the coroutine itself: a coroutine around it would be resumed once more per reply.
        timing = current_timing.get()
        return self._execute(args, options) if timing is None else self._timed(timing, args, options)

    async def execute_raw(self, *args: Any, lost: FailedCommandError | None = None) -> Any:
        """Send one plain command and return its reply as received: not decoded, without a response callback.

        For code that stores its own bytes, whatever ``decode_responses`` says. Raises what every command raises.
        ``lost`` is the error of a first attempt with ``send_raw``.
        """
        if lost is None and (reply := self.send_raw(*args)) is not None:
            try:
                return await reply
            except FAILED as error:
                lost = error
        name, sharing = args[0], self._shared
        if lost is not None and sharing is not None:
            info = command_info(name)
            return await sharing.reply(_packed(info, args, sharing), False, reads=info.reads, lost=lost)
        # The keys of response callbacks are of type ``str``.
        name = name.encode() if isinstance(name, str) else name
        return await AsyncRedis.execute_command(self, name, *args[1:], **_RAW)

    def send_raw(self, *args: Any) -> Future[Any] | None:
        """Send one plain command if that needs no waiting. The result of the returned future is the reply as received.

        For callers that cannot afford the coroutine of ``execute_raw``. If the result is None, use ``execute_raw``. If
        the future raises one of ``FAILED``, ``execute_raw(*args, lost=error)`` may send the command again::

            try:
                reply = await (client.send_raw(*args) or client.execute_raw(*args))
            except FAILED as error:
                reply = await client.execute_raw(*args, lost=error)
        """
        name, sharing = args[0], self._shared
        info = (COMMANDS.get(name) if name.__class__ is str else None) or command_info(name)
        if (
            info.plain
            and sharing is not None
            and sharing.telemetry is None
            and sharing.loop is _get_running_loop()
            and current_timing.get() is None
            and (connection := sharing.open_connection()) is not None
        ):
            packed = _packed(info, args, sharing)
            if len(packed) <= sharing.limits.max_shared_bytes:
                return connection.send(packed, False)
        return None

    def send_get(self, key: str) -> Future[Any] | None:
        """Do the same as ``send_raw("GET", key)`` in fewer steps: most commands of a cache are GET."""
        sharing = self._shared
        if (
            sharing is not None
            and sharing.telemetry is None
            and sharing.plain_encoding
            and sharing.loop is _get_running_loop()
            and current_timing.get() is None
            and len(key) <= SHORT
            and key.isascii()
            and (connection := sharing.open_connection()) is not None
        ):
            return connection.send(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode(), False)
        return self.send_raw("GET", key)

    async def _timed(self, timing: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        started = perf_counter()
        try:
            return await self._execute(args, options)
        finally:
            timing.add(1, perf_counter() - started)

    async def _execute(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        name = args[0]
        info = (COMMANDS.get(name) if name.__class__ is str else None) or command_info(name)
        sharing = self._shared
        if sharing is None or sharing.connection is None or sharing.loop is not _get_running_loop():
            sharing = self._shared = None if self._keeps_connection else async_multiplexer_of(self.connection_pool)
        if sharing is None or (not info.plain and is_exclusive(args)):
            return await self._run_dedicated(args, options)
        packed = _packed(info, args, sharing)
        if len(packed) > sharing.limits.max_shared_bytes:
            return await self._run_dedicated(args, options)
        decode = not options or NEVER_DECODE not in options
        connection = sharing.open_connection()
        try:
            if sharing.telemetry is not None:
                reply = await sharing.telemetry.of_reply(name, sharing.reply(packed, decode, reads=info.reads))
            elif connection is None:
                reply = await sharing.reply(packed, decode, reads=info.reads)
            else:
                try:
                    reply = await connection.send(packed, decode)
                except FAILED as error:
                    reply = await sharing.reply(packed, decode, reads=info.reads, lost=error)
        except redis_exceptions.ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        if reply.__class__ is list and reply and isinstance(reply[0], redis_exceptions.ConnectionError):
            raise reply[0]  # as redis-py's parser does
        # The dict ignores case in Python. redis-py's own names need no conversion.
        callback = _dict_get(self.response_callbacks, name)
        if callback is None:
            if info.upper:
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

    async def _run_dedicated(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Let redis-py run the command on a dedicated connection."""
        refuse_unsupported_runtime()
        started = monotonic()
        if not self._keeps_connection:
            refuse_shared(args)
            if (login := login_of(args)) is not None:
                sharing = async_multiplexer_of(self.connection_pool)
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
            note_dedicated(self.connection_pool, (args,), started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> AsyncPipeline:
        return AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        try:
            await self._close_spoilt()
            if close_connection_pool or (close_connection_pool is None and self.auto_close_connection_pool):
                await close_async_multiplexer(self.connection_pool)
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


AsyncPipeline.client_class = AsyncRedis
