"""One caller's request on a connection that threads share, and how the leader's role passes to the next caller."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

_LOOK_AGAIN = 0.5
"""Seconds between two checks of a follower whether its leader still leads."""

LEAD: Any = object()
"""Wakes a follower without a reply: the leader's role may be free."""


class InFlightLimitReached(Exception):  # noqa: N818 (the name says the state, as PoolQueueFull does)
    """The maximum number of callers is in flight."""


class PendingRequest(SimpleQueue[Any]):
    """One caller's command, or pipeline of ``wanted`` commands. Its queue receives the reply, the role, or both.

    Putting a value there wakes its thread, and is one C call. The first reply counts; later ones are dropped.
    """

    packed: bytes
    started: float
    deadline: float
    # Defaults on the class: most requests never change these.
    wanted = 0
    """0 for a single command, whose reply is not a list."""
    left = False
    resent = False
    """Whether its caller was asked to send it again on another connection."""
    quiet = False
    """Whether errors among its replies concern only its caller."""
    sent = 0.0
    """When it was written, if it measures the round trip to the server."""


put = SimpleQueue.put
"""Hands an request its reply."""


def successor(queue: list[PendingRequest]) -> PendingRequest | None:
    """Wake and return the first waiting request. The caller holds the mutex, which the woken thread takes first."""
    for follower in queue:
        # An request with something in its queue checks without being woken.
        if not follower.left and follower.empty():
            follower.put(LEAD)
            return follower
    return None


def first_wait(left: float) -> float:
    """Return how many seconds a follower with ``left`` seconds sleeps before its first check."""
    return max(0.0, min(left, _LOOK_AGAIN))
