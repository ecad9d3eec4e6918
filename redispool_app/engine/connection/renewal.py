"""When to replace a healthy shared connection: its lifetime is over, or a certificate changed.

The new connection is made first, so no caller waits for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from time import monotonic
from typing import Any

from redispool_app.engine.runtime.jitter import uniform

_LOOK_AFTER = 10.0
"""Seconds between two checks of certificate files."""

_AGAIN_AFTER = 30.0
"""Seconds until the next attempt, if no connection could be made."""

_FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Renewal:
    """Decides when the connection of one pool is due. ``look_at`` is in monotonic seconds, and read for each batch."""

    def __init__(self, pool: Any) -> None:
        kwargs: Mapping[str, Any] = pool.connection_kwargs
        self._lifetime: float | None = getattr(pool, "_max_lifetime", None)
        self._files = [path for name in _FILES if isinstance(path := kwargs.get(name), str | os.PathLike)]
        self._stamp: _Stamp = ()
        self._until = self.look_at = math.inf

    def before_connecting(self) -> _Stamp:
        """Return the present state of the files, for ``connected``: they may change while the connection is made."""
        return tuple(map(_stamp_of, self._files))

    def connected(self, stamp: _Stamp) -> None:
        """Note a new connection. Its lifetime is up to a tenth shorter, so that connections do not end together."""
        self._stamp = stamp
        self._until = math.inf
        if self._lifetime is not None:
            self._until = monotonic() + self._lifetime * uniform(0.9, 1.0)
        self._look_again(_LOOK_AFTER)

    def is_due(self) -> bool:
        """Whether to make a new connection now. Sets the time of the next check."""
        due = monotonic() >= self._until or self.has_new_files()
        self._look_again(_LOOK_AFTER)
        if due:
            self.look_at = monotonic() + _AGAIN_AFTER
        return due

    def has_new_files(self) -> bool:
        """Whether a certificate has been replaced since the connection was made."""
        return bool(self._files) and self.before_connecting() != self._stamp

    def _look_again(self, seconds: float) -> None:
        self.look_at = min(self._until, monotonic() + seconds if self._files else math.inf)


def _stamp_of(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
