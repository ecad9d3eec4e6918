"""Keeps a command from reporting a fault twice: in its own output, and by Python's last-resort log handler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_last_resort() -> Iterator[None]:
    """Keep Python's last-resort handler from printing this app's log to stderr, if the project does not log it."""
    logger, silence = logging.getLogger("redispool_app"), logging.NullHandler()
    if not logger.hasHandlers():
        logger.addHandler(silence)
    try:
        yield
    finally:
        logger.removeHandler(silence)
