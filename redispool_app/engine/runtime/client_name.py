"""The name under which this process's connections stand in the server's ``CLIENT LIST``: ``app:host:pid:alias``.

The server takes printable ASCII without spaces (https://redis.io/docs/latest/commands/client-setname/). Only the app
may hold a colon, so the name is read from its end.
"""

from __future__ import annotations

import os
import re
import socket

_LONGEST = 100


def client_name(app: str, alias: str) -> str:
    """Return the name of a connection that is made now, in this process."""
    shown = re.sub(r"[^!-~]", "-", app)[:_LONGEST]
    return f"{shown or 'unknown'}:{host_name()}:{os.getpid()}:{_part(alias)}"


def host_name() -> str:
    """Return this machine's name as it stands in a connection's name."""
    return _part(socket.gethostname())


def _part(text: str) -> str:
    """Return what separates no parts and no fields: word characters, dots and hyphens."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:_LONGEST] or "unknown"
