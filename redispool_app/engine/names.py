"""Which addresses a host name has, asked so that a name server that does not answer holds nobody beyond a deadline.

``getaddrinfo`` has no time-out and cannot be interrupted. So a thread asks, one for all who want to know the same,
and each caller waits as long as it may. A name server that hangs costs a thread or a few, however many call.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from .faults import UnansweredNameError
from .runtime import fork
from .runtime.fork import mark

_AGAIN_AFTER = 2.0
"""A question this many seconds old may have been lost on a network that is back by now: ask anew ..."""

_MOST_AT_ONCE = 3
"""... but have no more than so many threads waiting for the same name."""

_Name = tuple[str, int, int]


class _Question:
    """What one thread asks; ``addresses`` or ``error`` is there once it is ``answered``."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.addresses: list[str] = []
        self.error: BaseException | None = None
        self.answered = False
        self._listeners: list[Callable[[], None]] = []
        # A plain lock: an interrupt in the Python code around a condition's own would leave that held for ever.
        self._held = threading.Lock()
        self._held.acquire()

    def end(self) -> None:
        """Let everybody know; may be called again, as when a thread runs although ``start()`` was interrupted."""
        self.answered = True
        with suppress(RuntimeError):
            self._held.release()
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` at the end, in whatever thread; perhaps twice, if that is now."""
        self._listeners.append(listener)
        if self.answered:
            listener()

    def wait(self, timeout: float) -> None:
        if self._held.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            self._held.release()  # for the next who waits

    def answer(self, host: str) -> list[str]:
        """Return the addresses, or raise why there are none."""
        if not self.answered:
            raise UnansweredNameError(f"{host} was not resolved in time")
        if self.error is not None:
            # Many callers share the question; a traceback is not to be shared.
            raise type(self.error)(*self.error.args)
        return self.addresses


_asked: dict[_Name, list[_Question]] = {}
"""The questions that no name server has answered yet."""

_lock = threading.Lock()


async def resolve(host: str, port: int, timeout: float | None) -> list[str]:
    """Return the addresses of ``host`` in the order to be tried.

    Raises what ``getaddrinfo`` does, and ``UnansweredNameError``, a ``TimeoutError``, after ``timeout`` seconds.
    """
    if is_address(host):
        return [host]
    question, loop, answered = _ask((host, port, 0)), asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        # The loop may have ended before the name server answered.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(answered.set)

    question.listen(wake)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await answered.wait()
    except asyncio.CancelledError as error:
        # Also when a health check's deadline cancels it: the cause tells what was being waited for.
        raise error from UnansweredNameError(f"{host} was not resolved in time")
    return question.answer(host)


def resolve_sync(host: str, port: int, timeout: float | None, family: int = 0) -> list[str]:
    """The same for threads."""
    if is_address(host):
        return [host]
    question = _ask((host, port, family))
    question.wait(math.inf if timeout is None else timeout)
    return question.answer(host)


def unanswered(host: str | None, seconds: float) -> UnansweredNameError | None:
    """Return what whoever waits for a connection to ``host`` waits for, if that is a name server's answer.

    That is so once a question has been open for so many ``seconds``: a younger one is not what took the time.
    """
    asked_before = monotonic() - seconds
    waiting = any(name[0] == host and asked[0].began <= asked_before for name, asked in list(_asked.items()))
    return UnansweredNameError(f"{host} is not resolved yet") if waiting else None


def is_address(host: str) -> bool:
    """Whether ``host`` is an address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def shares(addresses: list[str], until: float) -> Iterator[tuple[str, float | None]]:
    """Yield each address with the seconds to be spent on it: an equal part of what is left until then."""
    for position, address in enumerate(addresses):
        left = (until - monotonic()) / (len(addresses) - position)
        yield address, None if until == math.inf else max(0.001, left)


def _ask(name: _Name) -> _Question:
    """Return the question that is under way, else ask it."""
    if not mark[0]:
        fork.renew()
    with _lock:
        asked = _asked.get(name, [])
        if asked and (len(asked) == _MOST_AT_ONCE or monotonic() - asked[-1].began < _AGAIN_AFTER):
            return asked[-1]
        question = _Question()
        thread = threading.Thread(target=_find, args=(name, question), name="redispool-names", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            pass  # an interpreter that shuts down starts no threads
        else:
            # Only now: a question that nobody asks would be waited for in vain.
            _asked[name] = [*asked, question]
            return question
    _find(name, question)
    return question


def _find(name: _Name, question: _Question) -> None:
    host, port, family = name
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        question.addresses = list(dict.fromkeys(_text(address) for *_, address in found))
        if not found:
            raise OSError(f"getaddrinfo knows no address of {host}")
    except BaseException as error:
        question.error = error
    finally:
        with _lock:
            left = [each for each in _asked.pop(name, []) if each is not question]
            if left:
                _asked[name] = left
        question.end()


def _text(address: tuple[Any, ...]) -> str:
    """Return a socket address's host, of an IPv6 address with the interface that a link-local one needs."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope and "%" not in address[0] else str(address[0])


def _after_fork_in_child() -> None:
    """In a forked child nobody is asking, and the lock may be held by a thread that is not here."""
    global _lock
    _lock = threading.Lock()
    _asked.clear()


fork.register(_after_fork_in_child)
