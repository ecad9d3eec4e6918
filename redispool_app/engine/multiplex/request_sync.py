"""One caller's part in a connection that threads share, and how the leader's role finds who takes it."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

_LOOK_AGAIN = 0.5
"""A follower looks every so many seconds whether its leader still leads."""

LEAD: Any = object()
"""Tells who follows to look around: the role may be there to be taken."""


class NoRoomError(Exception):
    """As many callers as may have their commands under way."""


class Exchange(SimpleQueue[Any]):
    """One caller's command, or unit of ``wanted`` commands, and the queue in which its reply arrives, or the role.

    Putting something there wakes its thread, and is one C call. What comes first counts; what comes later is dropped.
    """

    packed: bytes
    started: float
    deadline: float
    # Defaults of the class: most exchanges never change these.
    wanted = 0
    """0 for a single command, whose reply is not a list."""
    left = False
    resent = False
    """Whether its caller was told to send it again elsewhere."""
    quiet = False
    """Whether errors among its replies are its caller's affair alone."""
    sent = 0.0
    """When it was written, if it is to tell how far the server is."""


put = SimpleQueue.put
"""Hands an exchange its reply."""


def successor(queue: list[Exchange]) -> Exchange | None:
    """Wake and return the first that waits; it takes the mutex, which the caller holds, before it looks around."""
    for follower in queue:
        # Who has been sent something looks around without being told.
        if not follower.left and follower.empty():
            follower.put(LEAD)
            return follower
    return None


def first_wait(left: float) -> float:
    """Return how many seconds a follower with so many ``left`` sleeps before it looks around."""
    return max(0.0, min(left, _LOOK_AGAIN))
