"""Notices what commands change about a dedicated connection, so that no later borrower meets it.

A connection that a command has changed (SELECT, a raw MULTI, WATCH) is closed when it is given back. What counts is
what is sent: by name, or packed by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

from redispool_app.engine.protocol.commands import ROUTES, leaves_state, sent_words


def leave_state(commands: Iterable[Sequence[Any]], *, ends_watch: bool = False) -> bool:
    """Whether these commands, sent in this order, leave a connection that is unfit for the next borrower.

    ``ends_watch``: the borrower ends by itself what WATCH begins. A MULTI with its EXEC or DISCARD leaves nothing.
    """
    in_multi = False
    for args in commands:
        name = args[0]
        if name.__class__ is str and (route := ROUTES.get(name)) is not None and route.plain:
            continue
        word = "".join(sent_words(args, 1))
        if word == "MULTI":
            in_multi = True
        elif word in ("EXEC", "DISCARD"):
            in_multi = False
        elif leaves_state(args) and not (ends_watch and word == "WATCH"):
            return True
    return in_multi


def commands_in(packed: Any) -> list[list[bytes]] | None:
    """Return the commands that a borrower has packed itself; None where that is not a number of whole commands."""
    pieces = [packed] if isinstance(packed, str | bytes | bytearray | memoryview) else packed
    reader = hiredis.Reader()
    try:
        for piece in pieces:
            reader.feed(piece if isinstance(piece, str | bytes) else bytes(memoryview(piece)))
        reader.feed(_END)
        *commands, end = list(iter(reader.gets, False))
    except (hiredis.HiredisError, TypeError, ValueError):
        return None
    are_whole = end == b"end" and all(isinstance(each, list) and each for each in commands)
    return commands if are_whole else None


_END = b"+end\r\n"
"""Follows the last command: part of a reply of its own only where that command is whole."""


class TracksState:
    """Mix into a connection class that asks ``account_for`` about each write, and notes the replies that it reads."""

    is_outdated = False
    """Whether it is closed when its caller gives it back, or before the next one gets it."""
    ends_watch = False
    """Whether its borrower ends by itself what WATCH begins, as pipelines do."""
    replies_due = 0
    """How many replies its borrower has still to read: what is due would reach the next borrower."""
    _known: bool | None = None
    """Whether the command that is being sent by its name leaves state."""
    _packed: tuple[Any, bool, int] | None = None
    """The commands that were packed here last, whether they leave state, and how many they are."""

    def note_command(self, args: Sequence[Any]) -> None:
        """One command, name first, is packed and sent next."""
        self._known = leave_state((args,), ends_watch=self.ends_watch)

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        listed = list(commands)
        packed = super().pack_commands(listed)  # type: ignore[misc]
        self._packed = (packed, leave_state(listed, ends_watch=self.ends_watch), len(listed))
        return packed

    def account_for(self, command: Any) -> tuple[bool, int]:
        """Return whether packed commands, which are sent next, leave state, and how many replies they get."""
        known, packed = self._known, self._packed
        self._known = self._packed = None
        if known is not None:
            return known, 1
        if packed is not None and packed[0] is command:
            return packed[1:]
        commands = commands_in(command)
        if commands is None:
            return True, 0
        return leave_state(commands, ends_watch=self.ends_watch), len(commands)

    @property
    def is_spoilt(self) -> bool:
        """Whether it may serve no other borrower."""
        return self.is_outdated or self.replies_due != 0
