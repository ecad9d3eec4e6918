"""Detects runtimes that the engine does not support, and refuses them before it waits or sends.

gevent that patches late, eventlet, and a free-threaded Python would each cause a hang or a timeout that looks like a
fault of Redis.
"""

from __future__ import annotations

import queue
import sys

_QUEUE_AT_IMPORT = queue.SimpleQueue


class UnsupportedRuntimeError(RuntimeError):
    """This process runs in a way that the engine does not support. The message names the cure."""


def refuse_unsupported_runtime() -> None:
    """Raise ``UnsupportedRuntimeError`` if threads, locks or the interpreter are not what the engine relies on.

    eventlet comes first, because it also replaces the queue. A greenlet that waits on an object created before the
    patching blocks all others of its thread for ever. gevent's own rule is to patch before all other imports. Single C
    calls take the place of locks here, and without the GIL they are not known to be atomic.
    """
    if _is_patched_by_eventlet():
        raise UnsupportedRuntimeError(
            "This process is patched by eventlet, which redispool_app does not support: use threads, gevent or "
            "asyncio, with gunicorn --worker-class gthread or gevent."
        )
    if queue.SimpleQueue is not _QUEUE_AT_IMPORT:
        raise UnsupportedRuntimeError(
            "The standard library was patched (gevent) after redispool_app was imported: call monkey.patch_all() "
            "first, with gunicorn's --preload at the top of its configuration file."
        )
    if not getattr(sys, "_is_gil_enabled", _yes)():
        raise UnsupportedRuntimeError(
            "This Python runs without its GIL, which redispool_app does not support yet: set PYTHON_GIL=1 in the "
            "environment, or use a build that is not free-threaded."
        )


def _is_patched_by_eventlet() -> bool:
    """Whether eventlet, if imported, has replaced sockets or threads."""
    patcher = sys.modules.get("eventlet.patcher")
    is_patched = getattr(patcher, "is_monkey_patched", None)
    return is_patched is not None and bool(is_patched("socket") or is_patched("thread"))


def _yes() -> bool:
    return True
