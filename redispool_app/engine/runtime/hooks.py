"""Calls code of the project or of other packages that must not affect the caller: log handlers, listeners, callbacks.

Nothing that holds a lock, a role or a place in a queue may call ``tell``: the hook may block, and may call Redis. It
leaves what is to be told in an ``Untold``, for the moment when nothing is held any more.
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
"""What is still to be told, in its order. Each function tells one thing."""

logger = logging.getLogger("redispool_app.hooks")

INTERVAL = 10.0
"""After a report the next errors of hooks are counted, not reported, for so many seconds."""

_silent_until = -float("inf")
_left_out = 0


def tell(hook: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call ``hook``. An exception that it raises is logged and goes no further.

    An exception that is no ``Exception``, such as ``KeyboardInterrupt``, does: it is not the hook's.
    """
    try:
        hook(*args, **kwargs)
    except Exception as error:
        _report(hook, error)


def tell_all(untold: Untold) -> None:
    """Call what has gathered in ``untold``, each once."""
    while untold:
        try:
            hook = untold.popleft()
        except IndexError:
            return  # another caller tells it
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
        # Logging itself is what fails. ``logging`` writes its handlers' errors there, too.
        if logging.raiseExceptions and sys.stderr is not None:
            try:
                traceback.print_exception(error, file=sys.stderr)
            except Exception:
                return  # there is nowhere left to say it
