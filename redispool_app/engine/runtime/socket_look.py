"""A look at the socket below an asyncio transport: what has come there and was not read yet, perhaps because the event
loop was blocked. A connection that the server has closed is found before anything is written to it.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any

Poll = Callable[[int], list[tuple[int, int]]]

HUNG_UP = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)
"""Events of a connection that the other side has closed."""


def poll_of(transport: asyncio.Transport) -> Poll | None:
    """Return the ``poll`` of the transport's socket; it takes milliseconds. None where there is no such call."""
    held = transport.get_extra_info("socket")
    descriptor = -1 if held is None else held.fileno()
    if descriptor < 0 or not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | HUNG_UP)
    return poll.poll


def has_ended(connection: Any) -> bool:
    """Whether the server has closed this asyncio connection of redis-py, read by the event loop or not."""
    writer = connection._writer
    poll = None if writer is None else poll_of(writer.transport)
    return poll is not None and any(event & HUNG_UP for _, event in poll(0))


async def connect(connection: Any) -> None:
    """Connect if need be, and again if the server has closed the connection."""
    if has_ended(connection):
        await connection.disconnect(nowait=True)
    await connection.connect()
