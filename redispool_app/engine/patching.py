"""Whether somebody (gevent) has replaced what threads wait on after this package had been imported."""

from __future__ import annotations

import queue

_QUEUE_AT_IMPORT = queue.SimpleQueue


def refuse_late_patching() -> None:
    """Raise ``RuntimeError`` if the standard library was patched too late.

    A greenlet that waits on what was there before holds up all others of its thread, for ever. gevent's own rule is to
    patch before anything else is imported.
    """
    if queue.SimpleQueue is not _QUEUE_AT_IMPORT:
        raise RuntimeError(
            "The standard library was patched (gevent) after redispool_app was imported: call monkey.patch_all() "
            "first, with gunicorn's --preload at the top of its configuration file."
        )
