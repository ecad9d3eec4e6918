"""Keeps what callers can trigger often from filling a log: one message per subject and interval, with a count.

The rule: after a message about a subject the next ``INTERVAL`` seconds are silent about it; what was left out is
counted, and the next message says how many.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.hooks import tell

INTERVAL = 10.0
"""Seconds of silence after a message."""


class LogLimit:
    """One subject's permission to log. Safe for threads, costs a comparison while it is silent."""

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self._clock = clock
        self._after_fork_in_child()
        fork.register(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._silent_until = -float("inf")
        self._left_out = 0

    def log(self, logger: logging.Logger, level: int, text: str, *args: object, extra: dict[str, Any]) -> bool:
        """Log, or count it as left out; return whether it was logged. ``extra["left_out"]`` becomes the count.

        What a handler or filter raises goes no further.
        """
        now = self._clock()
        # No call from the comparison to the last store: neither another thread nor a signal handler comes between.
        if now < self._silent_until:
            self._left_out += 1
            return False
        left_out, self._left_out, self._silent_until = self._left_out, 0, now + self.interval
        if left_out:
            text, args = text + " (%d more were not logged).", (*args, left_out)
        else:
            text += "."
        tell(logger.log, level, text, *args, extra={**extra, "left_out": left_out})
        return True
