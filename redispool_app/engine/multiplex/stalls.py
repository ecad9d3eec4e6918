"""Detects stalled shared connections, chooses a connection meanwhile, and selects what is sent again. No I/O.

Normally there is one shared connection. It is stalled if replies are pending and none completes for a while, although
this process reads. The cause may be a held write (``CLIENT PAUSE``) or a large reply. A single waiting caller delays no
other, so its connection is stalled only after half of the timeout.

In a stall another connection is made. After the server has answered on it, new callers use it, and reads that wait
behind the stall are sent again there. A stopped server accepts no new connection, so nothing changes for its callers.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

import hiredis

from redispool_app.engine.health.server_mode import CLUSTER_NODES, HELLO, PING
from redispool_app.engine.protocol.commands import only_reads
from redispool_app.engine.runtime.single_flight import Flight, SingleFlight
from redispool_app.engine.stats.counters import HELD_BACK

SHORTEST = 0.02
"""A connection is never stalled before this many seconds without a reply ..."""

LONGEST = 1.0
"""... and always after this many, at any distance to the server."""

ALONE = 0.5
"""Share of a timeout after which a connection with a single caller is stalled.

The process must know before the timeout whether the server answers elsewhere. If it does, the timeout is no outage, and
a read is sent again.
"""

SURPLUS_IDLE = 2.0
"""Seconds after its last need when a connection beyond the first is closed."""

AGAIN_AFTER = 1.0
"""Seconds until the next attempt to make another connection, after one failed."""

LONGEST_WIDENING = 5.0
"""Seconds after which an attempt to make another connection is taken over: its event loop may have lost a step."""

_CHECKS = (PING + HELLO, CLUSTER_NODES)
"""Commands of a health check. By name alone, these commands could do more than read."""

_OWN_READS = ((b"CLIENT", b"LIST"), (b"SLOWLOG", b"GET"))
"""Commands of the status page and the worker list.

By their first words alone, these commands could do more than read, so a caller's own are treated as writes.
"""

_MOST_PARSED = 256 * 1024
"""A pipeline of more bytes than this is not examined, and waits where it is."""


def stall_after(connecting: float) -> float:
    """Return the seconds without a reply after which a connection is stalled that took ``connecting`` seconds to make.

    Connecting takes two round trips or more, so this is at least four of them.
    """
    return min(LONGEST, max(SHORTEST, 2 * connecting))


def patience(stall_after: float, round_trip: float) -> float:
    """Return ``stall_after`` in seconds, or less if the shortest round trip on the connection (seconds) allows it.

    Connecting may have taken long because this process was starting. A value above ``LONGEST`` was not measured, and
    stays.
    """
    return stall_after if stall_after > LONGEST else min(stall_after, max(SHORTEST, 4 * round_trip))


def reads_only(packed: bytes, commands: int, own: bool = False) -> bool:
    """Whether packed commands only read, so that they may be sent twice. ``commands`` is 1, or more for a pipeline.

    ``own``: the app itself sends them, and no caller.
    """
    if packed in _CHECKS:
        return True
    if commands <= 1 and not own:
        return only_reads(packed[:80].split(b"\r\n", 3)[2])
    if len(packed) > _MOST_PARSED:
        return False
    reader = hiredis.Reader()
    reader.feed(packed)
    sent = list(iter(reader.gets, False))
    names = [command[0] for command in sent if not (own and tuple(command[:2]) in _OWN_READS)]
    return all(name in (b"MULTI", b"EXEC") or only_reads(name) for name in names)


class Lanes:
    """The shared connections of one event loop, or of all threads, that take new commands; at most ``most``."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: list[Any] = []
        self.widening: SingleFlight[None] = SingleFlight()
        """The attempt to make another connection. Only one runs at a time."""
        self.widen_not_before = 0.0
        self.keeping: SingleFlight[None] = SingleFlight()
        """The thread that leads this closes connections that are not needed. One such thread is enough."""

    @property
    def usable(self) -> list[Any]:
        """The connections that are not closed."""
        return [each for each in list(self.open) if not each.closed]

    @property
    def free(self) -> list[Any]:
        """The connections that are not stalled."""
        return [each for each in self.usable if each.stalled is None]

    def are_answered_since(self, moment: float) -> bool:
        """Whether the server has answered on a connection that is not stalled since ``moment`` (monotonic seconds)."""
        return any(each.last_received > moment for each in self.free)

    def have_passed(self, connection: Any) -> bool:
        """Whether the server has answered on another connection since this one is stalled."""
        others = [each for each in self.usable if each is not connection]
        return connection.stalled is not None and any(each.last_received > connection.stalled_at for each in others)

    def is_held_back(self, connection: Any, timeout: float | None) -> bool:
        """Whether the server lives and holds writes on a connection back: it has recently answered on another one.

        ``timeout`` is that of a reply, in seconds.
        """
        if timeout is None or connection.stalled != HELD_BACK:
            return False
        return self.are_answered_since(max(connection.stalled_at, monotonic() - timeout / 2))

    def lead_past(self, connection: Any) -> None:
        """Let reads that wait on a stalled connection be sent again on another one that the server answers on.

        A connection made for an earlier stall proves nothing: the server may be slow for all, and would run every slow
        read twice. So a single read goes first, and its reply is the proof.
        """
        connection.send_reads_elsewhere(only_one=not self.are_answered_since(connection.stalled_at))

    @property
    def are_stalled(self) -> bool:
        """Whether any connection is stalled."""
        return any(each.stalled is not None for each in self.usable)

    def add(self, connection: Any) -> None:
        self.forget_closed()
        self.open.append(connection)

    def forget_closed(self) -> None:
        """Remove connections that have been closed."""
        for each in list(self.open):
            if each.closed:
                self.remove(each)

    def remove(self, connection: Any) -> bool:
        """Remove a connection. Return whether it was here."""
        with suppress(ValueError):
            self.open.remove(connection)
            return True
        return False

    def usual(self) -> Any:
        """Return the connection that all callers may use. None if several are open, or none."""
        lanes = self.usable
        if len(lanes) == 1 or not self.are_stalled or not self.free:
            return lanes[0] if lanes else None
        return None

    def choose(self, *, reads: bool) -> Any:
        """Return the connection for a command. None if none is open.

        A write never takes the last free connection: the server may be about to hold that one back as well.
        """
        lanes, free = self.usable, self.free
        if not lanes:
            return None
        if not free:
            return lanes[0]
        if not reads:
            held_back = [each for each in lanes if each.stalled == HELD_BACK]
            if held_back:
                return held_back[0]
            if len(free) == 1 and len(lanes) >= self.most:
                return next(each for each in lanes if each is not free[0]) if len(lanes) > 1 else free[0]
        return free[0]

    def may_widen(self, now: float) -> bool:
        """Whether to make another connection: all are stalled, the limit is not reached, and no attempt is running."""
        if self.free or len(self.usable) >= self.most or now < self.widen_not_before:
            return False
        attempt = self.widening.latest
        return attempt.is_over or now - attempt.began > LONGEST_WIDENING

    def may_lead_widening(self, own: Flight[None]) -> bool:
        """Whether the owner of ``own`` makes the connection, and no other caller."""
        return self.widening.join(own, LONGEST_WIDENING) is own
