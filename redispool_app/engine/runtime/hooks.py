"""Calls foreign code that must not affect the caller: log handlers, listeners, callbacks.

Code that holds a lock, a role or a place in a queue must not call ``tell``: the hook may block, and may call Redis.
Such code puts the call into an ``Untold`` for later, when nothing is held.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import ParamSpec

P = ParamSpec("P")

Untold = deque[Callable[[], object]]
"""Calls that are still to be made, in order. Each function makes one."""

logger = logging.getLogger("redispool_app.hooks")

INTERVAL = 10.0
"""Seconds after a report in which further errors of hooks are counted and not reported."""

_silent_until = -float("inf")
_left_out = 0


def tell(hook: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call ``hook``. Its exception is logged and goes no further.

    An exception that is no ``Exception``, such as ``KeyboardInterrupt``, is raised: it is not the hook's.
    """
    try:
        hook(*args, **kwargs)
    except Exception as error:
        _report(hook, error)


def tell_all(untold: Untold) -> None:
    """Make the calls gathered in ``untold``, each once."""
    while untold:
        try:
            hook = untold.popleft()
        except IndexError:
            return  # another caller makes it
        tell(hook)


def _report(hook: Callable[..., object], error: Exception) -> None:
    global _silent_until, _left_out
    now = monotonic()
    if now < _silent_until:
        _left_out += 1
        return
    left_out, _left_out, _silent_until = _left_out, 0, now + INTERVAL
    name = getattr(hook, "__qualname__", type(hook).__name__)
    try:
        logger.error(
            "%s raised %s (%d more were not logged).",
            name,
            type(error).__name__,
            left_out,
            exc_info=error,
            extra={"hook": name, "left_out": left_out},
        )
    except Exception:
        # Logging itself fails. ``logging`` writes its handlers' errors there, too.
        if logging.raiseExceptions and sys.stderr is not None:
            try:
                traceback.print_exception(error, file=sys.stderr)
            except Exception:
                return  # there is no place left to report it
