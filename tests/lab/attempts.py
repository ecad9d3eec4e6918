"""Counts every connection attempt of a process, also those that nothing answers.

The interpreter itself tells (https://docs.python.org/3/library/audit_events.html, ``socket.connect``) whoever
connects: asyncio, a blocking socket, a probe. Only event loops with sockets of their own, as uvloop's, it does not see.
"""

from __future__ import annotations

import asyncio
import os
import sys
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from time import monotonic
from typing import Any

Address = tuple[str, int] | str
"""Host and port, or the path of a socket."""

_attempts: dict[Address, list[float]] = defaultdict(list)
_recent: set[Address] = set()
_file: int | None = None
"""The descriptor of the file into which this process writes its attempts down."""


def _note(address: Any) -> None:
    if address in _recent:
        _attempts[address].append(monotonic())
        if _file is not None:
            os.write(_file, f"{os.getpid()} {monotonic()}\n".encode())


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        _note(arguments[1][:2] if isinstance(arguments[1], tuple) else arguments[1])


sys.addaudithook(_hear)


def _heard_elsewhere() -> bool:
    return isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


_open_connection, _open_unix_connection = asyncio.open_connection, asyncio.open_unix_connection


async def _open_connection_heard(host: Any = None, port: Any = None, **options: Any) -> Any:
    if not _heard_elsewhere():
        _note((host, port))
    return await _open_connection(host, port, **options)


async def _open_unix_connection_heard(path: Any = None, **options: Any) -> Any:
    if not _heard_elsewhere():
        _note(path)
    return await _open_unix_connection(path, **options)


asyncio.open_connection, asyncio.open_unix_connection = _open_connection_heard, _open_unix_connection_heard


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


def write_down(path: str, *addresses: Address) -> None:
    """Append this process's attempts to a file from now on; several processes may share it."""
    global _file
    _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    _recent.update(addresses)


def written_down(path: Path) -> dict[int, list[float]]:
    """Return when (monotonic seconds, sorted) each process that wrote into a file began an attempt."""
    found: dict[int, list[float]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        process, time = line.split()
        found[int(process)].append(float(time))
    return {process: sorted(times) for process, times in found.items()}


def most_per_second(times: list[float]) -> int:
    """Return the largest number of events within any one second; ``times`` are sorted."""
    return max((position - bisect_left(times, time - 1.0) + 1 for position, time in enumerate(times)), default=0)
