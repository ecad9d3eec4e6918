"""Keeps frequent events from filling a log: one message per subject and interval, with a count.

After a message about a subject, further messages about it are suppressed for ``INTERVAL`` seconds. They are counted,
and the next message contains the count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.hooks import tell

INTERVAL = 10.0
"""Seconds without another message after a message."""


class LogThrottle:
    """Limits the log messages about one subject.

    Safe for threads. While it suppresses messages it costs one comparison.
    """

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self._clock = clock
        self._after_fork_in_child()
        fork.register(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._silent_until = -float("inf")
        self._left_out = 0

    def log(self, logger: logging.Logger, level: int, text: str, *args: object, extra: dict[str, Any]) -> bool:
        """Log the message or count it as suppressed. Return whether it was logged.

        ``extra["left_out"]`` becomes the count. Exceptions of a log handler or filter go no further.
        """
        now = self._clock()
        # No call between the comparison and the last store: no other thread or signal handler can run there.
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
