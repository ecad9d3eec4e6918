"""Starts Redis with the ASGI server and closes it with the server.

Implements the lifespan protocol (https://asgi.readthedocs.io/en/latest/specs/lifespan.html) for applications without
it, such as Django's, and wraps applications that have it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .engine.runtime.hooks import tell
from .exceptions import RedisUnavailable
from .redis_pool import RedisConnectionManager, get_managers

logger = logging.getLogger("redispool_app.asgi")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

_STARTUP = "lifespan.startup"
_SHUTDOWN = "lifespan.shutdown"


def lifespan(application: Application) -> Application:
    """Wrap an ASGI application. The pools of all aliases open when the server starts and close when it stops.

    An outage at the start is logged, and the server starts all the same: the pools recover by themselves. Wrong
    settings stop the start, with one line that says what to correct. An application with its own lifespan starts after
    Redis and stops before it.
    """

    # A coroutine function, because on Python 3.11 some servers tell ASGI from WSGI only by this.
    async def with_redis(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(application, receive, send).run(scope)
        else:
            await application(scope, receive, send)

    return with_redis


class _Lifespan:
    """One start and stop of a server. Events that the application does not answer are answered here."""

    def __init__(self, application: Application, receive: Receive, send: Send) -> None:
        self._application = application
        self._receive = receive
        self._send = send
        self._managers: list[RedisConnectionManager] = []
        self._startup: Any = None
        # Event types: those that the application has received, and those that the server has an answer to.
        self._taken: set[str] = set()
        self._answered: set[str] = set()
        self._startup_failed = False

    async def run(self, scope: Any) -> None:
        self._startup = await self._receive()
        try:
            await self._open()
        except ImproperlyConfigured as error:
            await self._close()
            await self._send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        failure = await self._run_application(scope)
        if self._startup_failed:
            return
        if _STARTUP not in self._answered:
            await self._send({"type": "lifespan.startup.complete"})
        if _SHUTDOWN not in self._taken:
            await self._receive()
        if _SHUTDOWN not in self._answered:
            await self._close()
            await self._send(
                {"type": "lifespan.shutdown.failed", "message": failure}
                if failure
                else {"type": "lifespan.shutdown.complete"}
            )

    async def _run_application(self, scope: Any) -> str | None:
        """Run the application's own lifespan to its end. Return why its shutdown failed."""
        try:
            await self._application(scope, self._receive_for_application, self._send_for_application)
        except Exception as error:
            if not self._taken and not self._answered:
                # The protocol's way to say that an application has no lifespan.
                tell(logger.debug, "The application has no lifespan of its own: %s", error)
                return None
            if self._startup_failed:
                return None
            if _STARTUP not in self._answered:
                # The server decides whether this is fatal (uvicorn's --lifespan). The pools close with the event loop.
                raise
            # If it were raised on, it would end the protocol, and the pools could not be closed in order.
            tell(logger.exception, "The application's lifespan ended with an exception.")
            return f"{type(error).__name__}: {error}" if _SHUTDOWN in self._taken else None
        return None

    async def _receive_for_application(self) -> Any:
        event = await self._receive() if _STARTUP in self._taken else self._startup
        self._taken.add(event["type"])
        return event

    async def _send_for_application(self, answer: Any) -> None:
        kind = answer["type"]
        if kind != "lifespan.startup.complete":
            # The server may end as soon as it has this answer.
            await self._close()
        self._startup_failed |= kind == "lifespan.startup.failed"
        self._answered.add(kind.rpartition(".")[0])
        await self._send(answer)

    async def _open(self) -> None:
        self._managers = get_managers()
        outcomes = await asyncio.gather(*(each.initialize() for each in self._managers), return_exceptions=True)
        for outcome in outcomes:
            # The health check has logged an outage.
            if isinstance(outcome, BaseException) and not isinstance(outcome, RedisUnavailable):
                raise outcome

    async def _close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._managers))
