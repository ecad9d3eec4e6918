"""redis-py's blocking connections. They report each reply and failure to the monitor."""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import Any

import redis
import redis.asyncio
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import UnansweredHandshakeError, UnansweredNameError
from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark

from .addresses import AddressedSync
from .blocking import keep_alive
from .credentials import redact_credentials
from .handshake_errors import HandshakeErrors
from .lifecycle import (
    _SETINFO,
    _SETNAME,
    Observed,
    _adopt_login,
    _count_closed,
    _count_opened,
    _name_for,
    _not_ours,
    _raise_reported,
    _refuse_if_forked,
)


class ObservedSync(Observed):
    """Mixin for a ``redis`` connection class. Put it before that class."""

    _connect_callbacks: Any
    _parser: Any
    _sock: Any

    is_hurried = False
    """Whether it connects for a caller that has little time left."""

    @property
    def is_subscribed(self) -> bool:
        """Whether a subscription holds it. redis-py subscribes again after each connect."""
        return bool(self._connect_callbacks)

    def _connect(self) -> Any:
        generation = self._begin_connecting()
        try:
            connected = super()._connect()  # type: ignore[misc]
        except (OSError, TimeoutError, redis_exceptions.RedisError) as error:
            self.monitor.failure(error, self._started, hurried=self.is_hurried)
            raise
        try:
            if isinstance(self, AddressedSync):
                self.shorten(connected)  # TLS has used part of the time
            _refuse_if_forked(self, generation)
            _count_opened(self)
        except BaseException:  # interrupted
            connected.close()
            raise
        return connected

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        try:
            super().disconnect(*args, **kwargs)  # type: ignore[misc]
        finally:
            _count_closed(self)

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        _adopt_login(self)
        try:
            self._shake_hands(*args, **kwargs)
            return
        except redis_exceptions.AuthenticationError as error:
            if not _adopt_login(self):
                raise
            refusal = error
        # The password was changed while the former one was being sent.
        self.disconnect()
        try:
            self._sock = self._connect()
        except OSError:
            raise refusal from None
        self._shake_hands(*args, **kwargs)

    def _shake_hands(self, *args: Any, **kwargs: Any) -> None:
        self._name = _name_for(self)
        try:
            with HandshakeErrors(self) as self._handshake_errors, redact_credentials(self):
                super().on_connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self.monitor.times.create.add(monotonic() - self._asked_at)
        finally:
            self._handshake_errors, self.replies_due = None, 0

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self._name is not None and args[:2] == _SETINFO:
            name, self._name, self._named = self._name, None, True
            super().send_command(*_SETNAME, name, **kwargs)  # type: ignore[misc]
        self.note_command(args)
        try:
            super().send_command(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._known = None

    def send_packed_command(self, command: Any, *args: Any, **kwargs: Any) -> None:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            self.disconnect()
            raise _not_ours(self)
        command, spoilt, count = self._account(command)
        try:
            super().send_packed_command(command, *args, **kwargs)  # type: ignore[misc]
        except (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError) as error:
            _raise_reported(self, error)
        except BaseException:
            self.disconnect()  # interrupted: no other caller may read this reply
            raise
        finally:
            if spoilt:
                self.is_outdated = True  # the call itself may have connected
            self.replies_due += count

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not mark[0]:
            fork.renew()
        if self._inherited:
            self.disconnect()
            raise _not_ours(self)
        if self._named:
            self._named = False
            with contextlib.suppress(redis_exceptions.ResponseError):
                self.read_response()
        timeout = kwargs.get("timeout", 0.0)
        if timeout is None:
            keep_alive(self)
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
            self.replies_due -= 1
            self.monitor.reply()
            return response
        except (redis_exceptions.RedisError, MemoryError) as error:
            self.replies_due -= isinstance(error, redis_exceptions.ResponseError)
            _raise_reported(self, error, hurried="timeout" in kwargs)
        except BaseException:
            self.disconnect()
            raise


class SyncTCPConnection(ObservedSync, AddressedSync):
    """An observed blocking TCP connection."""


class _SyncTLS(redis.SSLConnection, AddressedSync):
    def _connect(self) -> Any:
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        except UnansweredNameError:
            raise  # no handshake has begun
        except TimeoutError as error:
            raise error from UnansweredHandshakeError()


class SyncTLSConnection(ObservedSync, _SyncTLS):
    """An observed blocking TLS connection."""


class SyncUnixConnection(ObservedSync, redis.UnixDomainSocketConnection):
    """An observed blocking Unix socket connection."""


SYNC_CLASSES: dict[str, type[Any]] = {
    "tcp": SyncTCPConnection,
    "tls": SyncTLSConnection,
    "unix": SyncUnixConnection,
}


BOUNDED: dict[type[Any], type[Any]] = {redis.Connection: AddressedSync, redis.SSLConnection: _SyncTLS}
"""Replacements for redis-py's own blocking classes, whose timeouts leave out the name lookup."""
