"""Counts every connection attempt of this process, also those that nothing answers.

The interpreter itself tells (https://docs.python.org/3/library/audit_events.html, ``socket.connect``), whoever
connects: asyncio, a blocking socket, a probe.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import defaultdict
from time import monotonic
from typing import Any

Address = tuple[str, int] | str
"""Host and port, or the path of a socket."""

_attempts: dict[Address, list[float]] = defaultdict(list)
_recent: set[Address] = set()


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1][:2] if isinstance(arguments[1], tuple) else arguments[1]
        if address in _recent:
            _attempts[address].append(monotonic())


sys.addaudithook(_hear)


class Attempts:
    """The connection attempts to some addresses during the block."""

    def __init__(self, *addresses: Address) -> None:
        self._addresses = addresses

    def __enter__(self) -> Attempts:
        for address in self._addresses:
            _attempts[address] = []
        _recent.update(self._addresses)
        return self

    def __exit__(self, *args: object) -> None:
        _recent.difference_update(self._addresses)

    @property
    def times(self) -> list[float]:
        """When each began, in monotonic seconds."""
        return sorted(time for address in self._addresses for time in list(_attempts[address]))


def most_per_second(times: list[float]) -> int:
    """Return the largest number of events within any one second; ``times`` are sorted."""
    return max((position - bisect_left(times, time - 1.0) + 1 for position, time in enumerate(times)), default=0)
