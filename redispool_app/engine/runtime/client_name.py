"""The name of this process's connections in the server's ``CLIENT LIST``: ``app:host:pid:alias``.

The server accepts printable ASCII without spaces (https://redis.io/docs/latest/commands/client-setname/). Only the app
may contain a colon, so the name is parsed from its end.
"""

from __future__ import annotations

import os
import re
import socket

_LONGEST = 100


def client_name(app: str, alias: str) -> str:
    """Return the name of a new connection of this process."""
    shown = re.sub(r"[^!-~]", "-", app)[:_LONGEST]
    return f"{shown or 'unknown'}:{host_name()}:{os.getpid()}:{_part(alias)}"


def host_name() -> str:
    """Return this machine's name as used in connection names."""
    return _part(socket.gethostname())


def _part(text: str) -> str:
    """Return the text with only word characters, dots and hyphens. It then separates no parts and no fields."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:_LONGEST] or "unknown"
