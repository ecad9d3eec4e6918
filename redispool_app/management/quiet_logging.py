"""Keeps a command from telling the same fault twice: in its own words, and as Python's logging of last resort."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_last_resort() -> Iterator[None]:
    """Where the project logs nothing of this app, keep Python from printing to stderr what the app logs."""
    logger, silence = logging.getLogger("redispool_app"), logging.NullHandler()
    if not logger.hasHandlers():
        logger.addHandler(silence)
    try:
        yield
    finally:
        logger.removeHandler(silence)
