"""Limits redis-py's connect steps by the deadline of a blocking caller."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

from redis.backoff import AbstractBackoff


class _Until(AbstractBackoff):
    """A backoff that ends the attempts with the last error if the next one would start after a deadline."""

    def __init__(self, deadline: float, usual: AbstractBackoff) -> None:
        self._deadline = deadline
        self._usual = usual

    def reset(self) -> None:
        self._usual.reset()  # type: ignore[no-untyped-call]

    def compute(self, failures: int) -> float:
        delay, error = self._usual.compute(failures), sys.exception()
        if error is not None and delay >= self._deadline - monotonic():
            raise error
        return delay


@contextlib.contextmanager
def shortened(connection: Any, deadline: float) -> Iterator[None]:
    """Let connecting, with all its steps and retries, take no longer than until ``deadline`` (monotonic seconds)."""
    usual = connection.socket_timeout, connection.socket_connect_timeout
    left = max(0.001, deadline - monotonic())
    connection.socket_timeout, connection.socket_connect_timeout = (min(left, each or left) for each in usual)
    connection.give_up_at = deadline
    connection.is_hurried = any(each is not None and left < each / 2 for each in usual)
    retry = connection.retry
    connection.retry = copy.copy(retry)
    connection.retry._backoff = _Until(deadline, retry._backoff)
    try:
        yield
    finally:
        connection.socket_timeout, connection.socket_connect_timeout = usual
        connection.give_up_at = math.inf
        connection.is_hurried = False
        connection.retry = retry
        if connection._sock is not None:
            connection._sock.settimeout(usual[0])
