"""Tracks the commands that change a dedicated connection, so that no later borrower sees the change.

A connection that a command has changed (SELECT, a raw MULTI, WATCH) is closed when it is returned. All sent commands
count: those sent by name, and those packed by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

from redispool_app.engine.protocol.commands import COMMANDS, leaves_state, sent_words


def leave_state(commands: Iterable[Sequence[Any]], *, ends_watch: bool = False) -> bool:
    """Whether these commands, sent in this order, leave a connection that is unfit for the next borrower.

    ``ends_watch``: the borrower ends WATCH by itself. A MULTI with its EXEC or DISCARD leaves no state.
    """
    in_multi = False
    for args in commands:
        name = args[0]
        if name.__class__ is str and (route := COMMANDS.get(name)) is not None and route.plain:
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
    """Return the commands that a borrower has packed itself; None if the data does not end with a whole command."""
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
"""Marks the end of the last command. It yields a reply of its own only if that command is complete."""


class TracksState:
    """Mixin for a connection class that calls ``account_for`` for each write, and counts the replies that it reads."""

    is_outdated = False
    """Whether it is closed when its caller returns it, or before the next caller gets it."""
    ends_watch = False
    """Whether its borrower ends WATCH by itself, as pipelines do."""
    replies_due = 0
    """Number of replies that its borrower has not read. They would reach the next borrower."""
    _known: bool | None = None
    """Whether the command that is being sent by name leaves state."""
    _packed: tuple[Any, bool, int] | None = None
    """The last commands packed here, whether they leave state, and how many they are."""

    def note_command(self, args: Sequence[Any]) -> None:
        """Note that one command, name first, is packed and sent next."""
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
        """Whether it must not serve another borrower."""
        return self.is_outdated or self.replies_due != 0
