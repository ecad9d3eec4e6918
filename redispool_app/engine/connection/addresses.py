"""Connects to a host by one of its addresses, within one connect timeout.

The timeout covers the name lookup and all addresses. redis-py leaves the lookup out, and gives each address the whole
timeout.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from time import monotonic
from typing import Any

import redis
import redis.asyncio

from . import dns


class AddressedAsync(redis.asyncio.Connection):
    """Mixin for a ``redis.asyncio`` connection class. Put it before that class."""

    _address = ""

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())
        if "ssl" in arguments:
            arguments["server_hostname"] = self.host
        return arguments | {"host": self._address}

    async def _connect(self) -> None:
        usual = self.socket_connect_timeout
        until = math.inf if usual is None else monotonic() + usual
        addresses = await dns.resolve(self.host, self.port, usual)
        failure: OSError | None = None
        try:
            for self._address, self.socket_connect_timeout in dns.shares(addresses, until):
                try:
                    return await super()._connect()  # type: ignore[no-any-return, no-untyped-call]
                except OSError as error:
                    failure = error
        finally:
            self.socket_connect_timeout = usual
        assert failure is not None  # noqa: S101 (no name has no address)
        raise failure


class AddressedSync(redis.Connection):
    """Mixin for a blocking connection class. With TLS it comes after that class, which needs the host name."""

    give_up_at = math.inf
    """Deadline for each step of connecting (monotonic seconds)."""

    def _connect(self) -> Any:
        usual, name = self.socket_connect_timeout, self._host
        until = min(self.give_up_at, math.inf if usual is None else monotonic() + usual)
        left = None if until == math.inf else until - monotonic()
        addresses = dns.resolve_sync(name, self.port, left, self.socket_type)
        failure: OSError | None = None
        try:
            for self._host, self.socket_connect_timeout in dns.shares(addresses, until):
                connected: Any = None
                try:
                    connected = super()._connect()  # type: ignore[no-untyped-call]
                    self.shorten(connected)
                    return connected
                except OSError as error:
                    failure = error
                except BaseException:  # interrupted
                    if connected is not None:
                        connected.close()
                    raise
        finally:
            self.socket_connect_timeout, self._host = usual, name
        assert failure is not None  # noqa: S101 (no name has no address)
        raise failure

    def shorten(self, connected: socket.socket) -> None:
        """Let the next step on a new socket take no longer than until ``give_up_at`` (monotonic seconds)."""
        if self.give_up_at < math.inf:
            left = max(0.001, self.give_up_at - monotonic())
            connected.settimeout(min(left, self.socket_timeout or left))
