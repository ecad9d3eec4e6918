"""A site served by a real server, in processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.servers import eventually, free_port

PROJECT = Path(__file__).resolve().parent.parent.parent
STRICT = ("-X", "dev", "-W", "error::ResourceWarning")
TRACES = ("Traceback", "ResourceWarning", "Exception ignored", "never retrieved", "was destroyed")


class Site:
    """A server process on a free port."""

    def __init__(self, directory, pool, settings="tests.sites.settings", **environment):
        self.port = free_port()
        self.pool = pool
        self.settings = settings
        self.environment = environment
        self.log = directory / "server.log"
        self.process = None

    def start(self, *arguments):
        arguments = [argument.format(port=self.port) for argument in arguments]
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": self.settings,
            "REDIS_POOL": json.dumps(self.pool),
            "HOME": str(self.log.parent),  # gunicorn keeps its control socket there
            **self.environment,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *STRICT, "-m", *arguments],
                cwd=PROJECT,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def serves(self):
        eventually(self._accepts_or_ended, 30)
        assert self.process.poll() is None, self.output
        return self

    def _accepts_or_ended(self):
        if self.process.poll() is not None:
            return True
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path, headers=None):
        """Return the status, the body and the process that answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers["X-Process"]
        finally:
            connection.close()

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self):
        """End it with all its workers, which would go on for seconds without the process that started them."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    @property
    def output(self):
        return self.log.read_text()

    def assert_clean(self):
        """No traceback and no warning, but those about the server's own listening socket."""
        listening = f"laddr=('127.0.0.1', {self.port})>"
        # Each warning has a line before it, which another process may have torn apart.
        excused = len(re.findall(f"ResourceWarning: unclosed <.*{re.escape(listening)}", self.output))
        lines = [line for line in self.output.splitlines() if not line.endswith(listening)]
        traces = [line for line in lines if any(trace in line for trace in TRACES)]
        torn = [line for line in traces if line.startswith("Exception ignored in: ")]
        assert traces == torn, self.output
        assert len(torn) <= excused, self.output
