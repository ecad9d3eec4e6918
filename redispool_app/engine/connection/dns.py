"""Looks up the addresses of a host name, so that a silent name server delays no caller beyond its deadline.

``getaddrinfo`` has no timeout and cannot be interrupted. So a thread runs it, once for all callers with the same
question, and each caller waits as long as it may. A silent name server uses at most three threads for each host name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from redispool_app.engine.errors import UnansweredNameError
from redispool_app.engine.runtime import fork, threads
from redispool_app.engine.runtime.single_flight import Flight, Flights

_AGAIN_AFTER = 2.0
"""Seconds after which a lookup may have been lost on a network that works again. Then another lookup starts ..."""

_MOST_AT_ONCE = 3
"""... but at most this many threads wait for the same name."""

_Name = tuple[str, int, int]


class _Question(Flight[list[str]]):
    """A lookup that one thread runs for all callers. Its result is the addresses of ``name``."""

    __slots__ = ("name",)

    def __init__(self, name: _Name) -> None:
        super().__init__()
        self.name = name


_under_way: Flights[_Name, list[str]] = Flights()
_asked: list[_Question] = []
"""The lookups without an answer."""


async def resolve(host: str, port: int, timeout: float | None) -> list[str]:
    """Return the addresses of ``host`` in the order to be tried.

    Raises what ``getaddrinfo`` raises, and ``UnansweredNameError``, a ``TimeoutError``, after ``timeout`` seconds.
    """
    if is_address(host):
        return [host]
    until = math.inf if timeout is None else monotonic() + timeout
    try:
        while True:
            question = _ask((host, port, 0))
            is_over = await question.wait_async(until - monotonic())
            if question.has_landed:
                return question.result()
            if not is_over:
                raise _unanswered(host)
    except asyncio.CancelledError as error:
        # Also when a health check's deadline cancels it: the cause names what was being waited for.
        raise error from _unanswered(host)


def resolve_sync(host: str, port: int, timeout: float | None, family: int = 0) -> list[str]:
    """The same for threads."""
    if is_address(host):
        return [host]
    until = math.inf if timeout is None else monotonic() + timeout
    while True:
        question = _ask((host, port, family))
        is_over = question.wait(until - monotonic())
        if question.has_landed:
            return question.result()
        if not is_over:
            raise _unanswered(host)


def _unanswered(host: str) -> UnansweredNameError:
    return UnansweredNameError(f"{host} was not resolved in time")


def unanswered(host: str | None, seconds: float) -> UnansweredNameError | None:
    """Return the exception for a caller that waits for a connection to ``host``, if it waits for a name server.

    That is so once a lookup has been open for ``seconds``. A younger one is not what took the time.
    """
    asked_before = monotonic() - seconds
    waiting = any(asked.name[0] == host and asked.began <= asked_before for asked in list(_asked))
    return UnansweredNameError(f"{host} is not resolved yet") if waiting else None


def is_address(host: str) -> bool:
    """Whether ``host`` is an address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def shares(addresses: list[str], until: float) -> Iterator[tuple[str, float | None]]:
    """Yield each address with the seconds to spend on it: an equal share of the time that is left."""
    for position, address in enumerate(addresses):
        left = (until - monotonic()) / (len(addresses) - position)
        yield address, None if until == math.inf else max(0.001, left)


def _ask(name: _Name) -> Flight[list[str]]:
    """Return the lookup in progress; otherwise start one."""
    own = _Question(name)
    question: Flight[list[str]] = own
    try:
        question = _under_way.join(name, own, _may_be_lost)
        # If this very thread is about to start the other one, it looks up the name itself.
        if question is own or own.is_nested_in(question):
            _asked.append(own)
            threads.start(_find, own, name="redispool-names")
            return own
    except BaseException as error:
        if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
            _find(own)  # at interpreter shutdown, and in uWSGI's master, no thread can start
            return own
        own.ended = True  # also if the thread runs: the waiting callers may start another lookup
        _end(own)
        raise
    return question


def _may_be_lost(question: Flight[list[str]]) -> bool:
    """Whether to repeat a lookup in progress: the network may have lost it."""
    if monotonic() - question.began < _AGAIN_AFTER:
        return False
    name = getattr(question, "name", None)
    return sum(each.name == name for each in list(_asked)) < _MOST_AT_ONCE


def _find(question: _Question) -> None:
    question.thread = threading.get_ident()
    host, port, family = question.name
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        if not found:
            raise OSError(f"getaddrinfo found no address of {host}")
        question.land(list(dict.fromkeys(_text(address) for *_, address in found)))
    except BaseException as error:
        question.fail(error)
    finally:
        question.ended = True
        _end(question)


def _end(question: _Question) -> None:
    with suppress(ValueError):
        _asked.remove(question)
    _under_way.leave(question.name, question)


def _text(address: tuple[Any, ...]) -> str:
    """Return a socket address's host. An IPv6 link-local address includes its interface."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope and "%" not in address[0] else str(address[0])


def _after_fork_in_child() -> None:
    """In a forked child no thread runs a lookup."""
    _asked.clear()


fork.register(_after_fork_in_child)
