"""Forks that Python does not hear of, as uWSGI's and those of C extensions: no ``os.register_at_fork`` hook runs."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import traceback
from collections.abc import Callable

_HELD = ctypes.PyDLL(None)
"""Calls C while this thread holds the interpreter's lock, which the child then has, too."""

_RELEASED = ctypes.CDLL(None)
"""Calls C without the interpreter's lock: only for a process in which no other thread runs Python meanwhile."""

BORN = b"born\n"
_PATIENCE = 45.0
_STILLBORN = 5.0
_watched: list[bool] = []
_HANGS = float(os.environ.get("HANGS", 30))


def fork(*, releasing: bool = False) -> int:
    """Fork in C; return what ``fork()`` does."""
    return int((_RELEASED if releasing else _HELD).fork())


def in_unheard_child(function: Callable[[], object], *, releasing: bool = False) -> str:
    """Run ``function`` in a child that Python does not hear of; return what it returns, as text.

    Another thread may have been inside the interpreter's own lock at the moment of the fork. Such a child cannot run
    any Python; it is ended, and another one forked.
    """
    while True:
        reading, writing = os.pipe()
        child = fork(releasing=releasing)
        if child == 0:
            speak_and_exit(function, writing)
        os.close(writing)
        said = hear(reading, child)
        if said is not None:
            return said


def say_born(writing: int) -> None:
    """In the child, first of all: say that it runs Python, and let it say where it hangs, if it does."""
    os.write(writing, BORN)
    if not _watched:
        # Not in a child of a child: it would wait for a watchdog that is not there.
        _watched.append(True)
        faulthandler.dump_traceback_later(_HANGS, exit=True, file=writing)


def speak_and_exit(function: Callable[[], object], writing: int, *, born: bool = False) -> None:
    """In the child: say that it runs, unless ``say_born`` has; then what ``function`` returns, and end."""
    code = 1
    try:
        if not born:
            say_born(writing)
        os.write(writing, str(function()).encode())
        code = 0
    except BaseException:
        os.write(writing, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


def hear(reading: int, child: int) -> str | None:
    """Return what a child says; None if it never ran. Raises ``AssertionError`` with its traceback if it failed."""
    said, patience = b"", _STILLBORN
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], patience)
            if not ready:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                if said.startswith(BORN):
                    raise AssertionError(f"the child hangs: {said!r}")
                return None
            part = pipe.read(65536)
            if not part:
                break
            said, patience = said + part, _PATIENCE
    _, status = os.waitpid(child, 0)
    text = said.removeprefix(BORN).decode()
    assert status == 0, text
    return text
