"""The blocking client: redis-py's own, on a connection that all threads of the process share.

A program written for ``redis.Redis`` runs on it without changes.
"""

from __future__ import annotations

from time import monotonic, perf_counter
from typing import Any, cast

import redis
import redis.client
from redis import exceptions as redis_exceptions
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from redispool_app.engine.connection.read_only import second_attempt, to_send_again
from redispool_app.engine.multiplex.multiplexer_sync import SyncMultiplexer, close_sync_multiplexer, sync_multiplexer_of
from redispool_app.engine.protocol.commands import COMMANDS, CommandInfo, command_info, is_exclusive
from redispool_app.engine.protocol.packing import SHORT, EncodingPacker, Utf8Packer, is_utf8, pack, pack_utf8
from redispool_app.engine.protocol.refusals import refuse_shared
from redispool_app.engine.protocol.replies import UNDECODED, decoded
from redispool_app.engine.runtime import compatibility
from redispool_app.engine.runtime.gevent import refuse_unsupported_runtime
from redispool_app.engine.runtime.nesting import entry
from redispool_app.engine.stats.request_timing import current_timing
from redispool_app.engine.stats.slow_log import note_dedicated

from .dedicated import ClientConnection, DedicatedSync
from .login import log_in, login_of
from .pipeline_sync import SyncPipeline

_dict_get: Any = dict.get
_RAW: dict[str, Any] = {NEVER_DECODE: True}


def _packed(info: CommandInfo, args: tuple[Any, ...], sharing: SyncMultiplexer) -> bytes:
    if not sharing.plain_encoding:
        return pack(args, sharing.encoder)
    if len(args) == 2 and info.head and (argument := args[1]).__class__ is str and argument.isascii():
        # Takes a third of the time that hiredis takes.
        return f"{info.head}{len(argument)}\r\n{argument}\r\n".encode()
    return pack_utf8(args)


class SyncRedis(ClientConnection, DedicatedSync, redis.Redis):
    """``redis.Redis`` whose threads share one connection. One thread sends and reads for all waiting threads.

    Commands that cannot share borrow a dedicated connection from ``connection_pool``: blocking and stateful commands,
    WATCH, publish/subscribe, very large payloads. Raises redis-py's exceptions, and ``OutcomeUnknown``.
    """

    _shared: SyncMultiplexer | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compatibility.require()
        super().__init__(*args, **kwargs)
        encoder = self.get_encoder()
        # redis-py connections that use hiredis send text in UTF-8, whatever their encoding is.
        packer = Utf8Packer() if is_utf8(encoder) else EncodingPacker(encoder)
        self.connection_pool.connection_kwargs.setdefault("command_packer", packer)
        if self.connection is not None:
            self.connection._command_packer = packer

    @property
    def _keeps_connection(self) -> bool:
        return self._single_connection_client or self.connection is not None

    @property
    def sharing(self) -> SyncMultiplexer | None:
        """The shared connection; None if every command uses a dedicated connection."""
        return sync_multiplexer_of(self.connection_pool)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        timing = current_timing.get()
        if timing is None:
            return self._share(args, options)
        started = perf_counter()
        try:
            return self._share(args, options)
        finally:
            timing.add(1, perf_counter() - started)

    def execute_raw(self, *args: Any) -> Any:
        """Send one plain command and return its reply as received: not decoded, without a response callback.

        For code that stores its own bytes, whatever ``decode_responses`` says. Raises what every command raises.
        """
        name, sharing = args[0], self._shared
        info = (COMMANDS.get(name) if name.__class__ is str else None) or command_info(name)
        if (
            info.plain
            and sharing is not None
            and sharing.connection is not None
            and sharing.telemetry is None
            and current_timing.get() is None
        ):
            packed = _packed(info, args, sharing)
            if len(packed) <= sharing.limits.max_shared_bytes:
                return sharing.reply(packed, 0, reads=info.reads)
        # The keys of response callbacks are of type ``str``.
        name = name.encode() if isinstance(name, str) else name
        return SyncRedis.execute_command(self, name, *args[1:], **_RAW)

    def get_raw(self, key: str) -> Any:
        """Do the same as ``execute_raw("GET", key)`` in fewer steps: most commands of a cache are GET."""
        sharing = self._shared
        if (
            sharing is not None
            and sharing.telemetry is None
            and sharing.plain_encoding
            and current_timing.get() is None
            and len(key) <= SHORT
            and key.isascii()
        ):
            return sharing.reply(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode(), 0, reads=True)
        return self.execute_raw("GET", key)

    def _share(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        name = args[0]
        info = (COMMANDS.get(name) if name.__class__ is str else None) or command_info(name)
        sharing = self._shared
        if sharing is None or sharing.connection is None:
            sharing = self._shared = None if self._keeps_connection else sync_multiplexer_of(self.connection_pool)
        if sharing is None or (not info.plain and is_exclusive(args)):
            return self._run_dedicated(args, options)
        packed = _packed(info, args, sharing)
        if len(packed) > sharing.limits.max_shared_bytes:
            return self._run_dedicated(args, options)
        try:
            if sharing.telemetry is None:
                reply = sharing.reply(packed, 0, reads=info.reads)
            else:
                reply = sharing.telemetry.of_call(name, lambda: sharing.reply(packed, 0, reads=info.reads))
        except redis_exceptions.ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        if reply.__class__ is list and reply and isinstance(reply[0], redis_exceptions.ConnectionError):
            raise reply[0]  # as redis-py's parser does
        if sharing.decoding and reply.__class__ not in UNDECODED and NEVER_DECODE not in options:
            reply = decoded(reply, *sharing.decoding)
        # The dict ignores case in Python. redis-py's own names need no conversion.
        callback = _dict_get(self.response_callbacks, name)
        if callback is None:
            if info.upper:
                return reply
            callback = cast(Any, self.response_callbacks).get(name)
            if callback is None:
                return reply
        if options:
            options.pop(NEVER_DECODE, None)
            options.pop(EMPTY_RESPONSE, None)
            options.pop("keys", None)
        return callback(reply, **options)

    @entry
    def _run_dedicated(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Let redis-py run the command on a dedicated connection."""
        refuse_unsupported_runtime()
        started = monotonic()
        if not self._keeps_connection:
            refuse_shared(args)
            if (login := login_of(args)) is not None:
                sharing = sync_multiplexer_of(self.connection_pool)
                reply = log_in(self.connection_pool, sharing, login)
                return reply in (b"OK", "OK")
        try:
            try:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except redis_exceptions.ResponseError as error:
                again = to_send_again(args, error, started)
                if again is None or self._keeps_state():
                    raise
            with second_attempt(self.connection_pool, self.connection):
                return super().execute_command(*again, **options)  # type: ignore[no-untyped-call]
        finally:
            note_dedicated(self.connection_pool, (args,), started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> SyncPipeline:
        return SyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def close(self) -> None:
        try:
            self._close_spoilt()
            if getattr(self, "auto_close_connection_pool", False):
                close_sync_multiplexer(self.connection_pool)
        finally:
            super().close()


SyncPipeline.client_class = SyncRedis
