"""One scrape for all processes: each answers on a Unix socket in ``PROMETHEUS_MULTIPROC_DIR`` when it is scraped.

A web server's workers share a port, so a scrape reaches a random one. That worker asks the others. So all numbers are
of the same moment, cost nothing between scrapes, and end with their process: a dead process accepts no connection.
Nothing is done unless this variable of prometheus_client is set.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from redispool_app.engine.runtime import fork, threads
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.hooks import tell
from redispool_app.engine.stats.log_throttle import LogThrottle

from .collect import PoolReading, take

logger = logging.getLogger("redispool_app.metrics")

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX, _SUFFIX = "redispool-", ".sock"
_PATIENCE = 1.0
"""Seconds for all processes together to answer. A later answer is missing from this scrape."""
_BACKLOG = 16
_LONGEST_ANSWER = 8 * 1024 * 1024
_LONGEST_PATH = 100
"""Bytes. A socket's address holds 104 to 108, depending on the system."""


def directory() -> Path | None:
    """Return the directory that the processes share; None if the site has not named one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def gather(patience: float = _PATIENCE) -> list[PoolReading]:
    """Return the readings of all processes that answer within ``patience`` seconds, this one's first."""
    readings = take()
    shared = directory()
    if shared is None:
        return readings
    serve()
    deadline = monotonic() + patience
    with contextlib.ExitStack() as peers:
        asked = [peers.enter_context(peer) for path in _others(shared) if (peer := _ask(path)) is not None]
        # All have been asked before the first answer is read.
        for peer in asked:
            readings += _answer_of(peer, deadline)
    return readings


def serve() -> None:
    """Answer other processes from now on. May be called repeatedly. Does nothing without the variable."""
    if not mark[0]:
        fork.renew()
    if _responder.is_started or (shared := directory()) is None or not threads.may_start():
        return
    try:
        _responder.start(shared)
    except OSError as error:
        tell(
            logger.warning, "Only the process that is scraped shows its pools: %s: %s", shared, error.strerror or error
        )


class _Responder:
    """This process's socket and its thread."""

    def __init__(self) -> None:
        self._permits: list[None] = [None]
        """The caller that takes this starts the thread.

        Taking is one step: a signal handler may run here at any point.
        """
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    @property
    def is_started(self) -> bool:
        return not self._permits

    def start(self, shared: Path) -> None:
        """Open the socket and start the thread. Raises ``OSError``. Does not try again in this process."""
        try:
            self._permits.pop()
        except IndexError:
            return  # another caller was faster
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(shared / name) as address:
                listening.bind(address)
            # Only this user may read the metrics, whatever the umask is.
            (shared / name).chmod(0o600)
            listening.listen(_BACKLOG)
            # Others can find it only from here on. Earlier they would have taken it for a dead process's socket.
            self._path = (shared / name).rename(shared / (name + _SUFFIX))
        except OSError:
            listening.close()
            raise
        self._socket = listening
        threads.start(_answer_all, listening, name="redispool-metrics")

    def is_own(self, path: Path) -> bool:
        return path == self._path

    def stop(self) -> None:
        """Remove the socket."""
        if not mark[0]:
            fork.renew()
        if not self.is_started:
            return
        listening, self._socket = self._socket, None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
            listening.close()
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)
        self._permits = [None]

    def after_fork_in_child(self) -> None:
        """In a forked child: the socket belongs to the parent, which must not appear to live on here."""
        inherited, self._socket = self._socket, None
        self._path, self._permits = None, [None]
        if inherited is not None:
            inherited.close()


def _answer_all(listening: socket.socket) -> None:
    limit = LogThrottle()
    while True:
        try:
            peer, _ = listening.accept()
        except OSError:
            return  # stopped
        with peer:
            try:
                peer.settimeout(_PATIENCE)
                peer.sendall(json.dumps([reading.as_dict() for reading in take()]).encode())
            except OSError:
                pass  # the scrape has not waited
            except Exception as error:
                # The thread goes on: the next scrape may find what this one did not.
                text = "This process could not answer another one's scrape: %s: %s"
                limit.log(logger, logging.ERROR, text, type(error).__name__, error, extra={})


def _others(shared: Path) -> list[Path]:
    try:
        found = sorted(path for path in shared.iterdir() if path.name.startswith(_PREFIX) and path.suffix == _SUFFIX)
    except OSError:
        return []
    return [path for path in found if not _responder.is_own(path)]


def _ask(path: Path) -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.setblocking(False)
    try:
        with _address(path) as address:
            peer.connect(address)
        return peer
    except ConnectionRefusedError:
        # The process was killed before it could remove its socket.
        path.unlink(missing_ok=True)
    except OSError:
        pass  # too many processes ask it already, or it has just ended
    peer.close()
    return None


def _answer_of(peer: socket.socket, deadline: float) -> list[PoolReading]:
    received = bytearray()
    try:
        while len(received) < _LONGEST_ANSWER:
            peer.settimeout(max(0.001, deadline - monotonic()))
            part = peer.recv(65536)
            if not part:
                return [PoolReading.from_dict(each) for each in json.loads(received)]
            received += part
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        tell(logger.debug, "A process did not answer a scrape: %s", error)
    return []


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield the address for ``path`` in a socket call. The path may be longer than an address holds."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{path.name}"
    finally:
        os.close(parent)


_responder = _Responder()
atexit.register(_responder.stop)
fork.register(_responder.after_fork_in_child)
