"""Connections for calls that are nested in another call of the same thread.

A nested call must not use the shared connection: its own thread may be the reader there. It gets a connection of its
own. That connection is made on first need, beyond the pool's limit, and kept for the next nested call.

The reserve of ``SyncPool`` does the same for nested calls that need a dedicated connection. It cannot be used here:
redis-py connections have other retry and reporting rules than a ``SharedSocket``, and redis-py pools have no reserve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import LOST

from .base import Request
from .connection_sync import SharedSocket
from .request_sync import first_wait
from .retry import FailedCommandError

KEPT = 1
"""Number of connections that are kept. More exist only while nested calls run at the same time."""

_FIRST, _LAST = (0,), (-1,)


class _Rules(Protocol):
    """What a nested call needs of its multiplexer."""

    closed: bool

    def ensure_available(self) -> None: ...

    @property
    def is_paused(self) -> bool: ...

    def decide_retry(self, request: Request, error: FailedCommandError) -> None: ...

    def look_up(self, request: Request) -> None: ...

    def may_connect_again(self, error: redis_exceptions.ConnectionError, deadline: float) -> bool: ...


class NestedCalls:
    """The connections of one pool that serve nested calls. Each serves one call at a time.

    ``connect(deadline)`` makes one. User code can interrupt this code, too. So each step that moves a connection is a
    single C call.
    """

    def __init__(self, rules: _Rules, connect: Callable[[float], SharedSocket], resumed: Callable[[], float]) -> None:
        self._rules = rules
        self._connect = connect
        self._resumed = resumed
        self._free: list[SharedSocket] = []
        self._all: set[SharedSocket] = set()
        self._surplus: list[SharedSocket] = []
        """Connections to be closed. After an interrupt the next call closes them."""

    @property
    def all(self) -> list[SharedSocket]:
        """All existing connections, in use or not."""
        return list({*self._free, *self._surplus, *self._all})

    def carry_out(self, request: Request) -> Any:
        """Make attempts until one brings the reply, and return it; an error is a value."""
        while True:
            self._admit(request)
            failure: FailedCommandError | None = None
            try:
                reply = self.attempt(request)
                if not isinstance(reply, redis_exceptions.ReadOnlyError):
                    return reply
                failure = reply
                self.retire_free()
            except LOST as error:
                failure = error
            except redis_exceptions.ConnectionError as error:
                if not self._rules.may_connect_again(error, request.deadline):
                    raise
            if failure is not None:
                self._rules.decide_retry(request, failure)
                self._rules.look_up(request)

    def attempt(self, request: Request, quiet: bool = False) -> Any:
        """Send the request once and return its reply. Errors in the reply to a ``quiet`` request are not reported.

        Raises what is in ``LOST``, and connection errors.
        """
        taken: list[SharedSocket] = []
        try:
            self._take(taken, request.deadline)
            return self._send(request, taken[0], quiet)
        finally:
            self._free.extend(taken)
            self._tidy()

    def _admit(self, request: Request) -> None:
        while True:
            self._rules.ensure_available()
            if not self._rules.is_paused:
                return
            request.was_held_back(self._resumed())

    def _take(self, taken: list[SharedSocket], deadline: float) -> None:
        """Put a free connection into ``taken``."""
        while self._free:
            try:
                taken.extend(map(self._free.pop, _LAST))
            except IndexError:
                break  # another thread was faster
            if not (taken[0].closed or taken[0].queue):
                return
            self._close(taken[0])
            taken.clear()
        taken.append(self._connect(deadline))
        self._all.add(taken[0])

    def _send(self, request: Request, connection: SharedSocket, quiet: bool) -> Any:
        deadline = request.deadline
        wait = first_wait(deadline - monotonic())
        return connection.exchange(request.packed, request.commands, request.started, deadline, wait, math.inf, quiet)

    def _tidy(self) -> None:
        """Close connections above the number that is kept."""
        surplus = self._surplus
        while len(self._free) > (0 if self._rules.closed else KEPT) or surplus:
            with suppress(IndexError):  # a nested call has taken it, or another thread closes it
                if not surplus:
                    surplus.extend(map(self._free.pop, _FIRST))
                self._close(surplus[0])
                surplus.pop(0)

    def retire_free(self) -> None:
        """Close free connections: the name may lead to another server now, or the credentials have changed."""
        while self._free:
            with suppress(IndexError):
                self._surplus.extend(map(self._free.pop, _FIRST))
        self._tidy()

    def _close(self, connection: SharedSocket) -> None:
        connection.close()
        self._all.discard(connection)

    def close_stale_idle(self, since: float) -> None:
        """Close the free connections that have received nothing since ``since`` (monotonic seconds)."""
        for connection in list(self._free):
            if connection.last_received <= since:
                try:
                    self._free.remove(connection)
                except ValueError:
                    continue  # a nested call has taken it
                self._close(connection)

    def close(self) -> None:
        """Close all connections at once. Callers that still wait get ``ConnectionLostError``."""
        for connection in self.all:
            self._close(connection)
        self._free.clear()
        self._surplus.clear()
